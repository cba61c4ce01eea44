"""Workers for tests: started for a block, ended in an orderly way or as by a crash."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from receiver.dispatch.worker import Worker
from receiver.plugins.handlers import Handler
from receiver.store.log import create_cursors
from receiver.vault import Vault
from tests.pgbouncer import through
from tests.waiting import until

VAULT = Vault("a secret key that only tests have, long enough")


class Running:
    """A worker that runs in a task."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(worker.run(self._stop))

    async def stop(self) -> None:
        self._stop.set()
        await self._task

    async def kill(self) -> None:
        """End it without a goodbye: no lease is released, open transactions are cut."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def ended(self) -> None:
        """Wait until it ends by itself; raises what it ended by."""
        await asyncio.wait_for(asyncio.shield(self._task), 60)

    async def end(self) -> None:
        if not self._task.done():
            await self.stop()


def start(dsn: str, *handlers: Handler, **options: Any) -> Running:
    """A running worker; by default it looks often."""
    options = {"poll": (0.02, 0.1), "lease": 2.0, "grace": 3.0, **options}
    return Running(Worker(dsn=through(dsn), handlers=handlers, vault=VAULT, **options))


@asynccontextmanager
async def running(dsn: str, *handlers: Handler, **options: Any) -> AsyncIterator[Running]:
    """A worker for the block."""
    worker = start(dsn, *handlers, **options)
    try:
        yield worker
    finally:
        await worker.end()


async def prepared(connection: asyncpg.Connection, handlers: Sequence[Handler]) -> None:
    """Cursors of the handlers at the present end, so that what is stored from now on is theirs."""
    await create_cursors(connection, [handler.name for handler in handlers])


async def value(connection: asyncpg.Connection, query: str, expected: Any, *args: Any, within: float = 30.0) -> None:
    """Wait until the query's first value is `expected`."""
    found: list[Any] = [None]

    async def equal() -> bool:
        found[0] = await connection.fetchval(query, *args)
        return bool(found[0] == expected)

    try:
        await until(equal, within=within)
    except AssertionError:
        raise AssertionError(f"{query}: {found[0]!r} is not {expected!r}") from None


async def all_read(connection: asyncpg.Connection) -> None:
    """Wait until every cursor has passed every event."""
    behind = """
        SELECT count(*) FROM events e JOIN cursors c USING (shard)
        WHERE (e.gen, e.txid, e.position) > (c.gen, c.txid, c.position)
    """
    await value(connection, behind, 0)


async def true(condition: Callable[[], bool], *, within: float = 30.0) -> None:
    """Wait until a condition in this process holds."""

    async def ask() -> bool:
        return condition()

    await until(ask, within=within)
