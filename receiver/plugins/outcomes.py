"""What a handler may answer. Returning nothing means `Done()`; raising anything means "try again later"."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeAlias

_LONGEST: Final = timedelta(days=366)  # an event that waits keeps its partition from being dropped


@dataclass(frozen=True, slots=True)
class Done:
    """Handled; the handler's changes are committed."""


@dataclass(frozen=True, slots=True)
class Skip:
    """Nothing to do for this event, and why. The handler's changes, if any, are committed."""

    reason: str


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """Not now: roll back what this event changed and hand it over again after `delay` (seconds, or a timedelta).

    Does not count as a failed attempt. A batch handler speaks for the whole batch: nothing is handed to it for so long.
    Raises TypeError or ValueError where that is no delay, or one of over a year.
    """

    delay: timedelta | float
    reason: str = ""

    def __post_init__(self) -> None:
        check(self)

    @property
    def seconds(self) -> float:
        return max(_seconds(self.delay), 0.0)


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Never again: roll back what this event changed and keep it as a dead letter for a person to look at.

    Raises TypeError where the reason is no text.
    """

    reason: str

    def __post_init__(self) -> None:
        check(self)


Outcome: TypeAlias = Done | Skip | RetryAfter | GiveUp


def check(outcome: RetryAfter | GiveUp) -> None:
    """Raises TypeError or ValueError, in words for the handler's author, where it says nothing that can be kept."""
    if isinstance(outcome, RetryAfter):
        _seconds(outcome.delay)
    if not isinstance(outcome.reason, str):
        raise TypeError(f"{type(outcome).__name__} wants a text as its reason, got {outcome.reason!r}")


def _seconds(delay: timedelta | float) -> float:
    try:
        seconds = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"RetryAfter wants a number of seconds, or a timedelta, got {delay!r}") from None
    if math.isnan(seconds) or seconds > _LONGEST.total_seconds():
        raise ValueError(f"RetryAfter wants seconds from now, those of {_LONGEST.days} days at most, got {delay!r}")
    return seconds
