"""The handler `sends`: an event that carries our id of a send proves that the provider has taken the message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from receiver.event import Event, EventType
from receiver.plugins.context import Context
from receiver.plugins.filters import Filter
from receiver.plugins.handlers import Handler
from receiver.sending.api import SEND_ID
from receiver.store import outbox

NAME: Final = "sends"

# The others say that the provider has taken nothing, or are not about a message of ours.
_PROOFS: Final = frozenset(EventType) - {EventType.REJECTED, EventType.FAILED, EventType.INBOUND, EventType.UNKNOWN}


async def prove(events: Sequence[Event], ctx: Context) -> None:
    """Settle messages of which nobody knew whether they were sent."""
    told: dict[UUID, str | None] = {}
    for event in events:
        if (id_ := send_id_of(event)) is not None:  # not every event of a message has its id
            told[id_] = event.message_id or told.get(id_)
    await outbox.prove(ctx.sql, sorted(told.items(), key=lambda one: one[0]))


def send_id_of(event: Event) -> UUID | None:
    """Our id of the message that the event is about; None: it is none of ours, or nobody can be sure."""
    found = event.metadata.get(SEND_ID)
    if not isinstance(found, str) or event.attribution is not None:
        return None
    try:
        return UUID(found)
    except ValueError:
        return None


HANDLER: Final = Handler(
    name=NAME, function=prove, filter=Filter(types=_PROOFS, machines=True), batch=True, origin="receiver"
)
