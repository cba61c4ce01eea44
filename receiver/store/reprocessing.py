"""Stored events that are read again: found in the log's order, locked, changed in place.

What makes an event itself, when it was and its place in the log (`FIXED`) stay as they are: handlers that have passed
it do not see it again, and cursors that have not yet come to it find it where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import asyncpg

from receiver.store.intake import COLUMNS, Row

CHUNK: Final = 500  # events of one transaction

FIXED: Final = frozenset({
    "id", "occurred_at", "source", "provider", "accepted_at", "provider_time", "time_note", "raw", "raw_altered",
    "shard",
})  # fmt: skip
READ: Final = tuple(name for name in COLUMNS if name not in FIXED)  # the columns that reading anew may change
_PLACES: Final = tuple(map(COLUMNS.index, READ))

_WANTED: Final = """
    e.type = ANY ($1::text[]) AND ($2::text[] IS NULL OR e.source = ANY ($2))
    AND e.received_at >= $3 AND e.received_at < $4
"""
_COUNT: Final = f"SELECT count(*) FROM events e WHERE {_WANTED}"
# With options left out, a plan for whatever they may be reads the whole log where an index would do.
_OWN_PLANS: Final = "SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL lock_timeout = '10s'"
_PAGE: Final = f"""
SELECT e.id, e.received_at, e.source, e.provider, e.accepted_at, e.raw, e.shard, e.gen, e.txid, e.position,
       {", ".join(f"e.{name}" for name in READ)}
FROM events e WHERE {_WANTED} AND (e.shard, e.gen, e.txid, e.position) > ($5::int2, $6::int2, $7::xid8, $8::int8)
ORDER BY e.shard, e.gen, e.txid, e.position LIMIT {CHUNK}
"""
_CHANGE: Final = f"""
UPDATE events SET {", ".join(f"{name} = ${number}" for number, name in enumerate(READ, 3))}
WHERE id = $1 AND received_at = $2
"""
# As a replay does it: what a handler has not read yet comes by itself, and what waits is handed over anyway.
_HAND_OVER: Final = """
INSERT INTO retries (handler, event_id, event_received_at, shard, cause, next_at, side_effects)
SELECT c.handler, e.id, e.received_at, e.shard, 'replay', clock_timestamp(), $3
FROM unnest($1::uuid[], $2::timestamptz[]) AS chosen (id, received_at) JOIN events e USING (id, received_at)
JOIN cursors c ON c.shard = e.shard AND c.handler NOT LIKE '%/%'
WHERE (e.gen, e.txid, e.position) <= (c.gen, c.txid, c.position) AND NOT (e.gen = c.gen AND e.txid = ANY (c.pending))
ORDER BY e.shard, e.gen, e.txid, e.position
ON CONFLICT (handler, event_id) DO NOTHING
"""

_OPEN: Final = """
SELECT id FROM quarantine
WHERE resolved_at IS NULL AND ($1::text[] IS NULL OR source = ANY ($1)) AND received_at >= $2 AND received_at < $3
ORDER BY id
"""
_ENTRY: Final = """
SELECT id, source, provider, kind, why, headers, body, accepted_at FROM quarantine WHERE id = $1 AND resolved_at IS NULL
"""
_RELEASE: Final = """
UPDATE quarantine SET resolved_at = now(), resolution = 'released', reason = 'reprocessed'
WHERE id = $1 AND resolved_at IS NULL
"""
_STORED: Final = "SELECT id FROM events WHERE id = ANY ($1::uuid[])"

_BEFORE: Final = (-1, 0, 0, 0)
_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATE: Final = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which events, and which entries of the quarantine. `since` and `until` bound `received_at`."""

    types: Sequence[str]
    sources: Sequence[str] | None = None
    since: datetime = _LONG_AGO
    until: datetime = _LATE

    @property
    def _of_quarantine(self) -> tuple[object, ...]:
        return (None if self.sources is None else list(self.sources), self.since, self.until)

    @property
    def _of_events(self) -> tuple[object, ...]:
        return (list(self.types), *self._of_quarantine)


class Place(NamedTuple):
    """How far through the log, by the event that was last looked at."""

    shard: int
    gen: int
    txid: int
    position: int


class Changed(NamedTuple):
    """What an event is to become."""

    id: bytes
    received_at: datetime
    values: tuple[Any, ...]  # of READ


def values_of(row: Row) -> tuple[Any, ...]:
    """The values of READ in a row that is in the order of COLUMNS."""
    return tuple(row[place] for place in _PLACES)


async def count_events(connection: asyncpg.Connection, which: Selection) -> int:
    found: int = await connection.fetchval(_COUNT, *which._of_events)  # noqa: SLF001 - of this module
    return found


async def next_events(
    connection: asyncpg.Connection, which: Selection, after: Place | None, *, lock: bool
) -> list[asyncpg.Record]:
    """The next events in the log's order, inside a transaction; `lock`: nobody else changes them until it ends."""
    await connection.execute(_OWN_PLANS)
    statement = f"{_PAGE} FOR UPDATE" if lock else _PAGE
    return await connection.fetch(statement, *which._of_events, *(after or _BEFORE))  # noqa: SLF001 - likewise


def place_of(row: asyncpg.Record) -> Place:
    return Place(row["shard"], row["gen"], row["txid"], row["position"])


async def change_events(connection: asyncpg.Connection, changed: Sequence[Changed]) -> None:
    """Raises what asyncpg raises for values that Postgres cannot hold."""
    await connection.executemany(_CHANGE, [(one.id, one.received_at, *one.values) for one in changed])


async def hand_over(connection: asyncpg.Connection, changed: Sequence[Changed], *, side_effects: bool) -> int:
    """Put one due row for each handler that has read the event; returns how many."""
    ids, times = [one.id for one in changed], [one.received_at for one in changed]
    tag: str = await connection.execute(_HAND_OVER, ids, times, side_effects)
    return int(tag.rpartition(" ")[2])


async def open_entries(connection: asyncpg.Connection, which: Selection) -> list[int]:
    """The numbers of what is open in quarantine, the oldest first."""
    return [row[0] for row in await connection.fetch(_OPEN, *which._of_quarantine)]  # noqa: SLF001 - likewise


async def find_entry(connection: asyncpg.Connection, id_: int) -> asyncpg.Record | None:
    """An open entry with its sealed content."""
    return await connection.fetchrow(_ENTRY, id_)


async def release(connection: asyncpg.Connection, id_: int) -> None:
    """Close an entry whose events are stored."""
    await connection.execute(_RELEASE, id_)


async def stored_ids(connection: asyncpg.Connection, ids: Sequence[bytes]) -> set[bytes]:
    """Which of the events are there, however long ago they came: `event_ids` forgets."""
    return {row[0] for row in await connection.fetch(_STORED, list(ids))}
