"""Reading the log once for all handlers of this process that stand at the same place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from receiver.dispatch.database import GONE, Database, DatabaseGone
from receiver.store import wire
from receiver.store.connect import connect, is_usable
from receiver.store.leases import Leased
from receiver.store.log import FRESH, Cursor, CursorKey, Page, check_generation, read_pages

_KEPT: Final = 8  # reads' worth of events kept at most

# The statement always is a nested loop over the log's index; plans made while the table was small and empty are kept
# by the server otherwise, and a read must never become a scan.
_SETTINGS: Final = {
    "jit": "off",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_bitmapscan": "off",
    "max_parallel_workers_per_gather": "0",
    "plan_cache_mode": "force_generic_plan",
    "default_transaction_read_only": "on",
    "statement_timeout": "60s",
}


class LogConnection:
    """A connection to the primary for reading the log, made when it is first used and again after it was lost."""

    def __init__(self, dsn: str, database: Database, *, name: str) -> None:
        self._dsn = dsn
        self._database = database
        self._name = f"receiver reader {name}"
        self._open: tuple[asyncpg.Connection, int] | None = None
        self._turn = asyncio.Lock()  # the lanes of several handlers read by the same one

    @asynccontextmanager
    async def use(self) -> AsyncIterator[tuple[asyncpg.Connection, int]]:
        """The connection, one user after the other, and the generation of new events.

        Raises DatabaseGone or SchemaError.
        """
        async with self._turn:
            try:
                yield await self._connected()
            except (*GONE, asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
                self.cut()
                raise self._database.lost(error) from error

    async def _connected(self) -> tuple[asyncpg.Connection, int]:
        if self._open is None or not is_usable(self._open[0]):
            self.cut()
            connection = await connect(self._dsn, name=self._name, settings=_SETTINGS)
            try:
                await wire.prepare_moments(connection)
                self._open = connection, await check_generation(connection)
            except BaseException:
                connection.terminate()
                raise
        return self._open

    def cut(self) -> None:
        """Drop the connection."""
        if self._open is not None:
            self._open[0].terminate()
            self._open = None


class Reader:
    """Answers `read` from what another handler has just read, and reads the rest together in one statement.

    `batch`: about how many events one statement fetches, over all shards.
    """

    def __init__(self, connection: LogConnection, database: Database, *, batch: int) -> None:
        self._connection = connection
        self._database = database
        self._batch = batch
        self._limit = 0
        self._pages: dict[CursorKey, tuple[float, Page]] = {}
        self._kept = 0
        self._session = database.session
        self._waiting: dict[CursorKey, tuple[int, Cursor, asyncio.Future[Page]]] = {}
        self._asked = asyncio.Event()

    async def next(self, held: Sequence[Leased]) -> list[tuple[Leased, Page]]:
        """The next pages of leased shards, of those that have any. Raises DatabaseGone."""
        if not held:
            return []
        pages = await self.read([(leased.shard, leased.cursor) for leased in held])
        for leased, page in zip(held, pages, strict=True):
            if not page.events:  # what has ended meanwhile without events need not be asked for again
                leased.cursor = page.after(0)
        return [(leased, page) for leased, page in zip(held, pages, strict=True) if page.events]

    async def read(self, cursors: Sequence[tuple[int, Cursor]]) -> list[Page]:
        """The next page of each (shard, cursor). Raises DatabaseGone."""
        self._forget()
        pages = [self._find(shard, cursor) for shard, cursor in cursors]
        missing = [page for page in pages if isinstance(page, asyncio.Future)]
        if missing:
            await asyncio.wait(missing)
        return [page.result() if isinstance(page, asyncio.Future) else page for page in pages]

    async def run(self) -> None:
        """Serve reads until cancelled."""
        try:
            while True:
                await self._asked.wait()
                self._asked.clear()
                await self._serve()
        finally:
            self._connection.cut()

    def _find(self, shard: int, cursor: Cursor) -> Page | asyncio.Future[Page]:
        key = cursor.key(shard)
        kept = self._pages.get(key)
        if kept is not None:
            return kept[1]
        # A read under way is not joined: it may have begun before the commit that this one is to see.
        if key not in self._waiting:
            self._waiting[key] = (shard, cursor, asyncio.get_running_loop().create_future())
            self._asked.set()
        return self._waiting[key][2]

    async def _serve(self) -> None:
        waiting, self._waiting = self._waiting, {}
        asked = {key: one for key, one in waiting.items() if not self._answered(key, one[2])}
        if not asked:
            return
        futures = {key: future for key, (_, _, future) in asked.items()}
        try:
            pages = await self._fetch([(shard, cursor) for shard, cursor, _ in asked.values()])
        except BaseException as error:  # whatever it is, those who wait must learn of it
            for future in futures.values():
                future.set_exception(DatabaseGone(str(error)))
                future.exception()  # whoever asked may have been cancelled meanwhile
            if not isinstance(error, DatabaseGone):
                raise
        else:
            for (key, future), page in zip(futures.items(), pages, strict=True):
                self._keep(key, page)
                future.set_result(page)

    def _answered(self, key: CursorKey, future: asyncio.Future[Page]) -> bool:
        """Whether a read that was under way when this was asked has found something."""
        kept = self._pages.get(key)
        if kept is not None:
            future.set_result(kept[1])
        return kept is not None

    async def _fetch(self, cursors: Sequence[tuple[int, Cursor]]) -> list[Page]:
        least = max(self._batch // len(cursors), 1)
        self._limit = min(max(self._limit, least), max(least * 8, 1), self._batch)
        async with self._connection.use() as (connection, gen):
            pages = await read_pages(connection, cursors, limit=self._limit, gen=gen)
        self._database.back()
        self._adapt(pages)
        return pages

    def _adapt(self, pages: Sequence[Page]) -> None:
        """Ask for more per shard while few shards have many events, for less when all have."""
        found = sum(len(page.events) for page in pages)
        if found < self._batch // 2 and any(page.full for page in pages):
            self._limit *= 2
        elif found > self._batch:
            self._limit //= 2

    def _keep(self, key: CursorKey, page: Page) -> None:
        if page.events:
            self._pages[key] = (time.monotonic(), page)
            self._kept += len(page.events)

    def _forget(self) -> None:
        """Drop what is old or too much; everything when a connection was lost, since ids may be given out again."""
        if self._session != self._database.session:
            self._session, self._kept = self._database.session, 0
            self._pages.clear()
        oldest = time.monotonic() - FRESH
        while self._pages:
            key, (read_at, page) = next(iter(self._pages.items()))
            if read_at > oldest and self._kept <= self._batch * _KEPT:
                break
            del self._pages[key]
            self._kept -= len(page.events)


def server_settings() -> dict[str, Any]:
    """What the reading connection asks of the planner; a test looks at the plan it leads to."""
    return dict(_SETTINGS)
