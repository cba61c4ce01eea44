"""What is kept of a failure, without addresses, and when to try again."""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, assert_never

import msgspec

from receiver.dispatch.calling import Raised
from receiver.event import Event
from receiver.plugins.execution import Execution
from receiver.plugins.outcomes import Done, GiveUp, Outcome, RetryAfter, Skip
from receiver.printable import without_addresses

_LONGEST_MESSAGE: Final = 2_000
_LONGEST_TRACEBACK: Final = 20_000
_LONGEST_TYPE: Final = 200


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
    if isinstance(result, (Done, Skip)):
        return None
    attempts = failed_before + 1
    delay = None if attempts >= run.max_attempts else run.backoff(attempts)
    try:
        return _failure_of(event, result, attempts, delay)
    except Exception as error:  # noqa: BLE001 - an outcome of a handler's own class may be anything
        return _raised(event, attempts, delay, error)


def _failure_of(event: Event, result: RetryAfter | GiveUp | Raised, attempts: int, delay: float | None) -> Failure:
    match result:
        case RetryAfter():
            return _failure(event, "asked", attempts - 1, result.seconds, "RetryAfter", result.reason)
        case GiveUp():
            return _failure(event, "failed", attempts, None, "GiveUp", result.reason)
        case Raised():
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
    error_type, message, lines = _described(error)
    return Failure(
        event=event,
        cause="failed",
        attempts=attempts,
        delay=delay,
        error_type=clean(error_type, limit=_LONGEST_TYPE),
        error=scrub(message, event, limit=_LONGEST_MESSAGE),
        traceback=scrub(lines, event, limit=_LONGEST_TRACEBACK) if lines else None,
        raised=True,
    )


def _described(error: BaseException) -> tuple[str, str, str | None]:
    """Type, message and traceback. An error may be of a handler's own class, whose methods raise whatever they like."""
    try:
        return _type_name(error), message_of(error), "".join(traceback.format_exception(error))
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - the event has failed, described or not
        return "Exception", "the handler has raised an error that cannot be described: asking for its text raises", None


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


def plain(failure: Failure, refusal: Exception, stored: Event | None, run: Execution) -> Failure:
    """What can be kept of a failure that was refused as it was: words of ours, and the event as it is `stored`.

    A handler can have put anything into the event's lists and objects; where the log has it no more they are left out.
    """
    event = stored or msgspec.structs.replace(failure.event, tags=[], metadata={}, actor_reasons=None)
    why = f"this could not be kept as it was (has a handler changed its event?): {message_of(refusal)}"
    return replace(
        failure,
        event=event,
        delay=None if failure.delay is None else run.backoff(max(failure.attempts, 1)),
        error=scrub(why, event, limit=_LONGEST_MESSAGE),
        traceback=None,
    )


def scrub(text: str, event: Event, *, limit: int) -> str:
    """As `clean`, and without the event's addresses, whatever they look like."""
    for address in (event.recipient, event.sender):
        if address:
            text = re.sub(re.escape(address), "<address>", text, flags=re.IGNORECASE)
    return clean(text, limit=limit)


def scrub_all(text: str, events: Sequence[Event]) -> str:
    """A message without the addresses of any of the events."""
    for event in events:
        text = scrub(text, event, limit=_LONGEST_MESSAGE)
    return text


def clean(text: str, *, limit: int) -> str:
    """The text without addresses, and without what Postgres cannot store; its end is kept when it is too long."""
    text = without_addresses(text).replace("\x00", "").encode(errors="replace").decode()
    return text if len(text) <= limit else "..." + text[-limit:]
