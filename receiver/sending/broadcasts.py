"""Broadcasts: a template to everybody who is subscribed to a topic, or to those of them who are in a segment.

The outbox is filled piece by piece, and only so far ahead: however many recipients there are, few are in memory or
waiting, and each piece is one transaction with the place up to which it came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg
import msgspec
import structlog

from receiver.contacts import segments
from receiver.contacts.filter_sql import where
from receiver.contacts.filters import AllOf, Condition, Sendable, parse_filter, to_json
from receiver.errors import ReceiverError
from receiver.sending.accounts import Account, default_accounts
from receiver.sending.compose import contact_of
from receiver.sending.content import Content
from receiver.sending.means import NO_PUBLIC_URL, Means
from receiver.sending.templates import Templates, Unfit
from receiver.sending.trying import NOWHERE
from receiver.sending.turns import turns_free
from receiver.store import broadcasts as store
from receiver.store import send_list
from receiver.store.broadcasts import State
from receiver.store.connect import is_away
from receiver.store.sql import Sql
from receiver.store.topics import topics

log = structlog.get_logger("sending")

AHEAD: Final = 5000  # messages of one broadcast that wait in the outbox
LOOK: Final = 2000  # contacts that one transaction looks at
SOON: Final = timedelta(minutes=2)  # how far ahead a broadcast with `per_minute` is queued
TRIED: Final = 3  # recipients for whom the template is rendered before it starts


class WrongBroadcast(ReceiverError):
    """It cannot be started as it is: which of its fields is wrong (empty: none of them), and why."""

    def __init__(self, field_: str, why: str) -> None:
        super().__init__(f"{field_}: {why}" if field_ else why)
        self.field = field_
        self.why = why


class NameTaken(WrongBroadcast):
    """There was one of this name, and the same broadcast is never made twice."""


class NoSuchBroadcast(ReceiverError):
    """There is none of this name."""


class WrongState(ReceiverError):
    """What was asked for cannot be done to it any more, or again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A broadcast that somebody wants. `at`: not earlier (aware)."""

    name: str
    template: str
    topic: str
    segment: str | None = None
    account: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    per_minute: int | None = None
    at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A broadcast that can be started: who would get it now (`expected`), some of them, what the first would read."""

    wanted: Wanted
    brand: str
    filter: str | None
    expected: int
    sample: list[asyncpg.Record]
    example: Content | None


async def plan(sql: Sql, means: Means, wanted: Wanted) -> Plan:
    """Look whether it can be started, and who would get it. Raises WrongBroadcast."""
    if not segments.is_name(wanted.name):
        raise WrongBroadcast("name", "has at most 63 small letters, digits, - and _, such as spring-sale")
    _check_means(means, wanted)
    brand = await _brand(sql, wanted.topic)
    filter_ = await _filter(sql, wanted.segment)
    condition, now = _audience(wanted.topic, filter_), datetime.now(UTC)
    sample = await segments.page(sql, condition, now, limit=10)
    tried = await _try(sql, means.templates, wanted, [row["address"] for row in sample[:TRIED]])
    return Plan(
        wanted=wanted,
        brand=brand,
        filter=None if filter_ is None else to_json(filter_),
        expected=await segments.count(sql, condition, now),
        sample=sample,
        example=tried[0] if tried else None,
    )


def _check_means(means: Means, wanted: Wanted) -> None:
    if (wrong := means.no_account(wanted.account, "marketing")) is not None:
        raise WrongBroadcast("account", wrong)
    if not means.reachable:
        raise WrongBroadcast("", NO_PUBLIC_URL)
    try:
        means.templates.meta(wanted.template)
    except Unfit as error:
        raise WrongBroadcast("template", error.detail) from None


async def _brand(sql: Sql, topic: str) -> str:
    found = await topics(sql, [topic])
    if not found or found[0]["archived_at"] is not None:
        raise WrongBroadcast("topic", f"there is no topic {topic} in use; `receiver topics` shows those there are")
    brand: str = found[0]["brand"]
    return brand


async def _filter(sql: Sql, segment: str | None) -> Condition | None:
    try:
        return None if segment is None else (await segments.get(sql, segment)).filter
    except segments.UnknownSegment as error:
        raise WrongBroadcast("segment", str(error)) from None


def _audience(topic: str, filter_: Condition | None) -> Condition:
    """Nobody whom the guard would have to refuse anyway is queued."""
    sendable = Sendable(sendable=topic)
    return sendable if filter_ is None else AllOf(all=(filter_, sendable))


async def _try(sql: Sql, templates: Templates, wanted: Wanted, addresses: list[str]) -> list[Content]:
    """A value that is missing shows before the first message, not in a million failures."""
    tried = list[Content]()
    for address in addresses:
        values = {**wanted.data, "contact": await contact_of(sql, address), "unsubscribe_url": NOWHERE}
        try:
            tried.append(templates.render(wanted.template, values))
        except Unfit as error:
            raise WrongBroadcast("template", error.detail) from None
    return tried


