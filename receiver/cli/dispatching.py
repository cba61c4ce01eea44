"""The handlers that the configuration names."""

from __future__ import annotations

from pathlib import Path

from receiver.errors import ConfigError
from receiver.plugins.handlers import Handler
from receiver.plugins.loading import load_handlers
from receiver.settings import Settings


def find_handlers(settings: Settings) -> tuple[tuple[Handler, ...], ConfigError | None]:
    """The handlers, and what is wrong with them; its cause is the first exception that one of them raised."""
    try:
        return load_handlers(_directory(settings), packages=settings.handler_packages, settings=settings.handlers), None
    except ConfigError as error:
        return (), error


def _directory(settings: Settings) -> Path | None:
    """None where there is no directory and nobody has named one."""
    named = "handlers_dir" in settings.model_fields_set
    return settings.handlers_dir if named or settings.handlers_dir.is_dir() else None
