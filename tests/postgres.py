"""The Postgres that tests run on: one server for the run, a fresh database for each test.

`RECEIVER_TEST_DATABASE_URL` (a superuser's) makes the run use another server, such as an older version.
"""

import contextlib
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from receiver.embedded import start
from receiver.embedded.data_dir import lock_data_dir
from receiver.embedded.places import find_places
from receiver.embedded.server import USER
from receiver.store.schema import migrate

OVERRIDE = "RECEIVER_TEST_DATABASE_URL"

# Nothing of a test run needs to outlive the machine; what a test sees of a commit is the same.
FAST = {"fsync": "off", "full_page_writes": "off", "max_connections": "200", "max_wal_size": "256MB"}


@dataclass(slots=True, kw_only=True)
class RunServer:
    """The server of this test run, as each of its processes knows it."""

    dsn: str
    run: str = field(default_factory=lambda: secrets.token_hex(4))
    template_made: bool = False

    def dsn_of(self, database: str) -> str:
        return urlsplit(self.dsn)._replace(path=f"/{database}").geturl()

    @property
    def template(self) -> str:
        return f"receiver_test_{self.run}"

    @contextlib.asynccontextmanager
    async def fresh_database(self) -> AsyncIterator[str]:
        """The DSN of a database with the project's schema and nothing in it, dropped afterwards."""
        name = f"{self.template}_{secrets.token_hex(4)}"
        async with self._connection() as connection:
            if not self.template_made:
                await self._make_template(connection)
            await connection.execute(f"CREATE DATABASE {name} TEMPLATE {self.template}")
        try:
            yield self.dsn_of(name)
        finally:
            await self._drop(name)

    async def drop_template(self) -> None:
        await self._drop(self.template)

    async def _make_template(self, connection: asyncpg.Connection) -> None:
        """Several processes of one run come here at the same time; the first makes it."""
        await connection.execute("SELECT pg_advisory_lock(hashtext($1))", self.template)
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", self.template):
            unfinished = f"{self.template}_unfinished"
            await connection.execute(f"DROP DATABASE IF EXISTS {unfinished} WITH (FORCE)")
            await connection.execute(f"CREATE DATABASE {unfinished}")
            await migrate(self.dsn_of(unfinished))
            await connection.execute(f"ALTER DATABASE {unfinished} RENAME TO {self.template}")
        self.template_made = True  # the lock ends with the connection

    async def _drop(self, name: str) -> None:
        async with self._connection() as connection:
            await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.dsn)
        try:
            yield connection
        finally:
            await connection.close()


class Cluster:
    """A server that tests may crash and restart. It starts when made; `close` removes it with its data."""

    def __init__(self, settings: Mapping[str, str], *, standby_of: "Cluster | None" = None) -> None:
        self.data_dir = Path(tempfile.mkdtemp(prefix="receiver-tests-"))
        self._settings = settings
        try:
            if standby_of is not None:
                self._copy(standby_of)
            self.start()
        except BaseException:  # Ctrl-C included: nothing stays behind
            remove(self.data_dir)
            raise

    def _copy(self, primary: "Cluster") -> None:
        """A backup of a running server, which follows it from then on by streaming replication."""
        lock = lock_data_dir(self.data_dir)
        try:
            places = find_places(lock.data_dir)
            origin = ("--host", primary.sockets, "--username", USER)
            places.run(
                "pg_basebackup", *origin, "--pgdata", places.cluster, "--write-recovery-conf", "--checkpoint=fast"
            )
        finally:
            lock.release()

    @property
    def sockets(self) -> Path:
        return self._running.sockets

    @property
    def dsn(self) -> str:
        """Of its database ``receiver``; stays the same over restarts."""
        return self._running.dsn()

    def log(self) -> str:
        """What the server has said."""
        return self._running.log.read_text(errors="replace")

    def move_log(self, place: Path) -> None:
        """Restart it with its write-ahead log (`pg_wal`) somewhere else."""
        self.stop()
        log = (self.data_dir / "postgres").resolve() / "pg_wal"
        owner = log.stat()
        shutil.move(log, place)
        log.symlink_to(place)
        for path in (place, *place.rglob("*")):  # what has moved to another file system is ours
            os.chown(path, owner.st_uid, owner.st_gid)
        self.start()

    def kill(self) -> None:
        """As a crash: every server process ends at once, nothing is flushed, the next start recovers."""
        self._running.stop(signal.SIGQUIT)

    def stop(self) -> None:
        self._running.stop()

    def start(self) -> None:
        """Blocks until it accepts connections. For the main thread only, as `receiver.embedded.start`."""
        self._running = start(self.data_dir, settings=self._settings)

    def close(self) -> None:
        self.kill()
        remove(self.data_dir)


def remove(data_dir: Path) -> None:
    """Deletes a data directory, and its cluster where that had to move elsewhere."""
    cluster = data_dir / "postgres"
    if cluster.is_symlink():
        shutil.rmtree(cluster.readlink().parent)
    shutil.rmtree(data_dir)
