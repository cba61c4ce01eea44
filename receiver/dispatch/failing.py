"""What is kept of a failure, without addresses, and when to try again."""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass
from typing import Final, assert_never

from receiver.dispatch.calling import Raised
from receiver.event import Event
from receiver.plugins.execution import Execution
from receiver.plugins.outcomes import Done, GiveUp, Outcome, RetryAfter, Skip
from receiver.printable import without_addresses

_LONGEST_MESSAGE: Final = 2_000
_LONGEST_TRACEBACK: Final = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One event that was not handled.

    `delay`: seconds until it is due again; None: never. `raised`: by an exception or a time limit, not by an outcome.
    """

    event: Event
    cause: str
    attempts: int
    delay: float | None
    error_type: str
    error: str
    traceback: str | None = None
    raised: bool = False


def failure_of(event: Event, result: Outcome | Raised, *, failed_before: int, run: Execution) -> Failure | None:
    """What is to be kept of a call's result; None where the event is handled."""
    match result:
        case Done() | Skip():
            return None
        case RetryAfter():
            return _failure(event, "asked", failed_before, result.seconds, "RetryAfter", result.reason)
        case GiveUp():
            return _failure(event, "failed", failed_before + 1, None, "GiveUp", result.reason)
        case Raised():
            attempts = failed_before + 1
            delay = None if attempts >= run.max_attempts else run.backoff(attempts)
            return _raised(event, attempts, delay, result.error)
        case _:
            assert_never(result)


def _failure(event: Event, cause: str, attempts: int, delay: float | None, error_type: str, reason: str) -> Failure:
    return Failure(
        event=event,
        cause=cause,
        attempts=attempts,
        delay=delay,
        error_type=error_type,
        error=scrub(reason, event, limit=_LONGEST_MESSAGE),
    )


def _raised(event: Event, attempts: int, delay: float | None, error: BaseException) -> Failure:
    lines = "".join(traceback.format_exception(error))
    return Failure(
        event=event,
        cause="failed",
        attempts=attempts,
        delay=delay,
        error_type=_type_name(error),
        error=scrub(message_of(error), event, limit=_LONGEST_MESSAGE),
        traceback=scrub(lines, event, limit=_LONGEST_TRACEBACK),
        raised=True,
    )


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def message_of(error: BaseException) -> str:
    """The error's own words; a time limit has none."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an exception class of a handler may fail to describe itself
        text = ""
    return text or ("took too long" if isinstance(error, TimeoutError) else type(error).__name__)


def scrub(text: str, event: Event, *, limit: int) -> str:
    """As `clean`, and without the event's addresses, whatever they look like."""
    for address in (event.recipient, event.sender):
        if address:
            text = re.sub(re.escape(address), "<address>", text, flags=re.IGNORECASE)
    return clean(text, limit=limit)


def clean(text: str, *, limit: int) -> str:
    """The text without addresses, and without what Postgres cannot store; its end is kept when it is too long."""
    text = without_addresses(text).replace("\x00", "").encode(errors="replace").decode()
    return text if len(text) <= limit else "..." + text[-limit:]
