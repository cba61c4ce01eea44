"""Locks on whole tables, as retention takes them: briefly, since whoever comes later waits behind who waits for one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import asyncpg

from receiver.store.needs import Need, needs
from receiver.store.partitions import Partition
from receiver.store.steps import Busy

SWITCH: Final = "150ms"  # ingest waits behind an attempt to change what `events` consists of for no longer
QUIET: Final = "2s"  # for locks that hold up neither ingest nor readers: longer than autovacuum takes to give way
ASKING: Final = "500ms"  # ingest waits meanwhile
PAUSES: Final = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)  # seconds between the attempts

_T = TypeVar("_T")


async def lock(connection: asyncpg.Connection, table: str, mode: str, wait: str) -> None:
    """Lock the table until the transaction ends; later waits of it are no longer either. Raises Busy."""
    try:
        await connection.execute(f"SET LOCAL lock_timeout = '{wait}'")
        await connection.execute(f"LOCK TABLE {table} IN {mode} MODE")
    except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
        why = "is waited for: a transaction that uses it is open (see pg_stat_activity)"
        raise Busy(f"{table} {why}; the next run tries again") from error


async def lock_events(connection: asyncpg.Connection, partition: Partition) -> list[Need]:
    """Keep everybody from `events` until the transaction ends, and ask who needs the partition. Raises Busy.

    What was begun since it was last asked counts too: nobody can read `events` between this answer and what follows.
    """
    for table in ("events", partition.name):
        await lock(connection, table, "ACCESS EXCLUSIVE", SWITCH)
    try:
        await connection.execute(f"SET LOCAL statement_timeout = '{ASKING}'")
        held = await needs(connection, partition)
    except asyncpg.QueryCanceledError as error:
        why = f"to see who needs it took longer than {ASKING}, and ingest waits meanwhile"
        raise Busy(f"{partition.name} is left for now: {why}; the next run tries again") from error
    await connection.execute("SET LOCAL statement_timeout TO DEFAULT")
    return held


async def persistently(attempt: Callable[[], Awaitable[_T]]) -> _T:
    """What the first attempt gives that does not raise Busy. Raises Busy with the last."""
    for pause in PAUSES:
        try:
            return await attempt()
        except Busy:
            await asyncio.sleep(pause)
    return await attempt()
