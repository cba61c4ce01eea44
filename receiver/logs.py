"""Logging: structlog to standard error, for people or as JSON lines."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, Final, Literal

import structlog
from structlog.typing import EventDict, WrappedLogger

from receiver.printable import printable, without_addresses

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["console", "json"]

# Libraries that write URLs, statements or addresses at their lower levels.
_QUIET: Final = ("asyncio", "asyncpg", "httpcore", "httpx", "uvicorn", "uvicorn.access", "uvicorn.error")
_TRACES: Final = ("exception", "stack")

SAID: Final = "said"  # action of a sentence that a handler logged without naming one
_ACTION: Final = re.compile(r"[a-z][a-z0-9_]*")


def set_up_logs(level: Level = "info", format_: Format = "console") -> None:
    """Send structlog's and the standard library's logs to standard error.

    Every line carries an `action`, fixed for what happened, and keys. Whatever came from outside is escaped, and
    addresses are shown by debug lines alone; tracebacks show no variables, since those may hold secrets.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        name_action,
        hide_addresses,
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


def name_action(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """A processor: every line has an `action` that machines can go by.

    It is the event's own name, unless that is a sentence; a library's line goes by the name of its logger.
    """
    if "action" not in event:
        record, text = event.get("_record"), str(event.get("event"))
        event["action"] = record.name if record else text if _ACTION.fullmatch(text) else SAID
    return event


def hide_addresses(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """A processor: what is written at info and above holds no mail address, whoever wrote it."""
    return event if event["level"] == "debug" else {key: _without_addresses(value) for key, value in event.items()}


def _without_addresses(value: Any) -> Any:
    if isinstance(value, str):
        return without_addresses(value)
    if isinstance(value, Mapping):
        return {without_addresses(str(key)): _without_addresses(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_without_addresses(item) for item in value]
    plain = value is None or isinstance(value, (bool, int, float, logging.LogRecord))
    return value if plain else without_addresses(str(value))


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
