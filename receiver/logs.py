"""Logging: structlog to standard error, for people or as JSON lines."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any, Final, Literal

import structlog
from structlog.typing import EventDict, WrappedLogger

from receiver.printable import printable

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["console", "json"]

# Libraries that write URLs, statements or addresses at their lower levels.
_QUIET: Final = ("asyncio", "asyncpg", "httpcore", "httpx", "uvicorn", "uvicorn.access", "uvicorn.error")
_TRACES: Final = ("exception", "stack")


def set_up_logs(level: Level = "info", format_: Format = "console") -> None:
    """Send structlog's and the standard library's logs to standard error.

    Events carry a fixed `action` and keys. Whatever came from outside is escaped; tracebacks show no variables,
    since those may hold secrets.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        escape,
    ]
    renderer = _json() if format_ == "json" else _console()
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared))
    logging.basicConfig(level=number, handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))


def escape(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """A processor: no value can forge a line or drive the terminal. A traceback keeps its lines."""
    return {
        key: "\n".join(map(printable, str(value).split("\n"))) if key in _TRACES else _escaped(value)
        for key, value in event.items()
    }


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable(str(key)): _escaped(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_escaped(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float)) else printable(str(value))


def _json() -> structlog.processors.JSONRenderer:
    return structlog.processors.JSONRenderer(ensure_ascii=True)


def _console() -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, sort_keys=False
    )
