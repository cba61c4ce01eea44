"""The handlers that the configuration names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from receiver.errors import ConfigError, Problem
from receiver.plugins.handlers import Handler
from receiver.plugins.loading import load_handlers
from receiver.settings import Settings


def find_handlers(settings: Settings) -> tuple[tuple[Handler, ...], ConfigError | None]:
    """The handlers, and what is wrong with them; its cause is the first exception that one of them raised."""
    try:
        found = load_handlers(_directory(settings), packages=settings.handler_packages, settings=settings.handlers)
    except ConfigError as error:
        return (), error
    ours, problems = _ours(settings)
    return ((*found, *ours), None) if not problems else ((), ConfigError(problems))


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
