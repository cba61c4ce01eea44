"""How long what is stored is kept: the table `[retention]`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

FOREVER: Final = "forever"
_KEEP: Final = re.compile(r"(\d{1,5})\s*(d|w|y)")
_DAYS: Final = {"d": 1, "w": 7, "y": 365}


def _keep(value: object) -> object:
    """None means for ever."""
    if value is None or isinstance(value, timedelta):
        return value
    text = value.strip().lower() if isinstance(value, str) else ""
    if text == FOREVER:
        return None
    found = _KEEP.fullmatch(text)
    if found is None or int(found[1]) == 0:
        raise ValueError("is not a length of time")
    return timedelta(days=int(found[1]) * _DAYS[found[2]])


def _ids_keep(value: object) -> object:
    keep = _keep(value)
    if isinstance(keep, timedelta) and keep < timedelta(days=45):
        raise ValueError("is too short: a provider's retry or a replay of its log would be stored a second time")
    return keep


Keep = Annotated[timedelta | None, BeforeValidator(_keep)]


class RetentionSettings(BaseModel):
    """`[retention]`. A length is whole days (`90d`), weeks (`12w`) or years (`2y`); None, written `forever`: always."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    partitions: Literal["month", "week", "day"] = Field(
        "month",
        description="how long the partitions of events are that are made from now on: `month`, `week` or `day` "
        "(for more than a million events a day)",
        examples=["month"],
    )
    events: Keep = Field(
        None, description="how long events are kept; goes by whole partitions", examples=[FOREVER, "400d"]
    )
    raw: Keep = Field(
        None, description="how long the provider's own object of an event is kept", examples=[FOREVER, "90d"]
    )
    ids: Annotated[timedelta | None, BeforeValidator(_ids_keep)] = Field(
        timedelta(days=45),
        description="how long a second delivery of an event is recognized, at least 45d",
        examples=["45d"],
    )
    refused: Keep = Field(timedelta(days=30), description="how long refused requests are kept", examples=["30d"])
    quarantine_resolved: Keep = Field(
        timedelta(days=30), description="how long released and discarded quarantine is kept", examples=["30d"]
    )
    quarantine_open: Keep = Field(
        None, description="how long quarantine is kept that nobody has looked at", examples=[FOREVER, "1y"]
    )
    dead_letters: Keep = Field(
        timedelta(days=90), description="how long retried and discarded dead letters are kept", examples=["90d"]
    )
    alerts: Keep = Field(timedelta(days=90), description="how long alerts that have ended are kept", examples=["90d"])
    sends: Keep = Field(
        None,
        description="how long sends are kept after they have ended or become unknown; a key that is gone can be queued "
        "again",
        examples=[FOREVER, "1y"],
    )
    audit_log: Keep = Field(
        None, description="how long it is kept who revealed or changed something", examples=[FOREVER, "2y"]
    )


def keep_text(keep: timedelta | None) -> str:
    """As the settings write it."""
    return FOREVER if keep is None else f"{keep.days}d"
