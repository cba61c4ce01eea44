"""`[sending]`: when mail may go out, and how often to one person."""

from __future__ import annotations

import re
from datetime import time, timedelta
from pathlib import Path
from typing import Annotated, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from receiver.durations import Duration

_QUIET: Final = re.compile(r"(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})")


def _quiet(value: object) -> object:
    """(from, until), which may be the next day."""
    if value is None or isinstance(value, tuple):
        return value
    found = _QUIET.fullmatch(value.strip()) if isinstance(value, str) else None
    try:
        start, end = (time(int(found[n]), int(found[n + 1])) for n in (1, 3)) if found else (time(), time())
    except ValueError:
        start = end = time()
    if start == end:
        raise ValueError("is not such as 22:00-06:00")
    return start, end


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: a directory, such as "Europe"
        raise ValueError("is not a time zone such as Europe/Vienna") from None
    return value


class SendingSettings(BaseModel):
    """The table `[sending]`. Hours and limits for a person concern marketing mail alone."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    concurrency: int = Field(10, ge=1, le=200, description="messages that one process sends at the same time")
    deadline: Duration = Field(
        timedelta(days=3), description="how long a message is held or tried, from when it is due", examples=["3d"]
    )
    max_attempts: int = Field(12, ge=1, le=100, description="attempts after which a message has failed")
    quiet_hours: Annotated[tuple[time, time] | None, BeforeValidator(_quiet)] = Field(
        None,
        description="when marketing mail waits, in the time zone of the contact",
        examples=["22:00-06:00"],
    )
    time_zone: Annotated[str, AfterValidator(_zone)] = Field(
        "UTC", description="the time zone of contacts that have none of their own", examples=["Europe/Vienna"]
    )
    per_day: int | None = Field(3, ge=1, description="marketing messages to one person in 24 hours")
    per_week: int | None = Field(10, ge=1, description="marketing messages to one person in 7 days")
    reconcile: Duration = Field(
        timedelta(minutes=10),
        description="how long a transactional message with an unknown outcome waits for word of the provider "
        "until it goes again",
        examples=["10m"],
    )
    templates_dir: Path = Field(Path("templates"), description="directory with your templates", examples=["templates"])
