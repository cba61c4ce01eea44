"""What a handler may answer. Returning nothing means `Done()`; raising anything means "try again later"."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias


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

    Does not count as a failed attempt.
    """

    delay: timedelta | float
    reason: str = ""

    @property
    def seconds(self) -> float:
        delay = self.delay.total_seconds() if isinstance(self.delay, timedelta) else self.delay
        return max(float(delay), 0.0)


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Never again: roll back what this event changed and keep it as a dead letter for a person to look at."""

    reason: str


Outcome: TypeAlias = Done | Skip | RetryAfter | GiveUp
