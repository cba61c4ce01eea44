"""Connections to Postgres, direct or through a pooler that lends the server's by transaction (PgBouncer and its kind).

Nobody configures which: the process that answers either is the one that the server named when we connected, or not.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypeGuard, TypeVar

import asyncpg
from asyncpg.connect_utils import SessionAttribute

Kind = TypeVar("Kind", bound=asyncpg.Connection)

AWAY: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)  # cannot be used for now

# Of these, what fails in the same way the next time: asyncpg refuses a value that it cannot send with a ValueError.
FOR_GOOD: Final = (
    *(asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.SyntaxOrAccessError),
    ValueError,
)


def is_away(error: BaseException) -> bool:
    """Whether the database cannot be used for now, and the same may go through the next time."""
    return isinstance(error, AWAY) and not isinstance(error, FOR_GOOD)


LENT_FOR: Final = 5.0  # seconds

NO_SETTINGS: Final[Mapping[str, str]] = {}

# What a session calls otherwise than the transaction that is to have it.
_LOCAL_NAMES: Final = {"default_transaction_read_only": "transaction_read_only"}


class Lent(asyncpg.Connection):
    """A connection through a pooler: the server's may be another for each transaction, so that no session has a memory.

    Every statement is in a transaction, which begins with the settings that a direct connection is given for good.
    Only a text without parameters goes out as it is, since it is one message, and may be what no transaction can hold.
    """

    begin = ""  # SET LOCAL ...; after each BEGIN
    made_at = 0.0  # by time.monotonic()

    @asynccontextmanager
    async def _lent(self) -> AsyncIterator[None]:
        if self.is_in_transaction():
            yield
            return
        await self.execute("BEGIN")
        try:
            yield
        except (asyncio.CancelledError, TimeoutError):
            self.terminate()  # a ROLLBACK would wait for what was cut off, and for ever where the connection is lost
            raise
        except Exception:
            if not self.is_closed():
                await self.execute("ROLLBACK")
            raise
        await self.execute("COMMIT")

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        if args:
            async with self._lent():
                return await super().execute(query, *args, **options)
        if self.begin and not self.is_in_transaction() and query.lstrip()[:5].upper() == "BEGIN":
            query = f"{query.rstrip().rstrip(';')}; {self.begin}"
        return await super().execute(query, **options)

    async def executemany(self, *args: Any, **options: Any) -> None:
        async with self._lent():
            await super().executemany(*args, **options)

    async def fetch(self, *args: Any, **options: Any) -> Any:
        async with self._lent():
            return await super().fetch(*args, **options)

    async def fetchrow(self, *args: Any, **options: Any) -> Any:
        async with self._lent():
            return await super().fetchrow(*args, **options)

    async def fetchval(self, *args: Any, **options: Any) -> Any:
        async with self._lent():
            return await super().fetchval(*args, **options)

    async def copy_records_to_table(self, *args: Any, **options: Any) -> Any:
        async with self._lent():
            return await super().copy_records_to_table(*args, **options)

    async def set_type_codec(self, *args: Any, **options: Any) -> None:
        async with self._lent():
            await super().set_type_codec(*args, **options)

    def get_reset_query(self) -> str:
        """Nothing: it would clean somebody else's session."""
        return ""


def is_lent(connection: asyncpg.Connection) -> bool:
    """Whether it goes through a pooler. (asyncpg makes `isinstance` say yes for any of its connections.)"""
    return type(connection) is Lent


async def connect(
    dsn: str,
    *,
    name: str,
    settings: Mapping[str, str] = NO_SETTINGS,
    timeout: float = 10,  # noqa: ASYNC109 - of several steps, each of which asyncpg limits
    command_timeout: float | None = None,
) -> asyncpg.Connection:
    """A connection to the primary, in UTC and with `settings` of Postgres, which is a `Lent` one behind a pooler.

    `name` shows up as application_name in pg_stat_activity. Raises asyncpg.PostgresError or InterfaceError, OSError
    (also where there is no primary) or TimeoutError.
    """
    options: dict[str, Any] = {"name": name, "timeout": timeout, "command_timeout": command_timeout}
    connection = await _open(dsn, asyncpg.Connection, **options)
    try:
        if await _set_if_direct(connection, settings, timeout=timeout):
            return connection
    except BaseException:
        connection.terminate()
        raise
    connection.terminate()
    # No statement is prepared for later: the server's connection that knows it may be another's by then.
    lent = await _open(dsn, Lent, statement_cache_size=0, **options)
    lent.begin = "; ".join(f"SET LOCAL {_LOCAL_NAMES.get(key, key)} = '{value}'" for key, value in settings.items())
    lent.made_at = time.monotonic()
    return lent


