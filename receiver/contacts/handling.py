"""Contacts and suppressions as handlers see them: `ctx.contacts`.

Whether an address may be mailed is never one status: it is what its suppressions say for a stream, brand and topic.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

import msgspec

from receiver.classify.addresses import normalize_address
from receiver.event import Actor, Event, EventType, RejectReason
from receiver.store import contacts as store
from receiver.store.contacts import TIMES
from receiver.store.sql import Sql
from receiver.vault import Vault

Why: TypeAlias = Literal["hard_bounce", "complaint", "unsubscribe", "manual"]
Scope: TypeAlias = Literal["all", "marketing", "topic"]
Stream: TypeAlias = Literal["marketing", "transactional"]

_COLUMN: Final = {
    EventType.QUEUED: TIMES.index("last_sent_at"),
    EventType.SENT: TIMES.index("last_sent_at"),
    EventType.DELIVERED: TIMES.index("last_delivered_at"),
    EventType.OPENED: TIMES.index("last_opened_at"),
    EventType.CLICKED: TIMES.index("last_clicked_at"),
    EventType.BOUNCED: TIMES.index("last_bounced_at"),
    EventType.COMPLAINED: TIMES.index("complained_at"),
    EventType.UNSUBSCRIBED: TIMES.index("unsubscribed_at"),
}
_LAST_EVENT: Final = TIMES.index("last_event_at")

# Providers that hold mail back say why: all but `invalid` repeat an outcome that they learned earlier.
_REPEATS: Final = frozenset({RejectReason.BOUNCED, RejectReason.COMPLAINED, RejectReason.UNSUBSCRIBED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """A row of `contacts`. Times are aware and UTC; None: never."""

    id: int
    address: str
    attributes: dict[str, Any]
    created_at: datetime
    last_event_at: datetime | None
    last_sent_at: datetime | None
    last_delivered_at: datetime | None
    last_opened_at: datetime | None
    last_clicked_at: datetime | None
    last_bounced_at: datetime | None
    complained_at: datetime | None
    unsubscribed_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppression:
    """Why and from what an address must not be mailed. `at`: when it happened; empty brand: every brand.

    `echo`: known only from a provider that held mail back; it never outweighs or repeats the outcome itself.
    """

    address: str
    reason: Why
    scope: Scope
    at: datetime
    source: str
    brand: str = ""
    topic: str = ""
    event_id: UUID | None = None
    echo: bool = False

    @classmethod
    def of(cls, event: Event, reason: Why, scope: Scope, *, topic: str = "") -> Suppression | None:
        """What the event means for its recipient, within its brand unless the scope is `all`.

        None where it is not certain whom the event concerns, or that it is true (see `Contacts.verified`).
        """
        if event.recipient is None or event.attribution is not None:
            return None
        return cls(
            address=event.recipient,
            reason=reason,
            scope=scope,
            at=event.occurred_at,
            source=event.source,
            brand="" if scope == "all" else event.brand or "",
            topic=topic,
            event_id=event.id,
            echo=event.echo or event.reject_reason in _REPEATS,
        )


class Contacts:
    """Reads and changes contacts and suppressions within the handler's transaction.

    Addresses are normalized; a text that is none raises ValueError.
    """

    __slots__ = ("_sql", "_vault")

    def __init__(self, sql: Sql, vault: Vault) -> None:
        self._sql = sql
        self._vault = vault

    async def get(self, address: str) -> Contact | None:
        """The contact, or None."""
        row = await store.get(self._sql, normalized(address))
        return None if row is None else _contact(row)

    async def update(self, address: str, **attributes: Any) -> Contact:
        """Set attributes of a contact (others stay), making it if need be."""
        address = normalized(address)
        text = msgspec.json.encode(attributes).decode()
        return _contact(await store.update(self._sql, address, self._vault.address_hash(address), text))

    async def record(self, events: Sequence[Event]) -> None:
        """Note when things happened to the events' recipients: one statement, however many events.

        Only the latest time of each kind is kept, so order, duplicates and batches make no difference. Opens and clicks
        of machines, incoming mail, what may concern somebody else and what is unverified do not count; an echo only as
        last event.
        """
        times: dict[str, list[datetime | None]] = {}
        for event in events:
            if event.recipient is not None and _counts(event):
                _merge(times.setdefault(event.recipient, [None] * len(TIMES)), event)
        hash_of = self._vault.address_hash
        await store.record_times(self._sql, {address: (hash_of(address), row) for address, row in times.items()})

    async def suppress(
        self,
        address: str,
        *,
        at: datetime,
        reason: Why = "manual",
        scope: Scope = "all",
        brand: str = "",
        topic: str = "",
        source: str = "manual",
    ) -> None:
        """Suppress one address; `at` is when the cause happened, such as `event.occurred_at` or `ctx.now`."""
        one = Suppression(address=address, reason=reason, scope=scope, at=at, source=source, brand=brand, topic=topic)
        await self.suppress_many([one])

    async def suppress_many(self, suppressions: Iterable[Suppression | None]) -> None:
        """Suppress addresses in one statement; Nones are left out. Order, duplicates and batches make no difference."""
        merged: dict[tuple[bytes, str, str, str, str], list[Suppression]] = {}
        for one in suppressions:
            if one is not None:
                hashed = self._vault.address_hash(normalized(one.address))
                merged.setdefault((hashed, one.reason, one.scope, one.brand, one.topic), []).append(one)
        await store.suppress(self._sql, [_merged(key, ones) for key, ones in merged.items()])

    async def is_suppressed(
        self, address: str, *, stream: Stream = "marketing", brand: str = "", topic: str = ""
    ) -> bool:
        """Whether mail of this stream, brand and topic must not go to the address."""
        hashed = self._vault.address_hash(normalized(address))
        return await store.is_suppressed(self._sql, hashed, stream, brand, topic)

    async def verified(self, event: Event) -> Event | None:
        """The event as one to go by; None where it is ambiguous, or unverified and no send of ours stands behind it.

        That is a bounce message or feedback report, which anybody can write. A send is known if an event that came
        another way has the same recipient, and the message id that the report names.
        """
        if event.attribution == "unverified" and event.recipient is not None:
            ids = [one for one in (event.message_id, event.internet_message_id) if one]
            if await store.is_known_send(self._sql, event.recipient, ids):
                return msgspec.structs.replace(event, attribution=None)
        return event if event.attribution is None else None

    async def lift(self, address: str, *, reason: Why) -> int:
        """Lift the address's suppressions for one reason; returns how many. Older events do not bring them back."""
        return await store.lift(self._sql, self._vault.address_hash(normalized(address)), reason)


