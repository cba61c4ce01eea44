"""Lanes: old events that a handler is given beside its new ones.

A lane has cursors of its own, named `<handler>/lane`, which are leased, read and moved as a handler's own are. Each
ends at a bound: where the handler's own cursor stood (rewind), or where it began (backfill). What lies before such a
place had been committed or rolled back when the place was found, except for the transactions that are pending there,
and those are the other cursor's. So what a lane holds is settled when it is made: it needs no gap list, whatever is
written meanwhile, and the two cursors lose and repeat nothing between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import asyncpg

from receiver.event import SHARDS
from receiver.store.leases import Bound
from receiver.store.log import END_OF_TRANSACTION, SLACK, Cursor, Page, Snapshot, generation, pending_text
from receiver.store.rows import event_of, select_list
from receiver.store.sql import Sql

Kind = Literal["rewind", "backfill"]

_HIGHEST_ID: Final = 1 << 48  # of a transaction; no server comes near

# The first event at or after a transaction, whatever its shard.
_FIRST: Final = """
SELECT e.txid, e.received_at FROM generate_series(0, $3::int - 1) AS shard
CROSS JOIN LATERAL (
    SELECT txid, received_at FROM events
    WHERE events.shard = shard.shard AND gen = $1 AND (events.gen, events.txid, events.position) >= ($1, $2::xid8, 0)
    ORDER BY gen, txid, position LIMIT 1
) AS e ORDER BY e.txid LIMIT 1
"""

_BEGAN: Final = "SELECT began_at FROM handlers WHERE name = $1"
_OPEN: Final = """
INSERT INTO lanes (handler, kind, since, replaying, rate, started_by) VALUES ($1, $2, $3, $4, $5, $6)
"""
# A paused handler's lane is barred from the start, as its own cursors are.
_CURSORS: Final = """
INSERT INTO cursors (handler, shard, gen, txid, position, read_from, lease_until,
                     until_gen, until_txid, until_position, until_pending)
SELECT $1 || '/lane', u.shard, $2, $3, 0, $4, u.lease_until, u.gen, u.txid, u.position, u.pending FROM ({until}) AS u
"""
_UNTIL: Final[dict[Kind, str]] = {
    "rewind": """
        SELECT shard, gen, txid, position, pending, CASE WHEN lease_until = 'infinity' THEN lease_until
               ELSE '-infinity' END AS lease_until
        FROM cursors WHERE handler = $1
    """,
    "backfill": f"""
        SELECT c.shard, h.began_gen AS gen, h.began_txid AS txid, {END_OF_TRANSACTION} AS position,
               h.began_pending AS pending, CASE WHEN c.lease_until = 'infinity' THEN c.lease_until
               ELSE '-infinity' END AS lease_until
        FROM cursors c JOIN handlers h ON h.name = c.handler WHERE c.handler = $1
    """,
}

_WANTED: Final = """
    (events.gen, events.txid, events.position) <= (u.until_gen, u.until_txid, u.until_position)
    AND NOT (events.gen = u.until_gen AND events.txid = ANY (u.until_pending))
"""
_COUNT: Final = f"""
SELECT count(*) FROM cursors u JOIN events ON events.shard = u.shard
    AND (events.gen, events.txid, events.position) > (u.gen, u.txid, u.position)
    AND events.received_at >= $2 AND {_WANTED}
WHERE u.handler = $1 || '/lane'
"""
_READ: Final = f"""
SELECT {select_list("events")} FROM events
WHERE shard = $1 AND (gen, txid, position) > ($2::int2, $3::xid8, $4::int8)
  AND (gen, txid, position) <= ($5::int2, $6::xid8, $7::int8) AND NOT (gen = $5 AND txid = ANY ($8::text::xid8[]))
  AND received_at >= $9
ORDER BY gen, txid, position LIMIT $10
"""

_COLUMNS: Final = "handler, kind, since, replaying, rate, total, started_at, started_by"
_OF: Final = f"SELECT {_COLUMNS} FROM lanes WHERE handler = ANY ($1::text[])"
_END_FINISHED: Final = """
WITH finished AS (
    DELETE FROM lanes WHERE handler = ANY ($1::text[]) AND NOT EXISTS (
        SELECT FROM cursors c WHERE c.handler = lanes.handler || '/lane'
          AND (c.gen, c.txid, c.position) < (c.until_gen, c.until_txid, c.until_position)
    ) RETURNING handler
), gone AS (DELETE FROM cursors USING finished WHERE cursors.handler = finished.handler || '/lane')
SELECT handler FROM finished
"""
_CLOSE: Final = "DELETE FROM lanes WHERE handler = $1"
_CLOSE_CURSORS: Final = "DELETE FROM cursors WHERE handler = $1 || '/lane'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A row of `lanes`."""

    handler: str
    kind: Kind
    since: datetime
    replaying: bool
    rate: float | None
    total: int | None
    started_at: datetime
    started_by: str

    @property
    def cursor(self) -> str:
        """The name of its cursors."""
        return cursor_of(self.handler)


