"""Connections for dispatching, and telling the database's troubles from a handler's."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Final, TypeAlias
from weakref import WeakSet

import asyncpg
import structlog

from receiver.store import sessions
from receiver.store.connect import create_pool
from receiver.store.sql import Sql

log: Final = structlog.get_logger("receiver.dispatch")

LOCK_TIMEOUT: Final = 10  # seconds; shorter than a handler's usual limit, so that a lock is told from a hanging handler
PATIENCE: Final = 15.0  # seconds; longer than the server needs to say that a lock cannot be had
_LONGEST_PAUSE: Final = 5.0

# The connection or the server is going, gone or full: nobody's fault, roll back and come again.
GONE: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InternalClientError,
    asyncpg.InterfaceError,
    OSError,  # also TimeoutError: no answer
)
# Those of them that a statement may meet while its connection lives, although nothing is wrong with it: the database
# takes nothing from anybody now. The others are then the statement's own, such as a limit that it alone exceeds, or
# those of another server that it asks.
NOT_NOW: Final = (
    asyncpg.DiskFullError,
    asyncpg.TooManyConnectionsError,
    asyncpg.OperatorInterventionError,
    asyncpg.PostgresIOError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InternalClientError,
    OSError,
)
# Two transactions were in each other's way: the same work succeeds when repeated.
CONFLICT: Final = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
)


Connection: TypeAlias = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy


class DatabaseGone(Exception):
    """The connection of this work was lost; everything in memory about the log is stale."""


class DatabaseFull(DatabaseGone):
    """There is no room for what this work writes. The connection and what was read are good; others may go on."""


class Conflict(Exception):
    """The transaction met another one (deadlock, lock timeout, serialization) and was rolled back."""


def is_alive(connection: Connection) -> bool:
    """Whether the connection can still be used."""
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:  # the pool has taken it back because it was lost
        return False


def is_gone(error: BaseException, connection: asyncpg.pool.PoolConnectionProxy | None, *, own: bool) -> bool:
    """Whether an error of a statement is the database's, so that this work is to be done again. `own`: one of ours."""
    if connection is None or not is_alive(connection):
        return True
    if isinstance(error, (asyncpg.QueryCanceledError, asyncpg.InterfaceError)):
        return False  # a time limit of the handler's own statement; a call with wrong arguments
    return isinstance(error, GONE if own else NOT_NOW)


# Cursors' rows are looked up by their place or key. A plan made while the table was small would scan it, for as long
# as the connection lives and however much it has grown with dead versions.
_OWN: Final = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}
_OWN_CONNECTIONS: Final = 2


