"""A transaction that opens when it is first used, and the part of it that handlers get."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, Final, Self

import asyncpg
from asyncpg.transaction import Transaction as Nested

from receiver.dispatch.database import (
    CONFLICT,
    ENFORCE,
    Conflict,
    Database,
    DatabaseFull,
    DatabaseGone,
    is_alive,
    is_gone,
)

_CONTROL: Final = re.compile(
    r"\s*(begin|start|commit|end|rollback|abort|savepoint|release|prepare\s+transaction)\b", re.IGNORECASE
)
# Rolled back, or the attempts after this one would find no constraint deferred.
_KEEP: Final = f"SAVEPOINT constraints; {ENFORCE}; ROLLBACK TO SAVEPOINT constraints; RELEASE SAVEPOINT attempt"


class Aborted(Exception):
    """A statement failed and the handler went on: Postgres has undone the transaction. Use `ctx.sql.savepoint()`."""


class Transaction:
    """One batch's transaction. Leaving the `async with` block without `commit` rolls back.

    Statements of concurrent tasks of a handler are run one after the other.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: asyncpg.pool.PoolConnectionProxy | None = None
        self._outer: Nested | None = None
        self._alone = self._saved = self._committed = False
        self._turn = asyncio.Lock()
        self._failed: BaseException | None = None
        self._gone: BaseException | None = None
        self._limit: float | None = None  # seconds for a statement; a handler's has the time of its call
        self.ended = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give the connection back, which rolls back what was not committed."""
        self.ended = True
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._gone is not None:
                self._database.drop(connection)
            with self._database.limit(connection):
                if self._outer is not None and is_alive(connection) and not self._committed:
                    with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                        await self._outer.rollback()  # else releasing does it, and asyncpg logs an error
                await self._database.release(connection)

    @property
    def opened(self) -> bool:
        """Whether anything was done in it."""
        return self._connection is not None

    async def run(self, sql: TransactionSql, method: str, query: str, args: tuple[Any, ...]) -> Any:
        """One statement, by the name of asyncpg's method."""
        async with self._turn:
            sql.check()
            connection = self._connection or await self._begin()
            try:
                if self._alone and not self._saved:
                    await self._control("SAVEPOINT attempt")
                    self._saved = True
                return await getattr(connection, method)(query, *args, timeout=self._limit)
            except Exception as error:
                self._note(error)
                raise

    async def _begin(self) -> asyncpg.pool.PoolConnectionProxy:
        try:
            connection = self._connection = await self._database.acquire()
        except DatabaseGone as error:
            self._gone = error.__cause__ or error
            raise
        self._outer = connection.transaction()
        try:
            with self._database.limit(connection):
                await self._outer.start()
        except Exception as error:
            self._note(error, own=True)
            raise
        return connection

    def _note(self, error: Exception, *, own: bool = False) -> None:
        if is_gone(error, self._connection, own=own):
            self._gone = error
        elif isinstance(error, asyncpg.PostgresError):
            self._failed = self._failed or error

    def check_gone(self) -> None:
        """Raises DatabaseGone where the connection was lost, or DatabaseFull."""
        if isinstance(self._gone, asyncpg.DiskFullError):
            raise DatabaseFull(str(self._gone)) from self._gone
        if self._gone is not None:
            raise self._database.lost(self._gone) from self._gone

    def check(self) -> None:
        """Raises DatabaseGone, Conflict or Aborted where a statement has failed so, whatever the handler made of it."""
        if self._gone is None and self._connection is not None and not is_alive(self._connection):
            self._gone = asyncpg.ConnectionDoesNotExistError("the connection was lost between two statements")
        self.check_gone()
        if isinstance(self._failed, CONFLICT):
            raise Conflict(str(self._failed)) from self._failed
        if self._failed is not None:
            raise Aborted(Aborted.__doc__) from self._failed
        if self._connection is not None and not self._connection.is_in_transaction():
            raise Aborted("the handler has ended the transaction by itself")

    @contextmanager
    def own_statements(self) -> Iterator[None]:
        """For statements of our own: they fail by the database alone, so raise DatabaseGone or Conflict."""
        self._limit = self._database.patience
        try:
            yield
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            self._note(error, own=True)
            self.check()
            raise
        finally:
            self._limit = None

    async def commit(self) -> None:
        """Raises DatabaseGone: whether it was committed is not known then, and reading the cursors tells."""
        if self._outer is not None and self._connection is not None:
            try:
                with self._database.limit(self._connection):
                    await self._outer.commit()
                self._committed = True
            except Exception as error:
                self._note(error, own=True)
                self.check()
                raise

    # One event after the other, each of which may fail without the others ----------------------------------------

    def begin_attempt(self) -> None:
        """What follows, up to `keep_attempt` or `undo_attempt`, can be undone; costs nothing if no SQL is used."""
        self._alone = True

    async def keep_attempt(self) -> None:
        """Raises the error of a deferred constraint that it violates."""
        if self._saved:
            await self._control(_KEEP)
        self._alone = self._saved = False

    async def undo_attempt(self) -> None:
        """Raises DatabaseGone where that is impossible."""
        self.check_gone()
        if self._saved:
            try:
                await self._control("ROLLBACK TO SAVEPOINT attempt; RELEASE SAVEPOINT attempt")
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                raise self._database.lost(error) from error
        self._alone = self._saved = False
        self._failed = None

    async def _control(self, statement: str) -> None:
        assert self._connection is not None
        with self._database.limit(self._connection):
            await self._connection.execute(statement)

    @asynccontextmanager
    async def savepoint(self, sql: TransactionSql) -> AsyncIterator[None]:
        await self.run(sql, "execute", "SELECT", ())  # opens what must be open first
        sql.check()
        assert self._connection is not None
        point = self._connection.transaction()
        await point.start()
        failed, self._failed = self._failed, None
        try:
            yield
        except BaseException:  # cancellation too
            if not sql.ended:  # else all of the call is undone, and the connection may be in other hands
                await point.rollback()
                self._failed = failed
            raise
        sql.check()
        await point.commit()
        self._failed = failed


class TransactionSql:
    """`ctx.sql`: statements in the batch's transaction, and no way to end it."""

    __slots__ = ("_over", "_transaction")

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._over = False

    @property
    def ended(self) -> bool:
        """Whether it is of no more use."""
        return self._over or self._transaction.ended

    def end(self) -> None:
        """Let nothing through any more, though the transaction may go on."""
        self._over = True

    def check(self) -> None:
        """Raises RuntimeError where it is of no more use."""
        if self.ended:
            raise RuntimeError("the call has ended, or has taken longer than its timeout: its ctx is of no more use")

    async def execute(self, query: str, *args: Any) -> str:
        result: str = await self._run("execute", query, args)
        return result

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = await self._run("fetch", query, args)
        return rows

    async def fetchrow(self, query: str, *args: Any) -> asyncpg.Record | None:
        row: asyncpg.Record | None = await self._run("fetchrow", query, args)
        return row

    async def fetchval(self, query: str, *args: Any) -> Any:
        return await self._run("fetchval", query, args)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        async with self._transaction.savepoint(self):
            yield

    async def _run(self, method: str, query: str, args: tuple[Any, ...]) -> Any:
        if _CONTROL.match(query):
            raise ValueError(
                "the transaction is committed when the handler returns; to undo a part use ctx.sql.savepoint()"
            )
        return await self._transaction.run(self, method, query, args)
