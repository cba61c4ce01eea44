"""`[rules.<name>]`: a message that follows when something has happened, or has not."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from receiver.durations import Duration
from receiver.event import BounceCategory, EventType

NOT_OPENED: Final = "not_opened"
SILENT: Final = "silent"
_TYPES: Final = tuple(one.value for one in EventType)
_UNLESS: Final = re.compile(rf"({'|'.join(_TYPES)})(:[^\s:]{{1,100}})?")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,57}")


def _when(value: str) -> str:
    if value not in (*_TYPES, NOT_OPENED, SILENT):
        raise ValueError(f"is none of: {', '.join((*_TYPES, NOT_OPENED, SILENT))}")
    return value


def _unless(value: list[str]) -> list[str]:
    for one in value:
        if not _UNLESS.fullmatch(one):
            raise ValueError(f"{one!r} is not an event type, or one with a tag such as clicked:offer")
    return value


class RuleSettings(BaseModel):
    """One rule. What is not said about the event does not matter."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    when: Annotated[str, AfterValidator(_when)] = Field(
        description="an event type; `not_opened`: delivered, and no person has opened it in the time of `after`; "
        "`silent`: no person has opened or clicked anything for that time"
    )
    send: str = Field(description="name of the template", examples=["welcome-2"])
    after: Duration | None = Field(None, description="how long after it the message goes", examples=["2d"])
    unless: Annotated[list[str], AfterValidator(_unless)] = Field(
        [], description="what makes the message pointless until then", examples=[["unsubscribed", "clicked:offer"]]
    )
    tag: str | None = Field(None, description="the event's message has this tag", examples=["welcome"])
    source: str | None = Field(None, description="the event's source")
    event_stream: str | None = Field(None, description="the kind of mail", examples=["transactional"])
    event_topic: str | None = Field(None, description="the event's topic")
    campaign: str | None = Field(None, description="the event's campaign")
    url: str | None = Field(None, description="a part of the link that was clicked", examples=["/pricing"])
    bounce_category: BounceCategory | None = Field(None, description="the bounce's category", examples=["hard"])
    once_per: Literal["message", "contact"] = Field(
        "message", description="whether a person gets it once for each message, or once at all"
    )
    topic: str | None = Field(None, description="what the message is about; else as the template says")
    stream: Literal["marketing", "transactional"] | None = Field(None, description="likewise")

    @model_validator(mode="after")
    def _check_after(self) -> Self:
        least = {NOT_OPENED: timedelta(hours=1), SILENT: timedelta(days=1)}.get(self.when)
        if least is not None and (self.after is None or self.after < least):
            raise ValueError(f"needs `after` with when = {self.when!r}, such as 72h or 90d")
        return self


def rule_name_fits(name: str) -> bool:
    """Whether a rule can have that name: it stands in its handler's."""
    return _NAME.fullmatch(name) is not None
