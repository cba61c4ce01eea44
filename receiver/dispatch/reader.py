"""Reading the log once for all handlers of this process that stand at the same place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
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
_PATIENCE: Final = 65.0  # seconds; longer than the server needs to say that a read took too long


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
            connection = await connect(self._dsn, name=self._name, settings=_SETTINGS, command_timeout=_PATIENCE)
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
        self._waiting: dict[CursorKey, tuple[int, Cursor]] = {}  # for the next read, whose answer is:
        self._answer: asyncio.Future[Mapping[CursorKey, Page]] | None = None
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
        keys = [cursor.key(shard) for shard, cursor in cursors]
        found = self._kept_of(keys)
        missing = {key: one for key, one in zip(keys, cursors, strict=True) if key not in found}
        if missing:
            found |= await self._ask(missing)
        return [found[key] for key in keys]

    async def run(self) -> None:
        """Serve reads until cancelled."""
        try:
            while True:
                await self._asked.wait()
                self._asked.clear()
                await self._serve()
        finally:
            self._connection.cut()

    def _kept_of(self, keys: Iterable[CursorKey]) -> dict[CursorKey, Page]:
        return {key: kept[1] for key in keys if (kept := self._pages.get(key)) is not None}

    async def _ask(self, missing: Mapping[CursorKey, tuple[int, Cursor]]) -> Mapping[CursorKey, Page]:
        """By the next read. One under way is not joined: it may have begun before the commit that this is to see."""
        if self._answer is None:
            self._answer = asyncio.get_running_loop().create_future()
        self._waiting |= missing
        self._asked.set()
        answer = self._answer
        await asyncio.wait([answer])  # others wait for it too, and being cancelled here must not cancel it
        return answer.result()

    async def _serve(self) -> None:
        waiting, self._waiting = self._waiting, {}
        answer, self._answer = self._answer, None
        assert answer is not None  # by `_ask`
        pages = self._kept_of(waiting)  # found by a read that was under way when this was asked
        try:
            pages |= await self._fetch({key: one for key, one in waiting.items() if key not in pages})
        except BaseException as error:  # whatever it is, those who wait must learn of it
            answer.set_exception(DatabaseGone(str(error)))
            answer.exception()  # whoever asked may have been cancelled meanwhile
            if not isinstance(error, DatabaseGone):
                raise
        else:
            answer.set_result(pages)

    async def _fetch(self, asked: Mapping[CursorKey, tuple[int, Cursor]]) -> dict[CursorKey, Page]:
        if not asked:
            return {}
        cursors = list(asked.values())
        least = max(self._batch // len(cursors), 1)
        self._limit = min(max(self._limit, least), max(least * 8, 1), self._batch)
        async with self._connection.use() as (connection, gen):
            pages = await read_pages(connection, cursors, limit=self._limit, gen=gen)
        self._database.back()
        self._adapt(pages)
        for key, page in zip(asked, pages, strict=True):
            self._keep(key, page)
        return dict(zip(asked, pages, strict=True))

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
