"""Going on after transaction ids have started anew: a restored dump, or an upgrade by logical replication.

Events keep their old places, in the old generation; new ones get the next generation, which comes after all of it. The
cursors need not move: what they had read stays before them. Of the transactions that were pending, those that have
events in the log had committed when the dump was made, and are still to be read; the others never were in it, and their
ids may be given out again for something else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import asyncpg

from receiver.store.log import SLACK, generation, went_backwards
from receiver.store.sql import Sql

_LIVE: Final = """
SELECT name FROM workers WHERE expires_at > clock_timestamp()
UNION
SELECT application_name FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'receiver%' AND application_name <> 'receiver-cli'
ORDER BY 1
"""
_STANDING: Final = """
SELECT count(DISTINCT handler) AS handlers, count(*) AS cursors, coalesce(sum(unread.events), 0)::bigint AS unread
FROM cursors c CROSS JOIN LATERAL (
    SELECT count(*) AS events FROM events e
    WHERE e.shard = c.shard AND e.received_at >= c.read_from - $1::interval
      AND ((e.gen, e.txid, e.position) > (c.gen, c.txid, c.position) OR (e.gen = c.gen AND e.txid = ANY (c.pending)))
) AS unread
WHERE c.until_gen IS NULL
"""
_RAISE: Final = "ALTER TABLE events ALTER COLUMN gen SET DEFAULT {gen}"
_REBASE: Final = """
UPDATE cursors SET epoch = epoch + 1, owner = NULL,
    lease_until = CASE WHEN lease_until = 'infinity' THEN lease_until ELSE '-infinity' END,
    pending = ARRAY(
        SELECT x FROM unnest(pending) AS x WHERE EXISTS (
            SELECT FROM events e WHERE e.shard = cursors.shard AND e.gen = cursors.gen AND e.txid = x
        ) ORDER BY x
    )
"""


@dataclass(frozen=True, slots=True)
class Rebasing:
    """What a rebase concerns. `generation`: of the events so far. `needed`: transaction ids have gone backwards."""

    needed: bool
    generation: int
    handlers: int
    cursors: int
    unread: int


async def look(sql: Sql) -> Rebasing:
    """How things stand; changes nothing."""
    gen = await generation(sql)
    row = await sql.fetchrow(_STANDING, SLACK)
    assert row is not None
    return Rebasing(await went_backwards(sql, gen), gen, *row)


async def users(sql: Sql) -> list[str]:
    """Who of the service uses the database now: names of workers and of connections."""
    return [row[0] for row in await sql.fetch(_LIVE)]


async def rebase(connection: asyncpg.Connection) -> bool:
    """Begin a new generation, once; False: transaction ids have not gone backwards, and nothing was changed.

    Raises asyncpg.LockNotAvailableError where somebody uses the log.
    """
    async with connection.transaction():
        await connection.execute("SET LOCAL lock_timeout = '10s'")
        await connection.execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")  # no event may come between
        gen = await generation(connection)
        if not await went_backwards(connection, gen):
            return False
        await connection.execute(_RAISE.format(gen=gen + 1))
        await connection.execute(_REBASE)
        return True
