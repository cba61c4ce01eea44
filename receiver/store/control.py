"""What people decide about a handler: pause it, let it go on, move its cursors, remove it.

Each change takes effect at once, whatever workers are doing: cursors that are moved or taken away get a new epoch, so
a batch in hand cannot be committed. A paused handler's cursors are barred: leased to nobody for ever, which workers of
the release before this one obey too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from receiver.store.lanes import cursor_of, place_before
from receiver.store.log import END_OF_TRANSACTION, LAST_TRANSACTION, RUNNING, SLACK, generation
from receiver.store.sql import Sql

_ORDERS: Final = "SELECT name, state = 'paused', revision FROM handlers WHERE name = ANY ($1::text[])"

# Locked until the transaction ends, so that a pause comes before it or after it.
_PAUSED: Final = "SELECT state = 'paused' FROM handlers WHERE name = $1 FOR SHARE"
_CHANGE: Final = """
INSERT INTO handlers (name, state, changed_by, reason, revision) VALUES ($1, $2, $3, $4, 1)
ON CONFLICT (name) DO UPDATE SET state = excluded.state, changed_by = excluded.changed_by, reason = excluded.reason,
    changed_at = clock_timestamp(), revision = handlers.revision + 1
WHERE handlers.state <> excluded.state
"""
_NOTE_MOVE: Final = """
INSERT INTO handlers (name, revision) VALUES ($1, 1) ON CONFLICT (name) DO UPDATE SET revision = handlers.revision + 1
"""
# Locked before they are changed, so that what the change is made from is the last that a worker has committed.
_LOCK: Final = """
SELECT FROM cursors WHERE handler = ANY ($1::text[]) ORDER BY handler, shard FOR UPDATE
"""
_BAR: Final = """
UPDATE cursors SET owner = NULL, epoch = epoch + 1, lease_until = 'infinity'
WHERE handler = ANY ($1::text[]) AND lease_until <> 'infinity' AND ($2 OR lease_until < clock_timestamp())
"""
_HELD: Final = "SELECT count(*) FROM cursors WHERE handler = ANY ($1::text[]) AND lease_until <> 'infinity'"
_UNBAR: Final = (
    "UPDATE cursors SET lease_until = '-infinity' WHERE handler = ANY ($1::text[]) AND lease_until = 'infinity'"
)

FENCED: Final = """
    epoch = epoch + 1, owner = NULL,
    lease_until = CASE WHEN lease_until = 'infinity' THEN lease_until ELSE '-infinity' END
"""
_SKIP_ALL: Final = f"""
UPDATE cursors SET gen = $2, txid = {LAST_TRANSACTION}, position = {END_OF_TRANSACTION}, pending = {RUNNING},
    read_from = now(), {FENCED}
WHERE handler = $1
"""
# Each shard goes to just before its first event of that time; in one that has none, to the end. What is pending stays.
_SKIP_TO: Final = f"""
WITH place AS MATERIALIZED (
    SELECT c.shard, coalesce(first.gen, $2) AS gen, coalesce(first.txid, {LAST_TRANSACTION}) AS txid,
           coalesce(first.position - 1, {END_OF_TRANSACTION}) AS position
    FROM cursors c LEFT JOIN LATERAL (
        SELECT e.gen, e.txid, e.position FROM events e
        WHERE e.shard = c.shard AND (e.gen, e.txid, e.position) > (c.gen, c.txid, c.position)
          AND (e.gen, e.txid, e.position) >= ($4::int2, $5::xid8, 0::bigint) AND e.received_at >= $3
        ORDER BY e.gen, e.txid, e.position LIMIT 1
    ) AS first ON true
    WHERE c.handler = $1
)
UPDATE cursors SET gen = place.gen, txid = place.txid, position = place.position,
    pending = ARRAY(SELECT unnest(pending) WHERE cursors.gen = place.gen
                    UNION SELECT x FROM unnest({RUNNING}) AS x WHERE place.gen = $2 AND x <= place.txid ORDER BY 1),
    read_from = greatest(read_from, $3), {FENCED}
FROM place WHERE cursors.handler = $1 AND cursors.shard = place.shard
"""
_UNREAD: Final = """
SELECT count(*) FROM cursors c CROSS JOIN LATERAL (
    SELECT e.received_at FROM events e
    WHERE e.shard = c.shard AND (e.gen, e.txid, e.position) > (c.gen, c.txid, c.position)
      AND e.received_at >= c.read_from - $2::interval
    UNION ALL
    SELECT e.received_at FROM events e
    WHERE c.pending <> '{}' AND e.shard = c.shard AND e.gen = c.gen AND e.txid = ANY (c.pending)
      AND e.received_at >= c.read_from - $2::interval
) AS unread
WHERE c.handler = $1 AND ($3::timestamptz IS NULL OR unread.received_at < $3)
"""

_FORGOTTEN: Final = """
SELECT name FROM unnest($1::text[]) AS name WHERE NOT EXISTS (SELECT FROM cursors WHERE handler = name)
"""
_RUNS: Final = "SELECT name FROM workers WHERE $1 = ANY (handlers) AND expires_at > clock_timestamp() ORDER BY name"
_KEPT: Final = (("cursors", "handler"), ("lanes", "handler"), ("retries", "handler"), ("handlers", "name"))
_REMOVE: Final = "DELETE FROM {table} WHERE {column} = ANY ($1::text[])"
_FORGET: Final = "DELETE FROM attempts WHERE handler = $1 AND dead_letter_id IS NULL"
# Before its retries are deleted: whoever is putting events there holds the row. One that has put all its events is not
# done for all that while some of them wait, and goes with those.
_LOCK_REPLAYS: Final = "SELECT FROM replays WHERE handler = $1 AND state = 'running' FOR UPDATE"
_END_REPLAYS: Final = """
UPDATE replays SET state = 'cancelled', ended_at = now(),
       taken_back = (SELECT count(*) FROM retries WHERE replay_id = replays.id)
