"""The two databases of a run, in one embedded Postgres with full durability: the service's, and one for bare COPY."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import asyncpg

from bench import cpu
from bench.processes import Failed
from receiver import embedded
from receiver.event import SHARDS
from receiver.store.schema import migrate

OURS: Final = embedded.DATABASE
FLOOR: Final = "floor"
NO_SETTINGS: Final[Mapping[str, str]] = MappingProxyType({})
# For a database of many millions of rows: its indexes do not fit into the default of 128 MB.
LARGE: Final[Mapping[str, str]] = MappingProxyType({"shared_buffers": "1GB"})
_PATIENCE: Final = 600.0  # seconds
_LOOK: Final = 0.02  # seconds between looks

_COUNT: Final = "SELECT count(*), count(DISTINCT id) FROM events"
_LEASED: Final = "SELECT count(*) FROM cursors WHERE lease_until > clock_timestamp()"
# The last place of each shard's log.
_ENDS: Final = "SELECT DISTINCT ON (shard) shard, txid, position FROM events ORDER BY shard, txid DESC, position DESC"
_TRANSACTIONS: Final = "SELECT DISTINCT txid FROM events"
# Behind is a cursor before its shard's last place, or one that still waits for a transaction that has written.
_BEHIND: Final = """
SELECT count(*) FROM cursors
JOIN unnest($1::int2[], $2::xid8[], $3::int8[]) AS ends (shard, txid, position) USING (shard)
WHERE (cursors.txid, cursors.position) < (ends.txid, ends.position) OR cursors.pending && $4::xid8[]
"""


class Server:
    """Postgres, and a connection to each database whose own CPU time is left out of what `cpu` says.

    `settings`: of Postgres, over those of the embedded one.
    """

    def __init__(self, stack: ExitStack, directory: Path, settings: Mapping[str, str] = NO_SETTINGS) -> None:
        self._runner = stack.enter_context(asyncio.Runner())
        data = directory / "data"
        stack.callback(_remove_cluster, data)
        self._postgres = embedded.start(data, settings=settings)
        stack.callback(self._postgres.stop)
        self.version = self._postgres.version
        self._connections = self._runner.run(self._set_up())
        stack.callback(lambda: self._runner.run(self._close()))
        self._own = [connection.get_server_pid() for connection in self._connections.values()]

    def dsn(self, database: str) -> str:
        return self._postgres.dsn(database)

    async def _set_up(self) -> dict[str, asyncpg.Connection]:
        await migrate(self.dsn(OURS))
        ours = await asyncpg.connect(self.dsn(OURS))
        await ours.execute(f"CREATE DATABASE {FLOOR} TEMPLATE template0")
        await migrate(self.dsn(FLOOR))
        return {OURS: ours, FLOOR: await asyncpg.connect(self.dsn(FLOOR))}

    async def _close(self) -> None:
        for connection in self._connections.values():
            await connection.close()

    def cpu(self) -> float:
        """Seconds of CPU time that the server has used: its backends and its background processes."""
        return cpu.of_tree(self._postgres.pid, without=self._own)

    def empty(self, database: str) -> None:
        """Begin with empty tables and nothing left to write back, so that both sides of a pair begin alike."""
        self._runner.run(self._connections[database].execute("TRUNCATE events, event_ids"))
        self._runner.run(self._connections[database].execute("CHECKPOINT"))

    def count(self, database: str) -> tuple[int, int]:
        """(rows, distinct ids) in `events`."""
        row = self._runner.run(self._connections[database].fetchrow(_COUNT))
        assert row is not None
        return int(row[0]), int(row[1])

    def ask(self, query: str, *values: Any) -> list[asyncpg.Record]:
        """Rows of our database, over the connection whose CPU time is left out."""
        return self._runner.run(self._connections[OURS].fetch(query, *values, timeout=_PATIENCE))

    def until(self, query: str, *values: Any, equals: int) -> None:
        """Until a query of our database says so. Raises Failed."""
        self._runner.run(self._until(query, *values, equals=equals))

    def wait_for_leases(self, handlers: int) -> None:
        """Until a worker holds every shard of so many handlers. Raises Failed."""
        self._runner.run(self._until(_LEASED, equals=handlers * SHARDS))

    def wait_for_cursors(self) -> None:
        """Until every cursor has passed everything in `events`. Raises Failed."""
        self._runner.run(self._passed())

    async def _passed(self) -> None:
        connection = self._connections[OURS]
        shards, txids, positions = zip(*await connection.fetch(_ENDS), strict=True)
        transactions = [row["txid"] for row in await connection.fetch(_TRANSACTIONS)]
        await self._until(_BEHIND, shards, txids, positions, transactions, equals=0)

    async def _until(self, query: str, *values: Any, equals: int) -> None:
        deadline = time.monotonic() + _PATIENCE
        while await self._connections[OURS].fetchval(query, *values) != equals:
            if time.monotonic() > deadline:
                raise Failed(f"did not happen within {_PATIENCE:.0f} s: {query.strip()} = {equals}")
            await asyncio.sleep(_LOOK)


async def connect_for_rows(dsn: str) -> asyncpg.Connection:
    """A connection that copies the service's rows, in which uuid and inet are bytes already."""
    connection = await asyncpg.connect(dsn)
    for name in ("uuid", "inet"):
        await connection.set_type_codec(name, schema="pg_catalog", encoder=bytes, decoder=bytes, format="binary")
    return connection


def _remove_cluster(data: Path) -> None:
    """The server's user may be unable to reach the directory; then only a link lies there (`receiver.embedded`)."""
    link = data / "postgres"
    if link.is_symlink():
        shutil.rmtree(link.readlink().parent, ignore_errors=True)
