"""The recorded requests in `tests/fixtures/providers/<name>/`, and what is expected of them.

`provider.toml`:
    now                the clock under which the requests are fresh
    window             seconds a signed time may be old by default; 0 where nothing that ages is signed
    [settings]         as in `[sources.<name>]`; `certificates` are relative to the folder
    [keys]             the simulator's keys that fit the settings
    signature_headers  headers that prove the sender: each must be needed, unharmed
    signature_in_body  paths of the body's fields that prove the sender (of a form: the last name of the path)
    covered_in_body    paths of further fields that the signature covers
    query              what follows `?` in the URL of each recorded request that has no line of its own for it
    volatile           paths in an item of what may differ between an event and its repetition

`<word>[__variant].http`: header lines, an empty line, and exactly the body's bytes; where the URL's query is the
request's own, a line `?query` goes before. `<the same>.json`:
`{"events": [{column: value, ...}], "unreadable": 0}`; a column that is not named must be empty.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

from receiver.contract import Authentic, Delivery, Item, Provider, UnreadableItem, World
from receiver.errors import Unavailable
from receiver.event import Reading
from receiver.providers import providers

FOLDER: Final = Path(__file__).parent / "fixtures" / "providers"
NOT_STORED: Final = frozenset({"identity", "identity_time"})
RENAMED: Final = {"word": "provider_type", "verdict": "provider_verdict"}

Path_ = Sequence[str]
_FIELDS: Final = msgspec.structs.fields(Reading)


@dataclass(frozen=True, kw_only=True)
class Folder:
    """One provider's `provider.toml`."""

    name: str
    now: datetime
    window: float
    settings: Mapping[str, Any] = field(repr=False)
    keys: Mapping[str, str] = field(repr=False)
    signature_headers: Sequence[str]
    signature_in_body: Sequence[Path_]
    covered_in_body: Sequence[Path_]
    volatile: Sequence[Path_]
    query: str

    @property
    def kind(self) -> type[Provider]:
        return providers()[self.name]

    def provider(self, *, later: timedelta = timedelta(), **changed: object) -> Provider:
        """The provider with the folder's settings, at the folder's time or later."""
        settings = self.kind.Settings.model_validate({"provider": self.name, **self.settings, **changed})
        return self.kind(settings, World(fetch=_no_fetch, now=lambda: self.now + later))


@dataclass(frozen=True, kw_only=True)
class Fixture:
    """One recorded request and the events expected of it."""

    folder: Folder
    name: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    expected: Mapping[str, Any] = field(repr=False)
    query: str = ""

    @property
    def word(self) -> str:
        return self.name.partition("__")[0]

    def delivery(
        self,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        query: str | None = None,
        later: timedelta = timedelta(),
    ) -> Delivery:
        return Delivery(
            source=self.folder.name,
            headers=self.headers if headers is None else headers,
            body=self.body if body is None else body,
            query=self.query if query is None else query,
            at=self.folder.now + later,
        )


async def _no_fetch(url: str, *, max_bytes: int = 65536) -> bytes:
    raise Unavailable(f"tests fetch nothing: {url} ({max_bytes})")


def folder_names() -> list[str]:
    return sorted(path.name for path in FOLDER.iterdir() if path.is_dir() and any(path.iterdir()))


@cache
def folder(name: str) -> Folder:
    """Raises KeyError for a `provider.toml` without `now`, `window` or `[settings]`."""
    found = tomllib.loads((FOLDER / name / "provider.toml").read_text())
    settings = dict(found["settings"])
    if "certificates" in settings:
        settings["certificates"] = [str(FOLDER / name / path) for path in settings["certificates"]]
    return Folder(
        name=name,
        now=found["now"],
        window=found["window"],
        settings=settings,
        keys=found.get("keys", {}),
        signature_headers=[header.lower() for header in found.get("signature_headers", [])],
        signature_in_body=found.get("signature_in_body", []),
        covered_in_body=found.get("covered_in_body", []),
        volatile=found.get("volatile", []),
        query=found.get("query", ""),
    )


def folders() -> list[Folder]:
    return [folder(name) for name in folder_names()]


@cache
def fixtures(name: str) -> list[Fixture]:
    return [_load(path) for path in sorted((FOLDER / name).glob("*.http"))]


def all_fixtures() -> list[Fixture]:
    return [fixture for name in folder_names() for fixture in fixtures(name)]


def _load(path: Path) -> Fixture:
    head, blank, body = path.read_bytes().partition(b"\n\n")
    assert blank, f"{path} has no empty line after its headers"
    written = head.decode().splitlines()
    here = folder(path.parent.name)
    query = written.pop(0)[1:] if written[0].startswith("?") else here.query
    lines = [line.partition(":") for line in written]
    return Fixture(
        folder=here,
        query=query,
        name=path.stem,
        headers={name.strip().lower(): value.strip() for name, _, value in lines},
        body=body,
        expected=json.loads(path.with_suffix(".json").read_text()),
    )


async def read_delivery(provider: Provider, delivery: Delivery) -> tuple[list[Reading], int]:
    """(readings, number of unreadable items) of an authentic delivery."""
    found = await provider.authenticate(delivery)
    return readings_of(provider, found)


def readings_of(provider: Provider, found: Authentic) -> tuple[list[Reading], int]:
    items = list(provider.parse(found.payload))
    good = [item for item in items if isinstance(item, Item)]
    return [reading for item in good for reading in provider.read(item)], len(items) - len(good)


async def items_of_fixture(fixture: Fixture) -> list[Item]:
    provider = fixture.folder.provider()
    found = await provider.authenticate(fixture.delivery())
    return [item for item in provider.parse(found.payload) if not isinstance(item, UnreadableItem)]


def columns(reading: Reading) -> dict[str, Any]:
    """What a reading says beyond its defaults, by the names of the stored columns; times as ISO text."""
    found = {}
    for info in _FIELDS:
        value = getattr(reading, info.name)
        default = None if info.default is msgspec.NODEFAULT else info.default
        if info.name not in NOT_STORED and not _empty(value, default):
            found[RENAMED.get(info.name, info.name)] = _plain(value)
    return found


def expected_columns(event: Mapping[str, Any]) -> dict[str, Any]:
    """An expected event with the stored columns' names; `identity` may be named for people, but has its own tests."""
    named = {RENAMED.get(name, name): value for name, value in event.items() if name not in NOT_STORED}
    return {name: value for name, value in named.items() if not _empty(value, None)}


def _empty(value: object, default: object) -> bool:
    return value is None or value is False or value == default or value in ((), [], {})


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return list(value) if isinstance(value, tuple) else value


def same_columns(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Equal, where times are compared as moments and not as text."""
    return _moments(left) == _moments(right)


def _moments(event: Mapping[str, Any]) -> dict[str, Any]:
    time = event.get("occurred_at")
    return dict(event) | ({"occurred_at": datetime.fromisoformat(time)} if isinstance(time, str) else {})


def changed(value: Any, path: Path_, new: Any) -> Any:
    """A copy of a JSON value with another value at a path that exists; else the same value."""
    if not path:
        return new
    if isinstance(value, dict) and path[0] in value:
        return value | {path[0]: changed(value[path[0]], path[1:], new)}
    return value


def removed(value: Any, path: Path_) -> Any:
    """A copy of a JSON value without the member at a path."""
    if isinstance(value, dict) and path[0] in value:
        if len(path) == 1:
            return {key: member for key, member in value.items() if key != path[0]}
        return value | {path[0]: removed(value[path[0]], path[1:])}
    return value


def at(value: Any, path: Iterable[str]) -> Any:
    """The value at a path, None where there is none."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value
