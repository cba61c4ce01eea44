"""Times as people's and providers' files write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final

_SECONDS: Final = re.compile(r"\d{9,10}(\.\d+)?")
_MILLISECONDS: Final = re.compile(r"\d{12,13}")
_SPACED: Final = re.compile(r" ([+-]\d{2}:?\d{2})$")
_AHEAD: Final = timedelta(days=1)  # clocks and time zones that were left out
_FIRST: Final = datetime(1990, 1, 1, tzinfo=UTC)  # there was no such mail before


class WrongTime(ValueError):
    """It cannot be read as a time, or cannot be the time of what people have said."""


def time_in(value: Any, *, now: datetime) -> datetime | None:
    """ISO 8601, RFC 5322, or seconds or milliseconds since 1970; None where it is empty. Without a zone it is UTC.

    `03/04/2026` is not read: nobody knows which is the month. Raises WrongTime.
    """
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    found = _read(text)
    if not _FIRST <= found <= now + _AHEAD:
        raise WrongTime("the time lies in the future, or before there was such mail")
    return min(found, now)


def _read(text: str) -> datetime:
    try:
        if _SECONDS.fullmatch(text):
            return datetime.fromtimestamp(float(text), UTC)
        if _MILLISECONDS.fullmatch(text):
            return datetime.fromtimestamp(int(text) / 1000, UTC)
        if text[0].isalpha():
            return _aware(parsedate_to_datetime(text))
        return _aware(datetime.fromisoformat(_SPACED.sub(r"\1", text.removesuffix(" UTC"))))
    except (ValueError, OverflowError, OSError) as error:
        raise WrongTime("the time cannot be read: write 2026-01-31, or 2026-01-31T12:00Z") from error


def _aware(found: datetime) -> datetime:
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
