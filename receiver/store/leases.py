"""Who reads which shards: leases on cursors, with an epoch that fences off whoever has lost one.

All times are Postgres's clock. Taking and renewing skip locked rows, so they cannot deadlock with the
acknowledgements of the same rows, which renew the lease themselves.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Final
from uuid import UUID

import msgspec

from receiver.store.log import Cursor, pending_text
from receiver.store.sql import Sql, array

# A lane's shard is finished when its cursor stands at the bound.
_UNFINISHED: Final = "(until_gen IS NULL OR (gen, txid, position) < (until_gen, until_txid, until_position))"

# Materialized: as a part of the join it may be run, with its LIMIT, once for each row of the other side.
_TAKE: Final = f"""
WITH free AS MATERIALIZED (
    SELECT shard FROM cursors
    WHERE handler = $1 AND (lease_until < clock_timestamp() OR (owner = $2 AND NOT shard = ANY ($4::int2[])))
      AND {_UNFINISHED}
      AND NOT EXISTS (SELECT FROM handlers WHERE name = split_part($1, '/', 1) AND state = 'paused')
    ORDER BY shard LIMIT $5 FOR UPDATE SKIP LOCKED
)
UPDATE cursors SET owner = $2, epoch = cursors.epoch + 1, lease_until = clock_timestamp() + $3 * interval '1 second'
FROM free WHERE cursors.handler = $1 AND cursors.shard = free.shard
RETURNING cursors.shard, cursors.epoch, cursors.ctid::text, gen, txid, position, pending, read_from,
          until_gen, until_txid, until_position, until_pending
"""

_RENEW: Final = """
WITH mine AS MATERIALIZED (
    SELECT handler, shard FROM cursors WHERE owner = $1 AND lease_until < clock_timestamp() + $2 * interval '0.7 second'
      AND (handler, shard, epoch) IN (SELECT * FROM unnest($3::text[], $4::int2[], $5::bigint[]))
    ORDER BY handler, shard FOR UPDATE SKIP LOCKED
)
UPDATE cursors SET lease_until = clock_timestamp() + $2 * interval '1 second'
FROM mine WHERE cursors.handler = mine.handler AND cursors.shard = mine.shard
"""

_HELD: Final = "SELECT handler, shard, epoch FROM cursors WHERE owner = $1"

_RELEASE: Final = """
UPDATE cursors SET owner = NULL, lease_until = '-infinity'
FROM unnest($3::int2[], $4::bigint[]) AS gone (shard, epoch)
WHERE cursors.handler = $1 AND cursors.owner = $2 AND cursors.shard = gone.shard AND cursors.epoch = gone.epoch
"""

_RELEASE_ALL: Final = "UPDATE cursors SET owner = NULL, lease_until = '-infinity' WHERE owner = $1"
_LEAVE: Final = "DELETE FROM workers WHERE id = $1"

_JOIN: Final = """
INSERT INTO workers (id, name, handlers, expires_at) VALUES ($1, $2, $3, clock_timestamp() + $4 * interval '1 second')
ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at, handlers = excluded.handlers
"""
_FORGET: Final = "DELETE FROM workers WHERE expires_at < clock_timestamp() - interval '1 minute'"
_PEERS: Final = "SELECT id, handlers FROM workers WHERE expires_at > clock_timestamp()"
_FREE: Final = f"""
SELECT handler, count(*) FROM cursors
WHERE handler = ANY ($1::text[]) AND lease_until < clock_timestamp() AND {_UNFINISHED} GROUP BY handler
"""

# What was passed before counts less the longer ago it was. Bounded, because exp() of a very small number is an error.
LATELY: Final = """
    cursors.lately * exp(-least(extract(epoch FROM clock_timestamp() - cursors.updated_at)::float8, 600) / 60)
"""

# The row is found where this worker last saw it: while an old snapshot is held somewhere (pg_dump), the dead versions
# of a cursor cannot be cleared away, and every look-up by key would walk through all of them. The expression around
# handler keeps the planner from the key. A version that somebody locks or changes has an xmax, and one whose lease was
# just taken; those are found by their key.
_ACK: Final = """
UPDATE cursors
SET gen = u.gen, txid = u.txid, position = u.position, pending = u.pending::xid8[], read_from = u.read_from,
    updated_at = clock_timestamp(), lease_until = clock_timestamp() + $2 * interval '1 second',
    handled = cursors.handled + u.events, lately = {LATELY} + u.events
FROM unnest($3::text::text[], $4::text::int2[], $5::text::bigint[], $6::text::tid[], $7::text::int2[],
            $8::text::xid8[], $9::text::int8[], $10::text::text[], $11::text::timestamptz[], $12::text::int8[])
     AS u (handler, shard, epoch, tid, gen, txid, position, pending, read_from, events)
WHERE {found} AND cursors.owner = $1
  AND cursors.shard = u.shard AND cursors.epoch = u.epoch
