"""Lengths of time as people write and read them: `15m`, `18 minutes`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

from pydantic import BeforeValidator

_WRITTEN: Final = re.compile(r"(\d{1,6})\s*(s|m|min|h|d|w)")
_UNITS: Final = {"s": "seconds", "m": "minutes", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SPOKEN: Final = (("day", 86400, 3), ("hour", 3600, 3), ("minute", 60, 1), ("second", 1, 1))


def read_duration(text: str) -> timedelta:
    """`30s`, `15m`, `2h`, `7d`, `2w`. Raises ValueError."""
    found = _WRITTEN.fullmatch(text.strip().lower())
    if found is None or not int(found[1]):
        raise ValueError("is not a length of time")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def read_moment(text: str, now: datetime) -> datetime:
    """A time: `2h` (that long before now), `2026-01-31`, `2026-01-31T12:00Z`. Without a zone it is UTC.

    Raises ValueError.
    """
    try:
        if _WRITTEN.fullmatch(text.strip().lower()):
            return now - read_duration(text)
        found = datetime.fromisoformat(text.strip())
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        message = "is no time: say how long ago (30m, 2h, 7d) or when (2026-01-31, 2026-01-31T12:00Z)"
        raise ValueError(message) from None


def say_duration(length: timedelta) -> str:
    """`42 minutes`, `1 hour`, `5 days`: whole units, the largest of which there are a few."""
    seconds = max(int(length.total_seconds()), 0)
    for unit, size, least in _SPOKEN:
        if seconds >= size * least or size == 1:
            count = seconds // size
            return f"{count} {unit}{'' if count == 1 else 's'}"
    raise AssertionError("a second is the smallest unit")


def _validated(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("is not a length of time in quotes")  # noqa: TRY004 - pydantic takes ValueError alone
    return read_duration(value)


Duration = Annotated[timedelta, BeforeValidator(_validated)]
