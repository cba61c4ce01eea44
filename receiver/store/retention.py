"""Retention: what is older than the rules say goes, in steps that a crash may interrupt anywhere.

Events go by whole partitions: `DETACH CONCURRENTLY`, then `DROP`. Neither holds a lock that ingest or a reader waits
for longer than a moment. `retention_steps` says what was begun, so that the next run finishes it.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from receiver.retention_settings import RetentionSettings
from receiver.store import bare, pruning, tasks
from receiver.store.needs import needs
from receiver.store.partitions import Partition, list_partitions
from receiver.store.steps import Busy, Done, Progress, Report

TASK: Final = "retention"
_NOW: Final = "SELECT clock_timestamp()"
PAUSES: Final = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # seconds between attempts that met a lock
DETACH_WAIT: Final = 3.0  # seconds

# Counted where autovacuum has never looked, which is a small partition.
_BEGIN_DROP: Final = """
INSERT INTO retention_steps (relation, part, rows, bytes)
SELECT $1, 'events', CASE WHEN reltuples < 0 THEN (SELECT count(*) FROM {name}) ELSE reltuples END::bigint,
       pg_total_relation_size(oid)
FROM pg_class WHERE oid = $1::text::regclass
ON CONFLICT (relation, part) DO UPDATE SET began_at = clock_timestamp(), finished_at = NULL,
    rows = excluded.rows, bytes = excluded.bytes
"""
_FINISH: Final = """
UPDATE retention_steps SET finished_at = clock_timestamp() WHERE relation = $1 AND part = 'events'
RETURNING rows, bytes
"""
_FORGET: Final = "DELETE FROM retention_steps WHERE relation = $1 AND part = 'events' AND finished_at IS NULL"
_BEGUN: Final = """
SELECT relation FROM retention_steps WHERE part = 'events' AND finished_at IS NULL ORDER BY relation
"""


async def run(connection: asyncpg.Connection, rules: RetentionSettings, report: Report) -> None:
    """Do all that the rules ask for now.

    `report` is awaited after each step and each bounded part of a long one; what it raises ends the run, and nothing is
    left half done. Raises Busy, and what asyncpg raises, when all else is done; the next run goes on there.
    """
    failed: Busy | asyncpg.PostgresError | None = None
    for part in (_finish_begun, _drop_due, pruning.prune, _strip_due):
        try:
            await part(connection, rules, report)
        except (Busy, asyncpg.PostgresError) as error:
            if connection.is_closed():
                raise
            failed = failed or error
    if failed is not None:
        raise failed


async def run_alone(
    connection: asyncpg.Connection, rules: RetentionSettings, report: Report, *, every: timedelta = timedelta(0)
) -> bool:
    """As `run`, unless another process is at it, or it was done less than `every` ago: False then."""
    owner = tasks.this_process()
    if not await tasks.take(connection, TASK, owner, every=every):
        return False

    async def renewing(step: Done | Progress) -> None:
        if not await tasks.renew(connection, TASK, owner):
            raise Busy("another process has taken retention over, as this one was too slow")
        await report(step)

    error = "interrupted"
    try:
        await run(connection, rules, renewing)
        error = ""
    except (Busy, asyncpg.PostgresError) as fault:
        error = str(fault) if isinstance(fault, Busy) else type(fault).__name__
        raise
    finally:
        with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            await tasks.end(connection, TASK, owner, error=error or None)
    return True


async def due(connection: asyncpg.Connection, keep: timedelta | None) -> list[Partition]:
    """The partitions all of whose events are older than `keep`, the oldest first."""
    if keep is None:
        return []
    before: datetime = await connection.fetchval(_NOW) - keep
    return [one for one in await list_partitions(connection) if one.span.high <= before and not one.detaching]


async def _finish_begun(connection: asyncpg.Connection, _: RetentionSettings, report: Report) -> None:
    """Drop what an earlier run has detached. What is still attached is judged anew."""
    for (name,) in await connection.fetch(_BEGUN):
        if name in {one.name for one in await list_partitions(connection) if not one.detaching}:
            await connection.execute(_FORGET, name)
        else:
            await report(await _drop(connection, name))


async def _drop_due(connection: asyncpg.Connection, rules: RetentionSettings, report: Report) -> None:
    for partition in await due(connection, rules.events):
        held = await needs(connection, partition)
        if held:
            await report(Done("events", partition.name, held=tuple(held)))
            continue
        await connection.execute(_BEGIN_DROP.format(name=partition.name), partition.name)
        await report(await _drop(connection, partition.name))


async def _drop(connection: asyncpg.Connection, name: str) -> Done:
    for pause in PAUSES:
        try:
            await detach(connection, name)
            return await _drop_detached(connection, name)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError, TimeoutError):
            await asyncio.sleep(pause)
    raise Busy(f"{name} could not be detached: a transaction that reads events is open (see pg_stat_activity)")


async def detach(connection: asyncpg.Connection, name: str) -> None:
    """Take the partition out of `events`; does nothing where it is out. What was interrupted is finished.

    The limit is ours and not `lock_timeout`, which outside of a transaction would stay with a connection that a pooler
    lends to others.
    """
    partitions = await list_partitions(connection)
    for partition in partitions:
        if partition.detaching:  # whoever began it: no other partition can be detached before it is out
            async with connection.transaction():
                await connection.execute("SET LOCAL lock_timeout = '1s'")
                await connection.execute(f"ALTER TABLE events DETACH PARTITION {partition.name} FINALIZE")
    if name in {one.name for one in partitions if not one.detaching}:
        await connection.execute(f"ALTER TABLE events DETACH PARTITION {name} CONCURRENTLY", timeout=DETACH_WAIT)


async def _drop_detached(connection: asyncpg.Connection, name: str) -> Done:
    async with connection.transaction():
        await connection.execute("SET LOCAL lock_timeout = '1s'")
        await connection.execute(f"DROP TABLE IF EXISTS {name}")
        await bare.forget(connection, name)
        row = await connection.fetchrow(_FINISH, name)
        assert row is not None  # begun, and never deleted once it is detached
    return Done("events", name, row["rows"], row["bytes"])


async def _strip_due(connection: asyncpg.Connection, rules: RetentionSettings, report: Report) -> None:
    done = await bare.stripped(connection)
    wanted = await due(connection, rules.raw)
    for name in await bare.begun(connection) - {one.name for one in wanted}:  # the rule has changed meanwhile
        await bare.forget(connection, name)
    for partition in wanted:
        if partition.name in done:
            continue
        held = await needs(connection, partition)
        if held:
            await report(Done("raw", partition.name, held=tuple(held)))
            continue
        async for step in bare.strip(connection, partition):
            await report(step)
