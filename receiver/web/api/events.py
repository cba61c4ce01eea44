"""`/events`: what happened, the newest first."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal, get_type_hints
from uuid import UUID

from pydantic import ConfigDict, Field, create_model

from receiver.event import Event as Stored
from receiver.event import EventType
from receiver.store import event_pages
from receiver.store.queries import get_event as stored_event
from receiver.web.api.operations import Answered, Asked, Call, Found, Listing, Operation, Page
from receiver.web.api.problems import not_found
from receiver.web.api.values import EmailAddress, Moment

_INTERNAL: Final = frozenset({"shard", "gen", "txid", "position", "raw"})
_NAMES: Final = tuple(name for name in Stored.__struct_fields__ if name not in _INTERNAL)
_TYPES: Final = get_type_hints(Stored)
Text = Annotated[str, Field(max_length=1000)]


class _Event(Answered):
    """The columns of `events`, without those that concern our log. `/events/{id}/raw` is the provider's own object."""

    model_config = ConfigDict(from_attributes=True)


Event: Any = create_model(
    "Event",
    __base__=_Event,
    __doc__=_Event.__doc__,
    **{name: (_TYPES[name], ...) for name in _NAMES},  # type: ignore[call-overload]  # of any type
)


class Events(Page):
    items: list[Event]


class EventPath(Asked):
    event: UUID


class EventFilter(Listing):
    """`since` and `until` bound `occurred_at`."""

    type: Annotated[list[EventType] | None, Field(min_length=1, max_length=20, description="One of these.")] = None
    source: Text | None = None
    provider: Text | None = None
    recipient: Annotated[
        EmailAddress | None, Field(description="Addresses in URLs end up in logs: see /events/search.")
    ] = None
    recipient_domain: Text | None = None
    message_id: Text | None = None
    campaign: Text | None = None
    topic: Text | None = None
    stream: Text | None = None
    tag: Text | None = None
    bounce_category: Literal["hard", "soft", "block", "admin", "undetermined"] | None = None
    bounce_class: Text | None = None
    actor: Literal["human", "machine", "proxy", "unknown"] | None = None
    is_test: bool | None = None
    since: Moment | None = None
    until: Moment | None = None


async def list_events(call: Call) -> Found:
    asked: EventFilter = call.query or call.body
    wanted = {name: getattr(asked, name) for name in EventFilter.model_fields}
    wanted["recipient"] = asked.recipient.key if asked.recipient else None
    wanted["type"] = None if asked.type is None else [str(one) for one in asked.type]
    after = (datetime.fromisoformat(call.after[0]), UUID(call.after[1])) if call.after else None
    found = await event_pages.page(call.sql, wanted, after=after, limit=asked.limit)
    last = found[-1] if len(found) == asked.limit else None
    return Found([_shown(one) for one in found], [last.occurred_at.isoformat(), str(last.id)] if last else None)


def _shown(event: Stored) -> Any:
    return Event.model_construct(**{name: getattr(event, name) for name in _NAMES})


async def get_event(call: Call) -> Any:
    event = await stored_event(call.sql, call.path.event)
    if event is None:
        raise not_found("event")
    return _shown(event)


async def get_raw(call: Call) -> str:
    event = await stored_event(call.sql, call.path.event)
    if event is None:
        raise not_found("event")
    return event.raw


OPERATIONS: Final = (
    Operation(
        id="events_list", method="GET", path="/events", scope="events:read", summary="List events, the newest first.",
        run=list_events, query=EventFilter, answer=Events,
    ),
    Operation(
        id="events_search", method="POST", path="/events/search", scope="events:read",
        summary="The same, without addresses in the URL.", run=list_events, body=EventFilter, answer=Events,
    ),
    Operation(
        id="event_get", method="GET", path="/events/{event}", scope="events:read", summary="Show an event.",
        run=get_event, in_path=EventPath, answer=Event,
    ),
    Operation(
        id="event_raw", method="GET", path="/events/{event}/raw", scope="events:read",
        summary="The provider's own object of an event; null once retention has removed it.", run=get_raw,
        in_path=EventPath,
    ),
)  # fmt: skip
