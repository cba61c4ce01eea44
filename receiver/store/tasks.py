"""Work that one process at a time does for all, by a lease in a row.

Not an advisory lock: one of a session does not survive a pooler that lends connections by transaction, and one of a
transaction would make one transaction of hours of work.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Collection, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from receiver.errors import ReceiverError
from receiver.store.connect import AWAY
from receiver.store.sql import Sql

LEASE: Final = timedelta(minutes=5)
_CLEANING: Final = 10.0  # seconds for what was cancelled: it would wait for a server that is silent

_TAKE: Final = """
INSERT INTO tasks AS t (name, owner, lease_until, started_at)
VALUES ($1, $2, clock_timestamp() + $3, clock_timestamp())
ON CONFLICT (name) DO UPDATE SET owner = $2, lease_until = clock_timestamp() + $3, started_at = clock_timestamp()
WHERE t.lease_until < clock_timestamp() AND (t.finished_at IS NULL OR t.finished_at <= clock_timestamp() - $4::interval)
RETURNING name
"""
# In one order everywhere, here and when all are given back, so that processes do not deadlock.
_HOLD: Final = """
INSERT INTO tasks AS t (name, owner, lease_until, started_at)
SELECT name, $2, clock_timestamp() + $3, clock_timestamp() FROM unnest($1::text[]) AS u (name) ORDER BY name
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, lease_until = excluded.lease_until
WHERE t.owner = excluded.owner OR t.lease_until < clock_timestamp()
RETURNING name
"""
_LEAVE: Final = """
WITH held AS MATERIALIZED (SELECT name FROM tasks WHERE owner = $1 ORDER BY name FOR UPDATE)
UPDATE tasks SET owner = NULL, lease_until = '-infinity' FROM held WHERE tasks.name = held.name
"""
_RENEW: Final = "UPDATE tasks SET lease_until = clock_timestamp() + $3 WHERE name = $1 AND owner = $2 RETURNING name"
_END: Final = """
UPDATE tasks SET owner = NULL, lease_until = '-infinity', error = $3,
       finished_at = CASE WHEN $3::text IS NULL THEN clock_timestamp() ELSE finished_at END
WHERE name = $1 AND owner = $2
"""
_HOLDER: Final = "SELECT owner FROM tasks WHERE name = $1 AND lease_until >= clock_timestamp()"
_LAST: Final = "SELECT finished_at, error, lease_until >= clock_timestamp() AS under_way FROM tasks WHERE name = $1"


@dataclass(frozen=True, slots=True)
class Last:
    """How a task went the last time: when it was last done without a fault, and the fault that it ended with since.

    `under_way`: somebody is at it now.
    """

    finished_at: datetime | None
    error: str | None
    under_way: bool


class Lost(ReceiverError):
    """Another process has the lease by now."""


def this_process() -> str:
    """Host and process."""
    return f"{socket.gethostname()}:{os.getpid()}"


async def take(sql: Sql, name: str, owner: str, *, every: timedelta = timedelta(0)) -> bool:
    """Begin the task; False where another process is at it, or it was done less than `every` ago."""
    return await sql.fetchval(_TAKE, name, owner, LEASE, every) is not None


async def renew(sql: Sql, name: str, owner: str) -> bool:
    """Keep the lease; False where another process has it by now."""
    return await sql.fetchval(_RENEW, name, owner, LEASE) is not None


@asynccontextmanager
async def renewed(sql: Sql, name: str, owner: str) -> AsyncIterator[None]:
    """The lease is kept beside the block, one statement of which may take longer; `sql` is for this alone."""
    async with beside(_renew_on(sql, name, owner), name=f"lease of {name}"):
        yield


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None], *, name: str) -> AsyncIterator[None]:
    """The work goes on beside the block, and ends with it; it must not raise."""
    task = asyncio.create_task(work, name=name)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task], timeout=_CLEANING)


async def _renew_on(sql: Sql, name: str, owner: str) -> None:
    while True:
        await asyncio.sleep(LEASE.total_seconds() / 5)
        with contextlib.suppress(*AWAY):  # there are four more attempts
            await renew(sql, name, owner)


async def end(sql: Sql, name: str, owner: str, *, error: str | None = None) -> None:
    """Give the lease back."""
    await sql.execute(_END, name, owner, error)


async def holder(sql: Sql, name: str) -> str | None:
    """Who is at it now."""
    found: str | None = await sql.fetchval(_HOLDER, name)
    return found


async def last(sql: Sql, name: str) -> Last:
    """How it went the last time; nothing of all that where it was never begun."""
    row = await sql.fetchrow(_LAST, name)
    return Last(None, None, under_way=False) if row is None else Last(**dict(row))


async def hold(sql: Sql, name: str, owner: str, *, lease: timedelta) -> bool:
    """For a task that goes on all the time: whether it is this owner's for `lease` more; it was, or was nobody's."""
    return name in await hold_each(sql, [name], owner, lease=lease)


async def hold_each(sql: Sql, names: Collection[str], owner: str, *, lease: timedelta) -> set[str]:
    """Of several such tasks those that are this owner's."""
    return {row[0] for row in await sql.fetch(_HOLD, list(names), owner, lease)}


async def leave(sql: Sql, owner: str) -> None:
    """Give back everything that this owner holds: it ends."""
    await sql.execute(_LEAVE, owner)
