"""What a handler is given besides its events: everything it does to the database goes through here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, Literal, Protocol
from uuid import UUID

from structlog.typing import FilteringBoundLogger
from typing_extensions import TypeVar

from receiver.contacts.handling import Contacts, normalized
from receiver.event import Event, EventType
from receiver.store import sends
from receiver.store.sql import Sql

Settings = TypeVar("Settings", default=Any)


class HandlerSql(Sql, Protocol):
    """SQL in the transaction that also records the events as handled: both are committed, or neither.

    The transaction is opened when first used. There is no commit: it happens when the handler has returned.
    """

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        """`async with ctx.sql.savepoint():` undoes its statements when they raise, and lets the handler go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context(Generic[Settings]):
    """The handler's world for one call.

    sql        statements in the batch's transaction
    contacts   contacts and suppressions, in the same transaction
    send       queue a message
    replaying  someone has asked to handle old events again: have no effects outside the database
    attempt    1 at the first try of this event
    now        aware, UTC; take the time from here, so that tests can choose it
    log        a structlog logger that names the handler; what goes in is up to you, addresses included
    settings   the handler's own settings, an instance of the model given to `@handler(settings=...)`
    event      the event, where the handler takes single ones
    """

    sql: HandlerSql
    contacts: Contacts
    handler: str
    now: datetime
    log: FilteringBoundLogger
    settings: Settings
    attempt: int = 1
    replaying: bool = False
    event: Event | None = None

    async def send(  # noqa: PLR0913 - keywords with defaults are the interface
        self,
        *,
        template: str,
        to: str,
        key: str,
        stream: Literal["marketing", "transactional"] = "marketing",
        topic: str | None = None,
        data: Mapping[str, Any] | None = None,
        delay: timedelta = timedelta(0),
        cancel_on: Collection[EventType] = (),
        even_when_replaying: bool = False,
    ) -> UUID | None:
        """Queue a message to one recipient, with this batch's commit; returns its id.

        `key` says what the message is for in the business's terms, such as `trial-ended:<customer>`: the same key is
        queued once, ever, and a second time returns None. Choose it so that two events that should lead to one message
        give one key; an event's id is rarely right.
        `cancel_on`: types of later events of this recipient that make the message pointless.
        Does nothing and returns None when old events are replayed. Raises ValueError where `to` is no address.
        """
        if self.replaying and not even_when_replaying:
            return None
        return await sends.queue(
            self.sql,
            key=key,
            recipient=normalized(to),
            template=template,
            stream=stream,
            topic=topic,
            data=data or {},
            delay=delay,
            cancel_on=[str(word) for word in cancel_on],
            handler=self.handler,
            event_id=None if self.event is None else self.event.id,
        )