async def start(sql: Sql, planned: Plan, who: str) -> asyncpg.Record:
    """Its row. Raises NameTaken."""
    one = planned.wanted
    data = msgspec.json.encode(one.data).decode()
    values = (one.name, one.template, one.topic, one.segment, planned.filter, planned.brand, one.account, data)
    row = await store.make(sql, (*values, one.per_minute, planned.expected, one.at, who))
    if row is None:
        raise NameTaken("name", f"there is a broadcast {one.name} already")
    return row


async def pause(sql: Sql, name: str, why: str) -> None:
    """Nothing more of it goes out. Raises NoSuchBroadcast, WrongState."""
    await store.release(sql, await _set(sql, name, "paused", why, only=("running", "done")))


async def resume(sql: Sql, name: str) -> None:
    """Let it go on where it was. Raises NoSuchBroadcast, WrongState."""
    if await store.resume(sql, name) is None:
        raise await _wrong(sql, name)


async def cancel(sql: Sql, name: str) -> None:
    """End it for good, with what waits in the outbox: of that a piece at once, and the rest when it is next looked at.

    Nothing of the rest goes out meanwhile. Raises NoSuchBroadcast, WrongState.
    """
    id_ = await _set(sql, name, "cancelled", "", only=("running", "paused", "done"))
    await send_list.cancel(sql, send_list.Which(broadcast=id_))


async def _set(sql: Sql, name: str, state: State, why: str, *, only: tuple[State, ...]) -> int:
    """Within a transaction: who fills the outbox has the row as long as it does."""
    id_ = await store.set_state(sql, name, state, why, only=only)
    if id_ is None:
        raise await _wrong(sql, name)
    return id_


async def _wrong(sql: Sql, name: str) -> WrongState:
    """Raises NoSuchBroadcast."""
    row = await get(sql, name)
    return WrongState(f"broadcast {name} is {row['state']}")


async def get(sql: Sql, name: str) -> asyncpg.Record:
    """Raises NoSuchBroadcast."""
    rows = await store.page(sql, name=name, limit=1)
    if not rows:
        raise NoSuchBroadcast(f"there is no broadcast {name}; `receiver broadcast list` shows those there are")
    return rows[0]


# Filling the outbox --------------------------------------------------------------------------------------------------


async def fill(pool: asyncpg.Pool, accounts: Mapping[str, Account]) -> None:
    """Queue what there is room for of every running broadcast. Any number of processes may."""
    while await store.cancel_rest(pool, send_list.PIECE):
        pass
    for id_ in await store.running(pool, SOON):
        try:
            more = True
            while more:
                async with pool.acquire() as sql, sql.transaction():
                    more = await _fill(sql, id_, accounts)
        except Exception as error:  # one that cannot be filled must not keep the others
            if is_away(error):
                raise
            log.exception("a broadcast cannot go on", action="broadcast_failed", broadcast=id_)
            await store.stop(pool, id_, f"its recipients cannot be found: {type(error).__name__}")


async def _fill(sql: Sql, id_: int, accounts: Mapping[str, Account]) -> bool:
    """One piece of one broadcast; whether there may be more of it now. Within a transaction."""
    row = await store.lock(sql, id_, SOON)
    if row is None:
        return False
    upto = await store.next_contacts(sql, row["last_contact_id"], LOOK)
    if upto is None:
        await store.set_state(sql, row["name"], "done", "", only=("running",))
        log.info("a broadcast is queued", action="broadcast_queued", broadcast=row["name"], messages=row["queued"])
        return False
    start, spacing = max(row["now"], row["not_before"]), _spacing(row["per_minute"])
    room = _room(row, start, spacing, await _turns(sql, row, accounts))
    if room <= 0:
        return False
    condition = _audience(row["topic"], parse_filter(row["filter"]) if row["filter"] else None)
    piece = store.Piece(id=id_, after=row["last_contact_id"], upto=upto, room=room, start=start, spacing=spacing)
    found = await store.queue(sql, piece, *where(condition, row["now"], few=True))
    full = found["chosen"] == room
    last = found["last"] if full else upto
    await store.move(sql, id_, last, found["queued"], start + spacing * found["chosen"])
    return not full


def _spacing(per_minute: int | None) -> timedelta:
    return timedelta(0) if per_minute is None else timedelta(minutes=1) / per_minute


async def _turns(sql: Sql, row: asyncpg.Record, accounts: Mapping[str, Account]) -> int | None:
    """For how many messages its account has turns; None: it has no limits, or another process sends through it."""
    default, _ = default_accounts(accounts)
    account = accounts.get(row["account"] or default or "")
    return None if account is None else await turns_free(sql, account, "marketing", default=account.name == default)


def _room(row: asyncpg.Record, start: datetime, spacing: timedelta, turns: int | None) -> int:
    """How many messages may be queued now."""
    room: int = AHEAD - row["waiting"]
    paced = (row["now"] + SOON - start) // spacing if spacing else room
    return min(room, paced, room if turns is None else turns)
