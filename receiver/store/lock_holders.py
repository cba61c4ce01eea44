"""Who holds the locks that a session waits for, for people who have to decide what to do about it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from receiver.printable import printable
from receiver.store.connect import AWAY, connect

_LOOK_EVERY: Final = 0.5  # seconds

# What belongs to another role shows its name and nothing of its transaction. A prepared transaction has no process.
_HOLDERS: Final = """
SELECT DISTINCT pid, application_name AS name, usename AS role,
       date_trunc('second', xact_start AT TIME ZONE 'UTC') AS since
FROM unnest(pg_blocking_pids($1)) AS pid LEFT JOIN pg_stat_activity USING (pid) ORDER BY pid
"""


@asynccontextmanager
async def watching(dsn: str, connection: asyncpg.Connection, *, name: str) -> AsyncIterator[list[str]]:
    """For the block, in a transaction: who was last seen to hold what the connection waits for, a line for each.

    Looks on another connection, called `name`; where there is none to be had nobody is seen.
    """
    seen: list[str] = []
    task = asyncio.create_task(_watch(dsn, await connection.fetchval("SELECT pg_backend_pid()"), name, seen))
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _watch(dsn: str, pid: int, name: str, seen: list[str]) -> None:
    await asyncio.sleep(_LOOK_EVERY)  # nearly always it is over by then
    with contextlib.suppress(*AWAY):
        connection = await connect(dsn, name=name)
        try:
            while True:
                seen[:] = [_line(row) for row in await connection.fetch(_HOLDERS, pid)] or seen
                await asyncio.sleep(_LOOK_EVERY)
        finally:
            connection.terminate()


def _line(row: asyncpg.Record) -> str:
    if row["pid"] == 0:
        return "a prepared transaction (see pg_prepared_xacts)"
    role = f" of role {printable(row['role'])}" if row["role"] else ""
    name = f", '{printable(row['name'])}'" if row["name"] else ""
    since = f", in a transaction since {row['since']} UTC" if row["since"] else ""
    return f"process {row['pid']}{role}{name}{since}"
