"""`receiver serve --demo`: one source for every provider, with secrets of its own, for trying the service.

They are generated once and kept in the data directory, together with the keys that the simulator signs with.
Nothing else in this package makes secrets up: a service that is not a demo refuses to start without them.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr

from receiver.private_files import read_json, write_json
from receiver.providers import provider, provider_names
from receiver.settings import EMBEDDED, Settings

DEMO_FILE: Final = "demo.json"
FILES: Final = "demo"  # directory for files that a provider's demo settings name
_DIRECTORY: Final = "{directory}"  # stands for it in the file, so that the data directory can be moved


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """`sources`: raw tables as in `[sources.<name>]`. `keys`: what the simulator signs with, by source."""

    secret_key: str = field(repr=False)
    sources: Mapping[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    keys: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)


def make_demo(data_dir: Path) -> Demo:
    """The demo of this data directory, whose lock the caller holds; new providers are added. Raises OSError."""
    found = read_demo(data_dir)
    demo = found or Demo(secret_key=secrets.token_urlsafe(48))
    missing = [name for name in provider_names() if name not in demo.sources]
    if found and not missing:
        return found
    directory = data_dir / FILES
    directory.mkdir(mode=0o700, exist_ok=True)
    made = {name: provider(name).simulation.demo(directory.absolute()) for name in missing}
    demo = Demo(
        secret_key=demo.secret_key,
        sources={**demo.sources, **{name: {"provider": name, **made[name][0]} for name in missing}},
        keys={**demo.keys, **{name: made[name][1] for name in missing}},
    )
    _write(data_dir, demo)
    return demo


def read_demo(data_dir: Path) -> Demo | None:
    """What an earlier `make_demo` kept, or None."""
    kept = read_json(data_dir / DEMO_FILE)
    if kept is None or not isinstance(kept.get("secret_key"), str):
        return None
    kept = _replaced(kept, _DIRECTORY, str((data_dir / FILES).absolute()))
    return Demo(secret_key=kept["secret_key"], sources=kept.get("sources", {}), keys=kept.get("keys", {}))


def with_demo(settings: Settings, demo: Demo) -> Settings:
    """Settings with the demo's sources beside those configured, its secret key and the embedded database.

    What the configuration says itself stays. `DATABASE_URL` does not count: it is often that of another
    program, and a demo must not fill somebody else's database.
    """
    foreign = settings.origin("database") == "DATABASE_URL"
    return settings.model_copy(
        update={
            "database": SecretStr(EMBEDDED) if settings.database is None or foreign else settings.database,
            "secret_key": settings.secret_key or SecretStr(demo.secret_key),
            "sources": {**demo.sources, **settings.sources},
        }
    )


def _write(data_dir: Path, demo: Demo) -> None:
    kept = {"secret_key": demo.secret_key, "sources": demo.sources, "keys": demo.keys}
    write_json(data_dir / DEMO_FILE, _replaced(kept, str((data_dir / FILES).absolute()), _DIRECTORY))


def _replaced(value: Any, old: str, new: str) -> Any:
    if isinstance(value, str):
        return value.replace(old, new)
    if isinstance(value, list):
        return [_replaced(item, old, new) for item in value]
    if isinstance(value, Mapping):
        return {key: _replaced(item, old, new) for key, item in value.items()}
    return value
