"""What a chaos run did to the database, counted when nothing moves any more."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg
from rich.console import Console

from bench.chaos_report import Effects

PATIENCE: Final = 180.0  # seconds for what is left when the troubles are over
REST: Final = 12.0  # seconds without a move before the count: longer than a lease, so nobody is about to take over
say: Final = Console(stderr=True)

# No unique keys: an effect that happens twice must show. Some calls fail, and are tried again.
HANDLERS: Final = """
import random
from collections.abc import Sequence
from receiver import Context, Event, handler


@handler(batch=True, tests=True, machines=True)
async def in_batches(events: Sequence[Event], ctx: Context) -> None:
    await ctx.sql.execute("INSERT INTO in_batches SELECT unnest($1::uuid[])", [event.id for event in events])


@handler(tests=True, machines=True)
async def one_by_one(event: Event, ctx: Context) -> None:
    await ctx.sql.execute("INSERT INTO one_by_one VALUES ($1)", event.id)


@handler(tests=True, machines=True, max_attempts=20)
async def flaky(event: Event, ctx: Context) -> None:
    await ctx.sql.execute("INSERT INTO flaky VALUES ($1)", event.id)
    if random.random() < 0.02:
        raise RuntimeError("now and then")
"""
TABLES: Final = ("in_batches", "one_by_one", "flaky")
_EFFECTS: Final = ", ".join(f"(SELECT count(*) FROM {table})" for table in TABLES)
_STATE: Final = f"""
SELECT (SELECT count(*) FROM retries), (SELECT count(*) FROM dead_letters), (SELECT count(*) FROM events), {_EFFECTS},
       (SELECT max(updated_at) FROM cursors), (SELECT sum(epoch) FROM cursors)
"""
# EXCEPT, as nothing may have been analyzed yet: two NOT EXISTS were nested loops over tens of thousands of rows.
_SEEN: Final = "SELECT NOT EXISTS (SELECT FROM retries) AND " + " AND ".join(
    f"""NOT EXISTS (
        SELECT id FROM events EXCEPT
        (SELECT id FROM {table} UNION ALL SELECT event_id FROM dead_letters WHERE handler = '{table}'))"""
    for table in TABLES
)


@dataclass(frozen=True, slots=True)
class Counts:
    """`found`: how often each recipient is in an event. `dead_letters`: open ones. `retries`: still to be tried."""

    found: dict[str, int]
    handlers: dict[str, Effects]
    dead_letters: int
    retries: int

    def stored(self, recipients: Sequence[str]) -> bool:
        return self.found.keys() >= set(recipients)


async def make_tables(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for table in TABLES:
            await connection.execute(f"CREATE TABLE {table} (id uuid)")
    finally:
        await connection.close()


async def lag(dsn: str) -> int | None:
    """Events that some handler has not seen; None: the database does not answer."""
    try:
        async with asyncio.timeout(3):
            connection = await asyncpg.connect(dsn, timeout=1)
            try:
                row = await connection.fetchrow(f"SELECT (SELECT count(*) FROM events), {_EFFECTS}")
                events, *effects = map(int, row or (0,))
                return max((len(TABLES) * events - sum(effects)) // len(TABLES), 0)
            finally:
                connection.terminate()
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
        return None


async def counted(dsn: str) -> Counts:
    """The counts once every handler has seen every event, or gave up, and then nothing has moved for a while."""
    connection = await asyncpg.connect(dsn)
    try:
        try:
            async with asyncio.timeout(PATIENCE):
                await _rest(connection)
        except TimeoutError:
            say.print(f"after {PATIENCE:.0f} s of calm a handler has not seen everything, or something still moves")
            await _explain(connection)
        rows = await connection.fetch("SELECT recipient, count(*) FROM events GROUP BY 1")
        return Counts(
            found={row[0]: row[1] for row in rows},
            handlers={table: await _effects(connection, table) for table in TABLES},
            dead_letters=await connection.fetchval("SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL"),
            retries=await connection.fetchval("SELECT count(*) FROM retries"),
        )
    finally:
        await connection.close()


async def _rest(connection: asyncpg.Connection) -> None:
    """Until nothing is left to do, and no cursor, lease, retry or effect has moved for REST: a double may come late."""
    loop = asyncio.get_running_loop()
    state, since = None, loop.time()
    while loop.time() < since + REST or not await connection.fetchval(_SEEN):
        now = tuple(await connection.fetchrow(_STATE) or ())
        if now != state:
            state, since = now, loop.time()
        await asyncio.sleep(0.5)


async def _effects(connection: asyncpg.Connection, table: str) -> Effects:
    row = await connection.fetchrow(
        f"""
        SELECT count(*), count(DISTINCT id),
               (SELECT count(*) FROM events e WHERE NOT EXISTS (SELECT FROM {table} WHERE id = e.id)),
               (SELECT count(DISTINCT id) FROM {table} t WHERE NOT EXISTS (SELECT FROM events WHERE id = t.id))
        FROM {table}
        """
    )
    assert row is not None
    return Effects(*row)


async def _explain(connection: asyncpg.Connection) -> None:
    """Say whether what was not seen was passed by, or is still to be read."""
    for table in TABLES:
        rows = await connection.fetch(
            f"""
            SELECT CASE WHEN (e.gen, e.txid, e.position) > (c.gen, c.txid, c.position) THEN 'not read yet'
                        WHEN e.txid = ANY (c.pending) THEN 'pending' ELSE 'passed by' END, count(*),
                   count(DISTINCT e.shard), min(c.updated_at)
            FROM events e JOIN cursors c ON c.handler = '{table}' AND c.shard = e.shard
            WHERE NOT EXISTS (SELECT FROM {table} WHERE id = e.id) GROUP BY 1
            """
        )
        for why, count, shards, since in rows:
            say.print(f"{table}: {count} events of {shards} shards {why}; the cursors stand since {since}")
