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

from receiver.classify.bursts import SETTLE
from receiver.contacts.handling import Contacts, normalized
from receiver.event import Actor, Event, EventType
from receiver.plugins.outcomes import RetryAfter, Skip
from receiver.store import sends
from receiver.store.clicks import judge_click
from receiver.store.sql import Sql

Settings = TypeVar("Settings", default=Any)
_TYPES = frozenset(EventType)


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
    unsettled  whether a click is to wait, or was a scanner's
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
        cancel_on: Collection[EventType | str] = (),
        even_when_replaying: bool = False,
    ) -> UUID | None:
        """Queue a message to one recipient, with this batch's commit; returns its id.

        `key` says what the message is for in the business's terms, such as `trial-ended:<customer>`: the same key is
        queued once, ever, and a second time returns None. Choose it so that two events that should lead to one message
        give one key; an event's id is rarely right.
        `cancel_on`: types of later events of this recipient that make the message pointless, or a type with a tag, such
        as `clicked:offer`.
        `topic`: what the message is about, and the recipient has to have subscribed to; transactional mail may do
        without. Does nothing and returns None when old events are replayed. Raises ValueError where `to` is no address,
        for marketing mail without a topic, and for a word in `cancel_on` that no event has.
        """
        if stream == "marketing" and topic is None:
            raise ValueError('topic: say whose consent counts, or that the mail needs none: stream="transactional"')
        for word in cancel_on:
            if word.partition(":")[0] not in _TYPES:
                raise ValueError(f"cancel_on: {word!r} is no event type, nor one with a tag such as clicked:offer")
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

    async def unsettled(self, event: Event, *, after: timedelta = SETTLE) -> RetryAfter | Skip | None:
        """What to return in place of acting on a click; None: act, a person has clicked, or it is no click.

        Scanners follow the links of a mail in bursts, and whether a click is part of one shows `after` it has come in:
        RetryAfter until then, Skip for a scanner's. The verdict is kept in `click_verdicts`.
        """
        if event.type is not EventType.CLICKED:
            return None
        waiting = after - (self.now - event.received_at)
        if waiting > timedelta(0):
            return RetryAfter(waiting, "whether it was a scanner shows a little later")
        judged = await judge_click(self.sql, event)
        return Skip(f"a scanner clicked: {', '.join(judged.reasons)}") if judged.actor is Actor.MACHINE else None
