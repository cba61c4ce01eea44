"""Connections to Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

AWAY: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)  # cannot be used for now


async def create_pool(dsn: str, *, name: str, size: int, least: int = 1) -> asyncpg.Pool:
    """A pool of at most `size` connections; `name` shows up as application_name in pg_stat_activity."""
    return await asyncpg.create_pool(
        dsn,
        min_size=least,
        max_size=size,
        command_timeout=60,
        timeout=10,
        server_settings={"application_name": name},
    )


class KeptConnection:
    """A connection for occasional looks, made when first needed and anew after it was lost; its users take turns.

    Everything runs in transactions with `SET LOCAL`, so that it also works where a pooler lends connections by
    transaction; for the same reason no statement is kept prepared.
    """

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
                        limit = f"{int(within * 1000)}ms"
                        await connection.execute(
                            f"SET LOCAL statement_timeout = '{limit}'; SET LOCAL lock_timeout = '{limit}'"
                        )
                        yield connection
            except BaseException:  # whatever it was, the next one begins with a connection that is known to be whole
                self.close()
                raise

    async def _connected(self, within: float) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(
                self._dsn,
                timeout=within,
                command_timeout=within,
                statement_cache_size=0,
                server_settings={"application_name": self._name},
            )
        return self._connection

    def close(self) -> None:
        """Cut the connection; the next use makes another."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