def is_usable(connection: asyncpg.Connection | None) -> TypeGuard[asyncpg.Connection]:
    """Whether to go on with a connection, or make another and check again what has to be known of the server.

    Who is behind a pooler does not lose the connection when the server is lost, nor learns that it is another one now.
    """
    if connection is None or connection.is_closed():
        return False
    return not (type(connection) is Lent and time.monotonic() - connection.made_at > LENT_FOR)


async def create_pool(
    dsn: str,
    *,
    name: str,
    size: int,
    settings: Mapping[str, str] = NO_SETTINGS,
    timeout: float = 10,  # noqa: ASYNC109 - of one connection
    command_timeout: float | None = None,
    made: Callable[[asyncpg.Connection], None] = lambda _: None,
) -> asyncpg.Pool:
    """At most `size` such connections, each made when it is needed; `made` is told of it.

    They are given back as they are; an open transaction is rolled back. asyncpg would spend a round trip on RESET ALL,
    which would also undo the settings.
    """

    async def make(*_: Any, **__: Any) -> asyncpg.Connection:
        connection = await connect(dsn, name=name, settings=settings, timeout=timeout, command_timeout=command_timeout)
        made(connection)
        return connection

    return await asyncpg.create_pool(
        dsn, connect=make, min_size=0, max_size=size, max_queries=2**31, reset=_keep_session
    )


async def _keep_session(_connection: asyncpg.Connection) -> None:
    pass


# The last one is for what the server holds when nobody is there any more: its locks would stop all who look next.
_LIMITS: Final = """
SET LOCAL statement_timeout = {0}; SET LOCAL lock_timeout = {0}; SET LOCAL idle_in_transaction_session_timeout = {0}
"""


class KeptConnection:
    """A connection for occasional looks, made when first needed and anew after it was lost; its users take turns."""

    def __init__(self, dsn: str, *, name: str) -> None:
        self._dsn = dsn
        self._name = name
        self._connection: asyncpg.Connection | None = None
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def transaction(self, *, within: float) -> AsyncIterator[asyncpg.Connection]:
        """A transaction that takes at most `within` seconds, connecting included. Raises one of AWAY."""
        async with self._turn:
            try:
                async with asyncio.timeout(within):
                    connection = await self._connected(within)
                    async with connection.transaction():
                        await connection.execute(_LIMITS.format(int(within * 1000)))
                        yield connection
            except BaseException:  # whatever it was, the next one begins with a connection that is known to be whole
                self.close()
                raise

    async def _connected(self, within: float) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._dsn, name=self._name, timeout=within, command_timeout=within)
        return self._connection

    def close(self) -> None:
        """Cut the connection; the next use makes another."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


class KeptConnections:
    """A few of them, for what strangers ask: no more than `size` at one time, however many ask."""

    def __init__(self, dsn: str, *, name: str, size: int) -> None:
        self._all = [KeptConnection(dsn, name=name) for _ in range(size)]
        self._idle: asyncio.LifoQueue[KeptConnection] = asyncio.LifoQueue()
        for one in self._all:
            self._idle.put_nowait(one)

    @asynccontextmanager
    async def transaction(self, *, within: float) -> AsyncIterator[asyncpg.Connection]:
        """A transaction, begun within so many seconds, which takes so many more at most. Raises one of AWAY."""
        async with asyncio.timeout(within):
            one = await self._idle.get()
        try:
            async with one.transaction(within=within) as connection:
                yield connection
        finally:
            self._idle.put_nowait(one)

    def close(self) -> None:
        """Cut the connections; the next use makes others."""
        for one in self._all:
            one.close()


async def _open(dsn: str, kind: type[Kind], *, name: str, **options: Any) -> Kind:
    # An operator may ask for more: a primary that takes writes.
    read_write = "target_session_attrs=read-write" in dsn
    try:
        return await asyncpg.connect(
            dsn,
            connection_class=kind,
            # In UTC, or a day in SQL has 23 hours where a DBA's zone begins its summer. Poolers refuse other settings.
            server_settings={"application_name": name[:63], "timezone": "UTC"},
            target_session_attrs=SessionAttribute.read_write if read_write else SessionAttribute.primary,
            **options,
        )
    except asyncpg.TargetServerAttributeNotMatched as error:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "no primary answers, only a standby") from error


async def _set_if_direct(connection: asyncpg.Connection, settings: Mapping[str, str], *, timeout: float) -> bool:  # noqa: ASYNC109 - asyncpg's
    """Give the session its settings, unless another process answers than the one that was named.

    One message of the simple protocol: nothing of it stays in a server's connection that is lent to others next.
    """
    set_all = ", ".join(f"set_config('{key}', '{value}', false)" for key, value in settings.items())
    tag = await connection.execute(
        f"SELECT {set_all} WHERE pg_backend_pid() = {connection.get_server_pid()}",
        timeout=timeout,
    )
    return bool(tag == "SELECT 1")
