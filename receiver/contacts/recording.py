"""What events leave on contacts: when things last happened, and what repeated bounces mean.

The result is a function of the set of events. Times are the latest of their kind. Of bounces that count only in numbers
those after the contact's last sign of life are kept, and all that is said about them is computed from these anew
whenever one of the two changes, while the contact's row is locked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from receiver.classify.addresses import domain_of
from receiver.contacts.policy import Bounced, Policy, Repeated, Streak, rule_of, streak
from receiver.contacts.suppressing import mailbox_of
from receiver.event import Actor, Event, EventType
from receiver.store import contacts as store
from receiver.store import streaks
from receiver.store.contacts import TIMES
from receiver.store.sql import Sql
from receiver.store.streaks import BounceRow, SoftRow
from receiver.vault import Vault

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
_PREFETCHED: Final = TIMES.index("prefetched_at")

Times = list[datetime | None]


async def record(sql: Sql, vault: Vault, policy: Policy, events: Iterable[Event]) -> None:
    """Merge events into contacts: two statements, and a few more where bounces count."""
    times: dict[str, Times] = {}
    bounced: list[Event] = []
    for event in events:
        if event.recipient is not None and event.attribution is None:
            _note(times, event)
            if event.type is EventType.BOUNCED and not event.echo and _repeats(policy, event):
                bounced.append(event)
    if not times:
        return
    hashes = {address: vault.address_hash(address) for address in times}
    await store.record_times(sql, {address: (hashes[address], row) for address, row in times.items()})
    await streaks.add(sql, _bounce_rows(bounced, hashes))
    if found := await streaks.standing(sql, list(hashes.values())):
        await _settle(sql, policy, found)


async def settle(sql: Sql, policy: Policy, address_hashes: Sequence[bytes]) -> None:
    """Compute anew what repeated bounces mean for contacts whose rows the transaction has locked."""
    await _settle(sql, policy, await streaks.standing(sql, address_hashes))


def _note(times: dict[str, Times], event: Event) -> None:
    """Machines count only as opening pictures; incoming mail not at all; an echo only as last event."""
    assert event.recipient is not None
    if event.actor is Actor.MACHINE:
        columns: tuple[int, ...] = (_PREFETCHED,) if event.type is EventType.OPENED else ()
    elif event.type is EventType.INBOUND:
        columns = ()
    else:
        column = None if event.echo else _COLUMN.get(event.type)
        columns = (_LAST_EVENT,) if column is None else (_LAST_EVENT, column)
    if not columns:
        return
    row = times.get(event.recipient)
    if row is None:
        row = times[event.recipient] = [None] * len(TIMES)
    at = event.occurred_at
    for index in columns:
        known = row[index]
        if known is None or known < at:
            row[index] = at


def _repeats(policy: Policy, event: Event) -> bool:
    action = policy.action(
        event.bounce_class, event.bounce_category, verdict=event.provider_verdict, stream=event.stream
    )
    return isinstance(action, Repeated)


def _bounce_rows(events: Iterable[Event], hashes: Mapping[str, bytes]) -> list[BounceRow]:
    """The latest bounce of each message."""
    rows: dict[tuple[bytes, str], BounceRow] = {}
    for event in sorted(events, key=lambda one: (one.occurred_at, one.id)):
        assert event.recipient is not None
        hashed = hashes[event.recipient]
        message = event.message_id or event.internet_message_id or str(event.id)
        rule = rule_of(event.bounce_class, event.bounce_category)
        at, stream = event.occurred_at, event.stream or ""
        rows[hashed, message] = (hashed, message, rule, stream, at, event.source, event.id)
    return list(rows.values())


@dataclass(slots=True)
class _Standing:
    """One contact: what is stored about its repeated bounces, and the bounces."""

    address: str
    soft_streak: int
    life: datetime | None
    stored: Streak | None
    lifted_at: datetime | None
    bounces: list[Bounced] = field(default_factory=list)
    sources: dict[UUID, str] = field(default_factory=dict)
    past: bool = False

    def add(self, row: asyncpg.Record) -> None:
        at: datetime = row["at"]
        if self.life is not None and at <= self.life:
            self.past = True
        elif self.lifted_at is None or at > self.lifted_at:
            self.bounces.append(Bounced(at, row["message"], row["bounce_class"], row["stream"], row["event_id"]))
            self.sources[row["event_id"]] = row["source"]


def _standing(rows: Sequence[asyncpg.Record]) -> dict[bytes, _Standing]:
    found: dict[bytes, _Standing] = {}
    for row in rows:
        hashed = row["address_hash"]
        if (one := found.get(hashed)) is None:
            since = row["since"]
            stored = None if since is None else Streak(since, row["last_at"], row["expires_at"], row["began_by"])
            one = _Standing(row["address"], row["soft_streak"], row["life"], stored, row["lifted_at"])
            found[hashed] = one
        one.add(row)
    return found


async def _settle(sql: Sql, policy: Policy, rows: Sequence[asyncpg.Record]) -> None:
    erased = {row["address_hash"] for row in rows if row["erased"]}
    if erased:  # since its events were read; nothing of theirs comes back
        await store.remove(sql, list(erased))
        await streaks.forget(sql, list(erased))
    found = _standing([row for row in rows if row["address_hash"] not in erased])
    meant = {hashed: streak(policy, one.bounces) for hashed, one in found.items()}
    await streaks.drop(sql, [(hashed, one.life) for hashed, one in found.items() if one.past and one.life])
    await streaks.count(
        sql, [(hashed, len(one.bounces)) for hashed, one in found.items() if one.soft_streak != len(one.bounces)]
    )
    await streaks.suppress(
        sql,
        [_soft_row(hashed, found[hashed], new) for hashed, new in meant.items() if new and new != found[hashed].stored],
    )
    await streaks.release(sql, [hashed for hashed, new in meant.items() if new is None and found[hashed].stored])


def _soft_row(hashed: bytes, one: _Standing, new: Streak) -> SoftRow:
    domain = domain_of(one.address)
    source = one.sources[new.event_id]
    return hashed, new.since, new.last_at, new.expires_at, new.event_id, source, domain, mailbox_of(domain)