WHERE handler = $1 AND (state = 'running' OR EXISTS (SELECT FROM retries WHERE replay_id = replays.id))
"""
_DISCARD: Final = """
UPDATE dead_letters SET resolved_at = now(), resolution = 'discarded', reason = 'the handler was removed'
WHERE handler = $1 AND resolved_at IS NULL
"""


@dataclass(frozen=True, slots=True)
class Order:
    """What workers obey. `revision`: differs when something was changed."""

    paused: bool = False
    revision: int = 0


async def orders(sql: Sql, handlers: Sequence[str]) -> dict[str, Order]:
    """What was decided about these handlers; those without a decision are left out."""
    return {name: Order(paused, revision) for name, paused, revision in await sql.fetch(_ORDERS, list(handlers))}


async def paused(sql: Sql, handler: str) -> bool:
    """Whether it is paused, for a transaction that holds no lease and is about to commit."""
    return bool(await sql.fetchval(_PAUSED, handler))


async def exists(sql: Sql, handler: str) -> bool:
    """Whether the handler has cursors."""
    return bool(await sql.fetchval("SELECT EXISTS (SELECT FROM cursors WHERE handler = $1)", handler))


async def moved_at(sql: Sql, handler: str) -> datetime:
    """When one of its cursors last moved."""
    moved: datetime = await sql.fetchval("SELECT max(updated_at) FROM cursors WHERE handler = $1", handler)
    return moved


async def pause(connection: asyncpg.Connection, handler: str, *, by: str, reason: str) -> bool:
    """Let nobody take its shards any more; False: it was paused. Workers let go after the batch in hand: see `bar`."""
    return await connection.execute(_CHANGE, handler, "paused", by, reason) != "INSERT 0 0"


async def bar(connection: asyncpg.Connection, handler: str, *, force: bool) -> int:
    """Bar what nobody holds, or everything; returns how many shards are still held.

    After `force` nothing of the handler's batches can be committed.
    """
    names = [handler, cursor_of(handler)]
    async with connection.transaction():
        if (await orders(connection, [handler]))[handler].paused:  # someone may have resumed it meanwhile
            await connection.execute(_LOCK, names)
            await connection.execute(_BAR, names, force)
            return int(await connection.fetchval(_HELD, names))
        return 0


async def resume(connection: asyncpg.Connection, handler: str, *, by: str) -> bool:
    """Let workers take its shards again; False: it was not paused."""
    async with connection.transaction():
        changed = await connection.execute(_CHANGE, handler, "running", by, "") != "INSERT 0 0"
        await connection.execute(_UNBAR, [handler, cursor_of(handler)])
    return changed


async def count_unread(sql: Sql, handler: str, before: datetime | None = None) -> int:
    """How many events its cursors have not read, of those received before a time."""
    return int(await sql.fetchval(_UNREAD, handler, SLACK, before))


async def skip(connection: asyncpg.Connection, handler: str, to: datetime | None) -> None:
    """Move its cursors over what was received before that time, or over everything; never back.

    Of what was received within an hour before that time some may be left unread, never the other way round.
    """
    async with connection.transaction():
        await connection.execute(_NOTE_MOVE, handler)
        await connection.execute(_LOCK, [handler])
        gen = await generation(connection)
        if to is None:
            await connection.execute(_SKIP_ALL, handler, gen)
        else:
            await connection.execute(_SKIP_TO, handler, gen, to, *await place_before(connection, to))


async def forgotten(sql: Sql, handlers: Sequence[str]) -> list[str]:
    """Those of the handlers that have no cursors (any more)."""
    return [row[0] for row in await sql.fetch(_FORGOTTEN, list(handlers))]


async def workers_with(sql: Sql, handler: str) -> list[str]:
    """Names of the workers that run it now."""
    return [row[0] for row in await sql.fetch(_RUNS, handler)]


async def remove(connection: asyncpg.Connection, handler: str, *, dead_letters: bool) -> None:
    """Forget its progress and its retries, and end its replays; its dead letters are discarded or kept."""
    async with connection.transaction():
        await connection.execute(_LOCK_REPLAYS, handler)
        await connection.execute(_END_REPLAYS, handler)
        for table, column in _KEPT:
            await connection.execute(_REMOVE.format(table=table, column=column), [handler, cursor_of(handler)])
        await connection.execute(_FORGET, handler)
        if dead_letters:
            await connection.execute(_DISCARD, handler)
