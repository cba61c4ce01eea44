"""The handlers that the configuration names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from receiver.errors import ConfigError, Problem
from receiver.plugins.filters import Filter
from receiver.plugins.handlers import Handler
from receiver.plugins.loading import load_handlers
from receiver.settings import Settings
from receiver.store.replays import Accepts


def find_handlers(settings: Settings) -> tuple[tuple[Handler, ...], ConfigError | None]:
    """The handlers, and what is wrong with them; its cause is the first exception that one of them raised."""
    try:
        found = load_handlers(_directory(settings), packages=settings.handler_packages, settings=settings.handlers)
    except ConfigError as error:
        return (), error
    ours, problems = _ours(settings)
    return ((*found, *ours), None) if not problems else ((), ConfigError(problems))


def find_filters(settings: Settings, names: Sequence[str]) -> tuple[dict[str, Accepts], str]:
    """The own filters of these handlers, as data; and a text that names those whose code was not found, or none."""
    handlers, fault = find_handlers(settings)
    found = {one.name: _as_data(one.filter) for one in handlers if one.name in names}
    missing = ", ".join(name for name in names if name not in found)
    first = f", as {fault.problems[0].key} {fault.problems[0].wrong} (`receiver check`)" if fault else ""
    return found, missing and f"the code of {missing} was not found from here{first}"


def _as_data(one: Filter) -> Accepts:
    return Accepts(
        types=sorted(map(str, one.types)) or None,
        providers=sorted(one.provider) or None,
        sources=sorted(one.source) or None,
        streams=sorted(one.stream) or None,
        tags=sorted(one.tag) or None,
        machines=one.machines,
        tests=one.tests,
    )


def _ours(settings: Settings) -> tuple[Sequence[Handler], Sequence[Problem]]:
    """Those that sending brings: rules, and the one that hears from providers what became of messages."""
    if not settings.accounts and not settings.rules:
        return (), ()
    from receiver.sending import proving
    from receiver.sending.rules import find_rules, handlers_of

    rules, problems = find_rules(settings)
    return [*handlers_of(rules), *([proving.HANDLER] if settings.accounts else [])], problems


def _directory(settings: Settings) -> Path | None:
    """None where there is no directory and nobody has named one."""
    named = "handlers_dir" in settings.model_fields_set
    return settings.handlers_dir if named or settings.handlers_dir.is_dir() else None
