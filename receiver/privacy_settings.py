"""What is not to be stored of any event: the table `[privacy]`."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from receiver.faults import did_you_mean, split_list

# What nothing here depends on. Judgements that rest on them (`actor`, `bounce_class`) are made before they go.
DROPPABLE: Final = (
    "client_ip", "country", "diagnostic", "internet_message_id", "metadata", "provider_event_id", "raw", "remote_mta",
    "sender", "sender_domain", "sending_ip", "subject", "tags", "url", "user_agent",
)  # fmt: skip
_NEEDED: Final = {
    "recipient": "contacts and suppressions rest on it",
    "recipient_domain": "bounces are watched by it",
    "message_id": "a message's events belong together by it",
}


def _check(names: list[str]) -> list[str]:
    for name in names:
        if name in _NEEDED:
            raise ValueError(f"holds {name}, which cannot be left out: {_NEEDED[name]}")
        if name not in DROPPABLE:
            hint = did_you_mean(name, DROPPABLE)
            raise ValueError(f"holds what is no column that can be left out{hint}; known: {', '.join(DROPPABLE)}")
    return names


def _listed(value: object) -> object:
    return split_list(value) if isinstance(value, str) else value


class PrivacySettings(BaseModel):
    """`[privacy]`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    drop: Annotated[list[str], BeforeValidator(_listed), AfterValidator(_check)] = Field(
        [],
        description="columns of `events` that are never stored; without `raw`, `receiver reprocess` has nothing "
        "to read",
        examples=[["client_ip", "user_agent"]],
    )
