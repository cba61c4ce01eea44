"""One ingest connection: made when it is needed, and made again when it was lost."""

from __future__ import annotations

from typing import Final

import asyncpg

from receiver.store import wire
from receiver.store.connect import connect, is_usable
from receiver.store.log import check_generation

CLOSE_TIME: Final = 2.0  # seconds that Postgres gets to say goodbye


class Link:
    """`get` a connection that is open as far as is known, `drop` it when it is not, `close` it in the end."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: asyncpg.Connection | None = None

    @property
    def open(self) -> bool:
        return self._connection is not None and not self._connection.is_closed()

    async def get(self) -> asyncpg.Connection:
        """Raises what asyncpg raises, and SchemaError for a database whose transaction ids have gone backwards."""
        if not is_usable(self._connection):
            self.drop()
            connection = await connect(self._dsn, name="receiver ingest", timeout=5, command_timeout=30)
            try:
                await wire.prepare(connection)
                await check_generation(connection)  # in a restored dump new events would take the places of old ones
            except BaseException:
                connection.terminate()
                raise
            self._connection = connection
        assert self._connection is not None
        return self._connection

    def drop(self) -> None:
        """Cut it: its state is not known."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def close(self) -> None:
        """In order, if Postgres answers."""
        if self._connection is not None:
            try:
                await self._connection.close(timeout=CLOSE_TIME)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                self._connection.terminate()