RETURNING cursors.handler, cursors.shard, cursors.ctid::text
"""
_ACK_AT: Final = _ACK.format(
    found="cursors.ctid = u.tid AND cursors.xmax = 0 AND cursors.handler || '' = u.handler", LATELY=LATELY
)
_ACK_BY_KEY: Final = _ACK.format(found="u.tid IS NOT NULL AND cursors.handler = u.handler", LATELY=LATELY)

Place = tuple[str, int]
"""Name of the cursors and shard."""


class Bound(msgspec.Struct, frozen=True):
    """Where a lane's cursor ends: this place is the last one, and events of `pending` are not the lane's."""

    gen: int
    txid: int
    position: int
    pending: tuple[int, ...]


class Leased(msgspec.Struct):
    """A shard that this worker may read for one handler.

    `handler`: the name of the cursors. `tid`: where its row was last seen. `taken_at`: when it was leased, by this
    process's monotonic clock. `bound`: of a lane's.
    """

    handler: str
    shard: int
    epoch: int
    tid: str
    cursor: Cursor
    taken_at: float
    bound: Bound | None = None

    @property
    def place(self) -> Place:
        return self.handler, self.shard


class Move(msgspec.Struct, frozen=True):
    """A step of one leased cursor over so many events."""

    leased: Leased
    to: Cursor
    events: int = 0


class LeaseLost(Exception):
    """Another worker holds the lease now; nothing of this transaction may commit."""


async def take(sql: Sql, handler: str, owner: UUID, *, ttl: float, held: Sequence[int], limit: int) -> list[Leased]:
    """Lease up to `limit` shards that are free, expired, or this owner's but not in `held`; `ttl` in seconds."""
    rows = await sql.fetch(_TAKE, handler, owner, ttl, held, limit)
    taken_at = time.monotonic()
    return [
        Leased(
            *(handler, shard, epoch, tid),
            *(Cursor(gen, txid, position, tuple(pending), read_from), taken_at, _bound(*until)),
        )
        for shard, epoch, tid, gen, txid, position, pending, read_from, *until in rows
    ]


def _bound(gen: int | None, txid: int, position: int, pending: Sequence[int]) -> Bound | None:
    return None if gen is None else Bound(gen, txid, position, tuple(pending))


async def renew(
    sql: Sql, owner: UUID, known: Sequence[tuple[str, int, int]], *, ttl: float
) -> set[tuple[str, int, int]]:
    """Prolong the leases that this owner knows of and that have used up a third of their time; returns all of its own.

    Leases are (handler, shard, epoch). One that the database has and the owner does not know of (its letting go of it
    was lost on the way) runs out, or nobody would ever read that shard again.
    """
    handlers, shards, epochs = zip(*known, strict=True) if known else ((), (), ())
    await sql.execute(_RENEW, owner, ttl, handlers, shards, epochs)
    return {(handler, shard, epoch) for handler, shard, epoch in await sql.fetch(_HELD, owner)}


async def release(sql: Sql, handler: str, owner: UUID, leased: Sequence[Leased]) -> None:
    """Let go of some leases, so that another worker can take them at once."""
    await sql.execute(_RELEASE, handler, owner, [one.shard for one in leased], [one.epoch for one in leased])


async def leave(sql: Sql, owner: UUID) -> None:
    """Let go of everything: this worker ends."""
    await sql.execute(_RELEASE_ALL, owner)
    await sql.execute(_LEAVE, owner)


async def join(sql: Sql, owner: UUID, name: str, handlers: Sequence[str], *, ttl: float) -> dict[str, int]:
    """Count as alive for `ttl` more seconds; returns how many shards of each handler this worker should hold."""
    await sql.execute(_JOIN, owner, name, list(handlers), ttl)
    await sql.execute(_FORGET)
    peers = await sql.fetch(_PEERS)
    return {handler: share([id_ for id_, runs in peers if handler in runs], owner) for handler in handlers}


def share(workers: Sequence[UUID], owner: UUID, *, shards: int = 64) -> int:
    """This worker's part of the shards: as even as whole numbers allow, the same result in every worker."""
    ranked = sorted({*workers, owner})
    each, rest = divmod(shards, len(ranked))
    return each + (ranked.index(owner) < rest)


async def free(sql: Sql, handlers: Sequence[str]) -> dict[str, int]:
    """How many shards of each handler nobody holds."""
    return dict(await sql.fetch(_FREE, list(handlers)))  # type: ignore[arg-type]  # a record of two is a pair


async def ack_unlocked(sql: Sql, owner: UUID, moves: Sequence[Move], *, ttl: float) -> dict[Place, str]:
    """Like `ack`, of those alone whose rows lie where they were last seen and are not locked by anybody."""
    return await _ack(sql, _ACK_AT, owner, moves, ttl)


async def ack(sql: Sql, owner: UUID, moves: Sequence[Move], *, ttl: float) -> dict[Place, str]:
    """Move cursors that are still leased; returns the new tids of those. Fewer than `moves`: leases were lost."""
    done = await ack_unlocked(sql, owner, moves, ttl=ttl)
    if len(done) < len(moves):  # renewing moved the row, somebody has locked it, or the lease is lost
        rest = [move for move in moves if move.leased.place not in done]
        done |= await _ack(sql, _ACK_BY_KEY, owner, rest, ttl)
    return done


_text: Final = lru_cache(maxsize=256)(str)  # the cursors of a page share few moments, and each takes 3 µs


async def _ack(sql: Sql, statement: str, owner: UUID, moves: Sequence[Move], ttl: float) -> dict[Place, str]:
    rows = await sql.fetch(
        statement,
        owner,
        ttl,
        array(move.leased.handler for move in moves),
        array(move.leased.shard for move in moves),
        array(move.leased.epoch for move in moves),
        array(move.leased.tid for move in moves),
        array(move.to.gen for move in moves),
        array(move.to.txid for move in moves),
        array(move.to.position for move in moves),
        array(pending_text(move.to.pending) for move in moves),
        array(_text(move.to.read_from) for move in moves),
        array(move.events for move in moves),
    )
    return {(handler, shard): tid for handler, shard, tid in rows}