def normalized(address: str) -> str:
    """The address as it is looked up. Raises ValueError (which does not quote it) where the text is no address."""
    found = normalize_address(address)
    if found is None:
        raise ValueError("not an e-mail address")
    return found


def _counts(event: Event) -> bool:
    return event.attribution is None and event.actor is not Actor.MACHINE and event.type is not EventType.INBOUND


def _merge(times: list[datetime | None], event: Event) -> None:
    column = None if event.echo else _COLUMN.get(event.type)
    for index in (_LAST_EVENT,) if column is None else (_LAST_EVENT, column):
        known = times[index]
        if known is None or known < event.occurred_at:
            times[index] = event.occurred_at


_NO_EVENT: Final = UUID(int=0)


def _merged(key: tuple[bytes, str, str, str, str], ones: list[Suppression]) -> store.SuppressionRow:
    """Several causes of one suppression as a row, by the rule of the statement that merges it with the stored one."""
    firm = [one for one in ones if not one.echo] or ones
    first = min(firm, key=lambda one: (one.at, one.event_id or _NO_EVENT))
    last = max(one.at for one in firm)
    return *key, first.at, last, first.source, first.event_id, first.echo


def _contact(row: Any) -> Contact:
    values = dict(row)
    return Contact(**values | {"attributes": msgspec.json.decode(values["attributes"])})
