"""Handlers that take each recipient's events strictly in order: what waits, behind what, and what may go on.

Rows of `retries` with one `ordering_key` form a queue in the order of `filed`. Only its first row may be handed over,
and while there is any, later events of the key are parked at its end. Parking, and going on, are for whoever holds the
shard's lease, in a transaction that also moves its cursor: a worker that has lost the lease can commit neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from receiver.event import Event
from receiver.store.failures import Due, due_of
from receiver.store.sql import Sql

# As `key_of`, for rows that were filed by other hands: replays, retried dead letters, a release that knew no order.
_FILE: Final = """
UPDATE retries SET ordering_key = ('x' || left(encode(sha256(convert_to(
    coalesce(nullif(e.recipient, ''), nullif(e.message_id, ''), e.id::text), 'UTF8')), 'hex'), 16))::bit(64)::bigint
FROM events e
WHERE retries.handler = $1 AND retries.shard = ANY ($2::int2[]) AND retries.ordering_key IS NULL
  AND e.id = retries.event_id AND e.received_at = retries.event_received_at
"""
_MARK: Final = "UPDATE retries SET ordering_key = $3 WHERE handler = $1 AND event_id = $2"
_BLOCKED: Final = "SELECT DISTINCT ordering_key FROM retries WHERE handler = $1 AND ordering_key = ANY ($2::bigint[])"
_PARK: Final = """
INSERT INTO retries (handler, event_id, event_received_at, shard, ordering_key, cause, next_at)
SELECT $1, id, received_at, shard, key, $6, 'infinity'
FROM unnest($2::uuid[], $3::timestamptz[], $4::int2[], $5::bigint[]) WITH ORDINALITY
     AS u (id, received_at, shard, key, ordinal)
ORDER BY ordinal
ON CONFLICT (handler, event_id) DO NOTHING
"""
_IS_FIRST: Final = """
NOT EXISTS (SELECT FROM retries e
            WHERE e.handler = r.handler AND e.ordering_key = r.ordering_key AND e.filed < r.filed)
"""
# What was put since the last `file` may have to wait behind another; what has no event any more never gets a key.
_IS_FILED: Final = """
(r.ordering_key IS NOT NULL
 OR NOT EXISTS (SELECT FROM events e WHERE e.id = r.event_id AND e.received_at = r.event_received_at))
"""
_TAKE_DUE: Final = f"""
SELECT event_id, event_received_at, cause, attempt, dead_letter_id, side_effects, ordering_key, shard FROM retries r
WHERE handler = $1 AND shard = ANY ($2::int2[]) AND next_at <= clock_timestamp() AND {_IS_FIRST} AND {_IS_FILED}
ORDER BY next_at, filed LIMIT 1 FOR UPDATE SKIP LOCKED
"""
_PROMOTE: Final = """
UPDATE retries SET next_at = clock_timestamp()
WHERE handler = $1 AND next_at = 'infinity' AND event_id = (
    SELECT event_id FROM retries WHERE handler = $1 AND ordering_key = $2 ORDER BY filed LIMIT 1)
"""
_UNPARK: Final = f"""
UPDATE retries r SET next_at = clock_timestamp() WHERE handler = $1 AND next_at = 'infinity' AND {_IS_FIRST}
"""
_DUE_SHARDS: Final = "SELECT DISTINCT shard FROM retries WHERE handler = $1 AND next_at <= clock_timestamp()"


@dataclass(frozen=True, slots=True)
class Turn:
    """An event whose turn it is. Without a key (its event is gone, a dead letter's copy serves) it waits for nobody."""

    due: Due
    key: int | None
    shard: int


def key_of(event: Event) -> int:
    """What events must share to wait for each other: the recipient, else the message, as a signed 64-bit hash."""
    text = event.recipient or event.message_id or str(event.id)
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big", signed=True)


async def blocked(sql: Sql, handler: str, keys: Iterable[int]) -> set[int]:
    """Which of the keys have an event that is not settled."""
    return {row[0] for row in await sql.fetch(_BLOCKED, handler, list(set(keys)))}


async def park(sql: Sql, handler: str, events: Sequence[Event], *, replaying: bool) -> None:
    """Put events, in their order, behind those that they wait for."""
    columns = zip(*((one.id, one.received_at, one.shard, key_of(one)) for one in events), strict=True)
    await sql.execute(_PARK, handler, *map(list, columns), "replay" if replaying else "parked")


async def mark(sql: Sql, handler: str, event: Event) -> None:
    """Let later events of the same key wait for this one, which is in `retries` already."""
    await sql.execute(_MARK, handler, event.id, key_of(event))


async def take_due(sql: Sql, handler: str, shards: Sequence[int]) -> Turn | None:
    """An event of these shards that is due and the first of its key, locked; None when there is none."""
    row = await sql.fetchrow(_TAKE_DUE, handler, list(shards))
    return None if row is None else Turn(await due_of(sql, row), row["ordering_key"], row["shard"])


async def file(sql: Sql, handler: str, shards: Sequence[int]) -> None:
    """Give events their key that others have put into `retries`: before each `take_due`, which passes over the rest."""
    await sql.execute(_FILE, handler, list(shards))


async def promote(sql: Sql, handler: str, key: int) -> None:
    """The first of the key is settled: the one behind it is due."""
    await sql.execute(_PROMOTE, handler, key)


async def unpark(sql: Sql, handler: str) -> None:
    """Make due what waits for nothing, because rows were removed by hand."""
    await sql.execute(_UNPARK, handler)


async def due_shards(sql: Sql, handler: str) -> set[int]:
    """Shards that have events whose time has come."""
    return {row[0] for row in await sql.fetch(_DUE_SHARDS, handler)}