class Database:
    """The connections of one worker: some for handlers' transactions, some for statements of our own.

    `session` is raised whenever a connection is lost: what was read before is stale then.

    A connection can die without a word. So each statement of our own has `patience` seconds, after which its
    connection is cut. (A handler's has the time of its call.)
    """

    def __init__(self, dsn: str, *, connections: int, idle_limit: float, name: str, patience: float = PATIENCE) -> None:
        self._dsn = dsn
        self._connections = connections
        self._name = name
        self.patience: Final = patience
        self._settings = {
            "jit": "off",
            "lock_timeout": f"{LOCK_TIMEOUT}s",
            # A worker that is frozen in the middle of a batch must not keep its locks for ever.
            "idle_in_transaction_session_timeout": f"{idle_limit:.0f}s",
        }
        self._pool: asyncpg.Pool | None = None
        self._own: asyncpg.Pool | None = None
        self._made: WeakSet[asyncpg.Connection] = WeakSet()
        self._left: dict[int, float] = {}  # by process of the server: when its connection was cut
        self._away = False
        self._pause = 0.1
        self.session = 0

    async def open(self) -> None:
        """Does not connect yet: the database may be away."""
        self._pool = await self._create(max(self._connections - _OWN_CONNECTIONS, 1), {}, None)
        self._own = await self._create(_OWN_CONNECTIONS, _OWN, self.patience)

    async def _create(self, size: int, settings: Mapping[str, str], command_timeout: float | None) -> asyncpg.Pool:
        return await create_pool(
            self._dsn,
            name=sessions.session_name(self._name),
            size=size,
            settings={**self._settings, **settings},
            command_timeout=command_timeout,
            made=self._made.add,
        )

    def close(self) -> None:
        """Cut the connections for good. A goodbye would be waited for where the server is silent."""
        for pool in (self._pool, self._own):
            if pool is not None:
                pool.terminate()

    @property
    def away(self) -> bool:
        """Whether a connection was lost and the database has not answered since."""
        return self._away

    def connections(self) -> dict[str, int]:
        """Connections that are `busy`, `idle`, and how many there may be at `most`."""
        pools = [pool for pool in (self._pool, self._own) if pool is not None]
        idle = sum(pool.get_idle_size() for pool in pools)
        return {
            "busy": sum(pool.get_size() for pool in pools) - idle,
            "idle": idle,
            "most": sum(pool.get_max_size() for pool in pools),
        }

    def cut(self) -> None:
        """Cut all connections, also those in use; what is needed is made anew."""
        for connection in list(self._made):
            self.drop(connection)

    def drop(self, connection: Connection) -> None:
        """Cut a connection that is of no more use. Its session may be what is wrong, as one that is read-only."""
        if is_alive(connection):
            self._left[connection.get_server_pid()] = time.monotonic()
            connection.terminate()

    @contextmanager
    def limit(self, connection: Connection) -> Iterator[None]:
        """For a statement of our own: it fails, and the connection is cut, where it takes too long."""
        timer = asyncio.get_running_loop().call_later(self.patience, self.drop, connection)
        try:
            yield
        finally:
            timer.cancel()

    async def end_left(self, sql: Sql) -> None:
        """End the sessions whose connections were cut: the server may not know of it, and they keep their locks."""
        if self._left:
            left = dict(self._left)
            await sessions.end_left(sql, self._name, left, ago=time.monotonic() - max(left.values()))
            for pid in left:
                del self._left[pid]

    async def acquire(self) -> asyncpg.pool.PoolConnectionProxy:
        """A connection for a handler's transaction; give it back with `release`. Raises DatabaseGone."""
        return await self._acquire(self._pool)

    async def release(self, connection: asyncpg.pool.PoolConnectionProxy) -> None:
        await self._release(self._pool, connection)

    async def _acquire(self, pool: asyncpg.Pool | None) -> asyncpg.pool.PoolConnectionProxy:
        assert pool is not None, "open() comes first"
        try:
            return await pool.acquire()
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise self.lost(error) from error

    async def _release(self, pool: asyncpg.Pool | None, connection: asyncpg.pool.PoolConnectionProxy) -> None:
        assert pool is not None, "open() comes first"
        try:
            await pool.release(connection)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            self.drop(connection)  # it could not be cleaned up

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy]:
        """A connection for single statements of our own. Raises DatabaseGone or Conflict where they fail so."""
        connection = await self._acquire(self._own)
        try:
            yield connection
        except CONFLICT as error:
            raise Conflict(str(error)) from error
        except GONE as error:
            self.drop(connection)
            raise self.lost(error) from error
        except asyncio.CancelledError:
            self.drop(connection)  # it would be waited for until the server has confirmed that the statement is over
            raise
        finally:
            await self._release(self._own, connection)

    def lost(self, error: BaseException) -> DatabaseGone:
        """Note that a connection was lost; says so once until it is back."""
        self.session += 1
        if not self._away:
            self._away = True
            log.warning("database_away", error=type(error).__name__, detail=str(error)[:200] or "no answer")
        return DatabaseGone(str(error))

    def back(self) -> None:
        """Note that the database answers."""
        self._pause = 0.1
        if self._away:
            self._away = False
            log.info("database_back")

    async def pause(self) -> None:
        """Wait before trying again: longer each time until the database is back, and not all at the same moment."""
        self._pause = min(self._pause * 1.5, _LONGEST_PAUSE)
        await asyncio.sleep(self._pause * random.uniform(0.5, 1))  # noqa: S311 - no secret


# For the last statement of a handler's transaction, which has the planner's usual settings.
OWN_PLANS: Final = "; ".join(f"SET LOCAL {name} = {setting}" for name, setting in _OWN.items())
# A violation of the handler's is found before our own statements, not by the commit, where it is nobody's.
ENFORCE: Final = "SET CONSTRAINTS ALL IMMEDIATE"