class NoBeginning(Exception):
    """The handler's cursors were made by a release that did not keep where."""


def cursor_of(handler: str) -> str:
    """The name of the cursors of a handler's lane; no handler can have such a name."""
    return f"{handler}/lane"


async def open_lane(
    sql: Sql,
    handler: str,
    kind: Kind,
    since: datetime,
    *,
    replaying: bool = True,
    rate: float | None = None,
    by: str = "",
) -> None:
    """Give the handler what was received since then, up to where its own cursor stands (rewind) or began (backfill).

    To be run in a transaction. Raises asyncpg.UniqueViolationError where the handler has a lane, NoBeginning where it
    is not known where it began.
    """
    if kind == "backfill" and await sql.fetchval(_BEGAN, handler) is None:
        raise NoBeginning(handler)
    gen, txid = await place_before(sql, since)
    await sql.execute(_OPEN, handler, kind, since, replaying, rate, by)
    await sql.execute(_CURSORS.format(until=_UNTIL[kind]), handler, gen, txid, since)


async def count_lane(sql: Sql, handler: str, since: datetime) -> int:
    """How many events a lane still has."""
    return int(await sql.fetchval(_COUNT, handler, since))


async def set_total(sql: Sql, handler: str, total: int) -> None:
    """Note how many events there were at the start."""
    await sql.execute("UPDATE lanes SET total = $2 WHERE handler = $1", handler, total)


async def lanes_of(sql: Sql, handlers: Sequence[str]) -> dict[str, Lane]:
    """The lanes of these handlers, by handler."""
    return {row["handler"]: Lane(**dict(row)) for row in await sql.fetch(_OF, list(handlers))}


async def end_finished(sql: Sql, handlers: Sequence[str]) -> list[str]:
    """Remove the lanes in which nothing is left; returns whose they were."""
    return [row[0] for row in await sql.fetch(_END_FINISHED, list(handlers))]


async def close_lane(connection: asyncpg.Connection, handler: str) -> bool:
    """End a lane where it stands; False: there is none. A worker that is in the middle of a batch cannot commit it."""
    async with connection.transaction():
        closed = await connection.execute(_CLOSE, handler) == "DELETE 1"
        await connection.execute(_CLOSE_CURSORS, handler)
    return closed


async def read_lane(sql: Sql, shard: int, cursor: Cursor, bound: Bound, *, since: datetime, limit: int) -> Page:
    """The lane's next page of one shard."""
    rows = await sql.fetch(
        _READ,
        *(shard, cursor.gen, cursor.txid, cursor.position),
        *(bound.gen, bound.txid, bound.position, pending_text(bound.pending)),
        max(since, cursor.read_from - SLACK),
        limit,
    )
    end = Cursor(bound.gen, bound.txid, bound.position, (), cursor.read_from)
    settled = Snapshot(frozenset(), cursor.read_from, bound.gen)
    return Page(shard, cursor, [event_of(list(row)) for row in rows], 0, len(rows) >= limit, settled, end)


async def place_before(sql: Sql, since: datetime) -> tuple[int, int]:
    """A generation and transaction before which nothing was received at or after `since`, and not long before it.

    Found by bisection, as events are in no index by time. It rests on this: transactions that write events last no
    longer than `SLACK`. An event received earlier than `since` by more than that had drawn its transaction's id before
    `since`, and so had all that come before it in the log.
    """
    early = since - SLACK
    for gen in range(await generation(sql), 0, -1):
        low, high = -1, _HIGHEST_ID
        while high - low > 1:
            middle = max((low + high) // 2, 0)
            found = await sql.fetchrow(_FIRST, gen, middle, SHARDS)
            if found is not None and found["received_at"] < early:
                low = found["txid"]
            else:
                high = middle
        if low >= 0:
            return gen, low
    return 0, 0
