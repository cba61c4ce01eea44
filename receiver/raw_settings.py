"""What `receiver.toml` and the environment say, merged, before anybody checks the values.

Our own reading, and not that of pydantic-settings, because a variable may name a file (`..._FILE`), one that
is no setting is an error, and a message about a value names the variable that it came from.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from receiver.errors import Problem

PREFIX: Final = "RECEIVER_"
NESTED: Final = "__"
TABLES: Final = ("sources", "handlers", "accounts", "rules")  # tables with names of the user's own
SECTIONS: Final = ("retention", "alerts", "privacy", "policy", "sending", "pages")  # tables of settings
LARGEST_FILE: Final = 1 << 20  # bytes of a file that holds one setting

# Named like settings, but not settings. Kubernetes sets the last ones where a service is called "receiver".
_NO_SETTING: Final = re.compile(
    r"RECEIVER_(CONFIG|TEST_.*|BENCH_.*|SERVICE_HOST|SERVICE_PORT(_.*)?|PORT_\d+_(TCP|UDP).*)"
)


@dataclass(slots=True)
class Raw:
    """`values` by key; `origins`: dotted key -> the environment variable that set it."""

    values: dict[str, Any] = field(default_factory=dict, repr=False)
    origins: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read_raw(path: Path, environ: Mapping[str, str], *, required: bool) -> Raw:
    """The file, with the environment over it. `required`: a missing file is a problem, not an empty one."""
    raw = Raw()
    written = _read_toml(path, required=required, problems=raw.problems)
    given = _read_environment(environ, written, raw)
    raw.values = _merge(written, given)
    return raw


def read_setting_file(path: object, key: str) -> str | Problem:
    """The content of a file that holds one setting, without the newline at its end.

    The path is not repeated in problems: by mistake it may be the secret itself.
    """
    right = "Name a readable UTF-8 file that holds the value and nothing else"
    if not isinstance(path, str) or not path.strip():
        return Problem(key, "is not the path of a file", right)
    try:
        with Path(path).open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            return Problem(key, "names a file that is too large", right)
        return content.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except FileNotFoundError:
        return Problem(key, "names a file that is not there", right)
    except (OSError, ValueError) as error:  # also a NUL in the path, and content that is no UTF-8
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        return Problem(key, f"names a file that can't be read: {why}", right)


def resolve_files(table: Mapping[str, Any], names: Iterable[str], prefix: str) -> tuple[dict[str, Any], list[Problem]]:
    """`table` with the content of `x_file` as `x`, for each `x` in `names`; a list of files gives a list."""
    resolved, problems = dict(table), list[Problem]()
    known = set(names)
    for name in known:
        file_key = f"{name}_file"
        if file_key in known or file_key not in resolved:
            continue
        paths = resolved.pop(file_key)
        if name in resolved:
            right = f"Keep one of {name} and {file_key}"
            problems.append(Problem(f"{prefix}{name}", f"is given twice, also as {file_key}", right))
            continue
        read = [read_setting_file(path, f"{prefix}{file_key}") for path in _listed(paths)]
        problems += [one for one in read if isinstance(one, Problem)]
        resolved[name] = read if isinstance(paths, list) else read[0]
    return resolved, problems


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _read_toml(path: Path, *, required: bool, problems: list[Problem]) -> dict[str, Any]:
    right = "Give the path of a TOML file; `receiver init` writes one"
    try:
        return tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        if required:
            problems.append(Problem(str(path), "is not there", right))
    except tomllib.TOMLDecodeError as error:
        problems.append(Problem(str(path), f"is not TOML: {error}", 'Texts stand in quotes: host = "127.0.0.1"'))
    except UnicodeDecodeError:
        problems.append(Problem(str(path), "is not UTF-8", right))
    except OSError as error:
        problems.append(Problem(str(path), f"can't be read: {error.strerror}", right))
    return {}


def _read_environment(environ: Mapping[str, str], written: Mapping[str, Any], raw: Raw) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if url := environ.get("DATABASE_URL"):
        given["database"] = url
        raw.origins["database"] = "DATABASE_URL"
    # Shorter names first: a whole table as JSON may be refined by variables for single keys.
    for variable in sorted(environ, key=lambda name: (name.count(NESTED), name)):
        if variable.upper().startswith(PREFIX) and not _NO_SETTING.fullmatch(variable.upper()):
            keys = _keys(variable, written)
            value = _table(environ[variable], keys, variable, raw.problems)
            if value is not None:
                _note_origins(raw.origins, keys, value, variable)
                given = _merge(given, _nested(keys, value))
    return given


def _keys(variable: str, written: Mapping[str, Any]) -> list[str]:
    """`RECEIVER_SOURCES__MY_SHOP__KEY` -> sources, my-shop, key, where the file has a source `my-shop`."""
    name = variable[len(PREFIX) :].lower()
    keys = name.split(NESTED)
    if keys[0] not in (*TABLES, *SECTIONS):
        return [name]
    if keys[0] in TABLES and len(keys) > 1 and isinstance(written.get(keys[0]), dict):
        same = [name for name in written[keys[0]] if name.lower().replace("-", "_") == keys[1]]
        keys[1] = same[0] if len(same) == 1 else keys[1]
    return keys


def _table(value: str, keys: list[str], variable: str, problems: list[Problem]) -> object:
    """The value as written; where it stands for a whole table (`RECEIVER_SOURCES`), decoded from JSON."""
    if len(keys) > (2 if keys[0] in TABLES else 1 if keys[0] in SECTIONS else 0):
        return value
    try:
        decoded = json.loads(value)
    except ValueError:
        decoded = None
    if isinstance(decoded, dict):
        return decoded
    one = f"{PREFIX}{keys[0].upper()}__{'NAME__' if keys[0] in TABLES else ''}KEY"
    right = f"Set one value, such as {one}, or a JSON object"
    problems.append(Problem(".".join(keys), f"is not a JSON object (from {variable})", right))
    return None


def _note_origins(origins: dict[str, str], keys: list[str], value: object, variable: str) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _note_origins(origins, [*keys, key], inner, variable)
    else:
        origins[".".join(keys)] = variable


def _nested(keys: list[str], value: object) -> dict[str, Any]:
    nested = {keys[-1]: value}
    for key in reversed(keys[:-1]):
        nested = {key: nested}
    return nested


def _merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """`upper` over `lower`; `x` above also replaces `x_file` below, and the other way round."""
    merged = dict(lower)
    for key, value in upper.items():
        merged.pop(key.removesuffix("_file") if key.endswith("_file") else f"{key}_file", None)
        below = lower.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
