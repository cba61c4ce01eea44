"""Retention: what is older than the rules say goes, in steps that a crash may interrupt anywhere.

Events go by whole partitions, each detached and dropped in one short transaction, which also asks who needs it. Not
`DETACH CONCURRENTLY`: it cannot ask, hides the events while it waits, and leaves a table of which nobody can say
whether retention took it out, to drop it, or a person, to keep it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from receiver.errors import ReceiverError
from receiver.retention_settings import RetentionSettings
from receiver.store import bare, pruning, tasks
from receiver.store.connect import AWAY
from receiver.store.needs import needs
from receiver.store.partitions import Partition, list_partitions
from receiver.store.steps import Busy, Done, Progress, Report, Unfinished
from receiver.store.table_locks import QUIET, lock, lock_events, persistently

TASK: Final = "retention"
_NOW: Final = "SELECT clock_timestamp()"

# Counted where autovacuum has never looked, which is a small partition.
_SIZE: Final = """
SELECT CASE WHEN reltuples < 0 THEN (SELECT count(*) FROM {name}) ELSE reltuples END::bigint AS rows,
       pg_total_relation_size(oid) AS bytes
FROM pg_class WHERE oid = $1::text::regclass
"""
_DROPPED: Final = """
INSERT INTO retention_steps (relation, part, rows, bytes, finished_at)
VALUES ($1, 'events', $2, $3, clock_timestamp())
ON CONFLICT (relation, part) DO UPDATE SET began_at = clock_timestamp(), finished_at = clock_timestamp(),
    rows = excluded.rows, bytes = excluded.bytes
"""


async def run(connection: asyncpg.Connection, rules: RetentionSettings, report: Report) -> None:
    """Do all that the rules ask for now.

    `report` is awaited after each step and each bounded part of a long one; what it raises ends the run, and nothing is
    left half done. Raises Unfinished when all else is done, and what asyncpg raises where the connection is lost.
    """
    faults = [
        await _alone(connection, "events", _drop_due(connection, rules, report)),
        *[
            await _alone(connection, rule.part, pruning.prune(connection, rule, report))
            for rule in pruning.row_rules(rules)
        ],
        await _alone(connection, "raw", _strip_due(connection, rules, report)),
    ]
    if any(faults):
        raise Unfinished("; ".join(fault for fault in faults if fault))


async def _alone(connection: asyncpg.Connection, part: str, work: Awaitable[None]) -> str | None:
    """Why the work on one part failed: the others go on. asyncpg's limit on a statement raises TimeoutError."""
    try:
        await work
    except (Busy, asyncpg.PostgresError, TimeoutError) as error:
        if connection.is_closed():
            raise
        return f"{part}: {error if isinstance(error, Busy) else type(error).__name__}"
    return None


async def run_alone(
    connection: asyncpg.Connection,
    another: Callable[[], AbstractAsyncContextManager[asyncpg.Connection]],
    rules: RetentionSettings,
    report: Report,
    *,
    every: timedelta = timedelta(0),
) -> bool:
    """As `run`, unless another process is at it, or it was done less than `every` ago: False then.

    `another` connection renews the lease meanwhile. Raises Lost where that was not enough, and what `another` raises.
    """
    owner = tasks.this_process()
    if not await tasks.take(connection, TASK, owner, every=every):
        return False

    async def renewing(step: Done | Progress) -> None:
        if not await tasks.renew(connection, TASK, owner):
            raise tasks.Lost("another process has taken retention over, as this one was too slow")
        await report(step)

    error = "interrupted"
    try:
        async with another() as beside, tasks.renewed(beside, TASK, owner):
            await run(connection, rules, renewing)
        error = ""
    except (ReceiverError, *AWAY) as fault:
        error = str(fault) if isinstance(fault, ReceiverError) else type(fault).__name__
        raise
    finally:
        with contextlib.suppress(*AWAY):
            await tasks.end(connection, TASK, owner, error=error or None)
    return True


async def due(connection: asyncpg.Connection, keep: timedelta | None) -> list[Partition]:
    """The partitions all of whose events are older than `keep`, the oldest first."""
    if keep is None:
        return []
    before: datetime = await connection.fetchval(_NOW) - keep
    return [one for one in await list_partitions(connection) if one.span.high <= before and not one.detaching]


async def _drop_due(connection: asyncpg.Connection, rules: RetentionSettings, report: Report) -> None:
    for partition in await due(connection, rules.events):
        await report(await _drop(connection, partition))


async def _drop(connection: asyncpg.Connection, partition: Partition) -> Done:
    """Held where somebody needs it, which costs nobody a lock. Raises Busy."""
    held = await needs(connection, partition)
    if held:
        return Done("events", partition.name, held=tuple(held))
    size = await connection.fetchrow(_SIZE.format(name=partition.name), partition.name)
    assert size is not None
    try:
        return await persistently(lambda: _drop_unneeded(connection, partition, size["rows"], size["bytes"]))
    except Busy as error:
        raise Busy(f"{partition.name} could not be dropped: {error}") from error


async def _drop_unneeded(connection: asyncpg.Connection, partition: Partition, rows: int, bytes_: int) -> Done:
    name = partition.name
    async with connection.transaction(isolation="read_committed"):
        await lock(connection, name, "SHARE UPDATE EXCLUSIVE", QUIET)  # autovacuum gives way
        held = await lock_events(connection, partition)
        if held:
            return Done("events", name, held=tuple(held))
        await connection.execute(f"ALTER TABLE events DETACH PARTITION {name}")
        await bare.forget(connection, name)
        await connection.execute(f"DROP TABLE {name}")
        await connection.execute(_DROPPED, name, rows, bytes_)
    return Done("events", name, rows, bytes_)


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
