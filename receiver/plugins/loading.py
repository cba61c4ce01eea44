"""Finding handlers: files of a directory, and installed packages that the configuration names."""

from __future__ import annotations

import importlib.util
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from receiver.errors import ConfigError, Problem
from receiver.plugins.execution import TABLE, Execution
from receiver.plugins.handlers import Handler

GROUP: Final = "receiver.handlers"


def load_handlers(
    handlers_dir: Path | None,
    *,
    packages: Sequence[str] = (),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[Handler, ...]:
    """Every handler of the directory's files and of the named distributions, with its settings bound.

    Files whose name starts with an underscore are left out; a directory of None loads none. `settings` are the tables
    `[handlers.<name>]`; an opt-in handler without one is left out. Raises ConfigError with every problem found: what
    fails to import, says nothing, has the name of another, or has wrong settings; its cause is the first exception.
    """
    problems = _Problems()
    found = [*_of_files(handlers_dir, problems), *_of_packages(packages, problems)]
    unique = _unique(found, problems)
    wanted = [one for one in unique if not one.opt_in or one.name in (settings or {})]
    bound = [_bound(one, settings or {}, problems) for one in wanted]
    if not problems.found:  # what could not be loaded may well have been the table's handler
        _check_tables(unique, settings or {}, problems)
    problems.raise_if_any()
    return tuple(bound)


class _Problems:
    def __init__(self) -> None:
        self.found: list[Problem] = []
        self.cause: BaseException | None = None

    def add(self, key: str, wrong: str, right: str, cause: BaseException | None = None) -> None:
        self.found.append(Problem(key, wrong, right))
        self.cause = self.cause or cause

    def raise_if_any(self) -> None:
        if self.found:
            raise ConfigError(self.found) from self.cause


def _of_files(directory: Path | None, problems: _Problems) -> Iterator[Handler]:
    if directory is None:
        return
    if not directory.is_dir():
        problems.add("handlers_dir", f"there is no directory {directory}", "Make it, or name the right one.")
        return
    for path in sorted(directory.glob("*.py")):
        if not path.name.startswith("_"):
            yield from _of_file(path, problems)


def _of_file(path: Path, problems: _Problems) -> list[Handler]:
    try:
        namespace = _run(path)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a handler's file may raise anything
        wrong = f"could not be loaded, {_where(error, path)}{type(error).__name__}: {error}"
        problems.add(str(path), wrong, "Correct it, or move it out of the directory of handlers", error)
        return []
    found = [replace(one, origin=str(path)) for one in _handlers_in(namespace)]
    if not found:
        right = "Decorate a function with @handler(...), or let the file's name start with an underscore"
        problems.add(str(path), "holds no handler", right)
    return found


def _run(path: Path) -> Mapping[str, Any]:
    """The file's names after running it. Its directory is not put on sys.path."""
    # In sys.modules, as dataclasses and pydantic look there for annotations; the digest keeps directories apart.
    digest = sha256(str(path.resolve().parent).encode()).hexdigest()[:8]
    name = f"receiver_handlers_{digest}_{re.sub(r'[^A-Za-z0-9_]', '_', path.stem)}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:  # Ctrl-C too: nothing half done stays behind
        del sys.modules[name]
        raise
    return vars(module)


def _where(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError) and error.lineno:
        return f"line {error.lineno}: "
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"line {lines[-1]}: " if lines else ""


def _handlers_in(namespace: Mapping[str, Any]) -> list[Handler]:
    return list({id(value): value for value in namespace.values() if isinstance(value, Handler)}.values())


def _of_packages(packages: Sequence[str], problems: _Problems) -> Iterator[Handler]:
    points = list(entry_points(group=GROUP)) if packages else []
    for package in packages:
        mine = [one for one in points if one.dist is not None and _same(one.dist.name, package)]
        if not mine:
            right = f'Install it; its entry points of the group "{GROUP}" name its handlers'
            problems.add("handler_packages", f"no installed package {package!r} offers handlers", right)
        for point in mine:
            yield from _of_entry_point(point, package, problems)


def _same(one: str, other: str) -> bool:
    """Names of distributions are equal whatever their case and separators (PEP 503)."""
    normal = re.compile(r"[-_.]+")
    return normal.sub("-", one).lower() == normal.sub("-", other).lower()


def _of_entry_point(point: EntryPoint, package: str, problems: _Problems) -> list[Handler]:
    key = f"{package} ({point.value})"
    try:
        loaded = point.load()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a package may raise anything
        wrong = f"could not be loaded, {type(error).__name__}: {error}"
        problems.add(key, wrong, "Correct or update the package", error)
        return []
    found = [loaded] if isinstance(loaded, Handler) else _handlers_in(getattr(loaded, "__dict__", {}))
    if not found:
        problems.add(key, "is neither a handler nor a module that holds one", "Correct or update the package")
    return [replace(one, origin=key) for one in found]


def _unique(handlers: Iterable[Handler], problems: _Problems) -> list[Handler]:
    named: dict[str, Handler] = {}
    for one in handlers:
        first = named.setdefault(one.name, one)
        if first is not one:
            right = "Give one of them another name with @handler(name=...)"
            problems.add(one.origin, f"the handler {one.name!r} exists already in {first.origin}", right)
    return list(named.values())


def _bound(one: Handler, tables: Mapping[str, Mapping[str, Any]], problems: _Problems) -> Handler:
    values = dict(tables.get(one.name, {}))
    table = values.pop(TABLE, {})
    one = replace(one, run=_overridden(one, table, problems))
    if one.settings_type is None:
        return one
    key = f"handlers.{one.name}"
    _check_keys(key, one.settings_type, values, problems)
    return replace(one, settings=_validated(one.settings_type, values, key, one.origin, problems))


def _overridden(one: Handler, table: object, problems: _Problems) -> Execution:
    """How it is run: what its author chose, with the operator's table over it."""
    key = f"handlers.{one.name}.{TABLE}"
    if not isinstance(table, Mapping):
        problems.add(key, "is not a table", f"Write [{key}] and below it, for example, timeout = 60")
        return one.run
    _check_keys(key, Execution, table, problems)
    found = _validated(Execution, one.run.model_dump() | dict(table), key, "", problems)
    return found or one.run


M = TypeVar("M", bound=BaseModel)


def _validated(model: type[M], values: Mapping[str, Any], key: str, origin: str, problems: _Problems) -> M | None:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        for detail in error.errors(include_input=False, include_url=False, include_context=False):
            where = ".".join((key, *map(str, detail["loc"])))
            right = f"See the settings of {origin}" if origin else _meaning(model, detail["loc"])
            problems.add(where, detail["msg"], right)
        return None


def _meaning(model: type[BaseModel], place: Sequence[int | str]) -> str:
    info = model.model_fields[str(place[0])]
    return f"It is {info.description}; the default is {info.default}"


def _check_keys(key: str, model: type[BaseModel], values: Mapping[str, Any], problems: _Problems) -> None:
    """Refuse keys that the model does not know: pydantic would ignore a mistyped one."""
    if model.model_config.get("extra") is not None:
        return
    known = {text for field, info in model.model_fields.items() for text in (field, info.alias) if text}
    for word in values.keys() - known:
        problems.add(f"{key}.{word}", "is not known", f"It knows: {', '.join(sorted(known)) or 'nothing'}")


def _check_tables(handlers: Sequence[Handler], tables: Mapping[str, Mapping[str, Any]], problems: _Problems) -> None:
    known = {one.name: one for one in handlers}
    for name, table in tables.items():
        if name not in known:
            right = f"There are: {', '.join(sorted(known)) or 'none'}"
            problems.add(f"handlers.{name}", "there is no such handler", right)
        elif known[name].settings_type is None and table.keys() - {TABLE}:
            right = f"Remove them; how it is run is said in [handlers.{name}.{TABLE}]"
            problems.add(f"handlers.{name}", "the handler takes no settings", right)
