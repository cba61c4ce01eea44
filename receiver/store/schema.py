"""The schema's versions: applying them, and refusing a database that does not fit this release."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

import asyncpg
import structlog

from receiver.errors import SchemaError
from receiver.store.connect import connect
from receiver.store.lock_holders import watching
from receiver.store.partitions import ensure_partitions

log = structlog.get_logger("schema")

VERSION: Final = 6  # the schema this release is written for
_LOCK: Final = 0x0E_7E_47_5C  # advisory lock that serializes processes which migrate at the same time
_NAME: Final = "receiver migrate"
_WAIT: Final = "3s"  # for one lock, at a time
_PAUSE: Final = (1.0, 3.0)  # seconds from one try to the next, in which those who have queued go on
_PATIENCE: Final = 60.0  # seconds
_HELD: Final = (
    "nothing was changed, because a lock that the migration needs is held by: {holders}. Wait until that has ended, "
    "or end it with SELECT pg_terminate_backend(process), and run `receiver migrate` again"
)

_EXISTS: Final = "SELECT to_regclass('schema_versions') IS NOT NULL"
_CURRENT: Final = "SELECT version, oldest_version, oldest_release FROM schema_versions ORDER BY version DESC LIMIT 1"
_RECORD: Final = "INSERT INTO schema_versions (version, oldest_version, oldest_release) VALUES ($1, $2, $3)"


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered step. Releases whose own version is below `oldest_version` cannot work with the result."""

    version: int
    file: str
    oldest_version: int
    oldest_release: str


MIGRATIONS: Final = (
    Migration(1, "0001_first.sql", 1, "0.1.0"),
    Migration(2, "0002_operation.sql", 1, "0.1.0"),
    Migration(3, "0003_contacts.sql", 1, "0.1.0"),
    Migration(4, "0004_sending.sql", 1, "0.1.0"),
    Migration(5, "0005_replays_and_alerts.sql", 1, "0.1.0"),
    Migration(6, "0006_kinds.sql", 1, "0.1.0"),
)


def schema_sql() -> str:
    """The text of `schema.sql`: beside the package when installed, at the top of the repository else."""
    packaged = resources.files("receiver") / "schema.sql"
    source: Traversable | Path = packaged if packaged.is_file() else Path(__file__).parents[2] / "schema.sql"
    return source.read_text(encoding="utf-8")


def migration_sql(migration: Migration) -> str:
    """The text of one migration."""
    return (resources.files("receiver.store") / "migrations" / migration.file).read_text(encoding="utf-8")


async def migrate(dsn: str, *, patience: float = _PATIENCE) -> tuple[int, int]:
    """Bring a database to this release's schema; returns (version before, version after).

    Idempotent, and safe when many processes start at once. An empty database gets `schema.sql`, an older one the steps
    it lacks. Raises SchemaError when the database is too new for this release, or when after `patience` seconds
    somebody still holds a lock that is needed.
    """
    connection = await connect(dsn, name=_NAME)
    try:
        before = await _migrate_between_others(dsn, connection, patience)
        await ensure_partitions(connection, ahead=0)  # the service makes those ahead: it knows how long they are to be
    finally:
        await connection.close()
    return before, max(before, VERSION)


async def _migrate_between_others(dsn: str, connection: asyncpg.Connection, patience: float) -> int:
    """Everybody who needs a table queues behind a migration that waits for it, so it waits briefly, and steps back."""
    deadline = time.monotonic() + patience
    holders: list[str] = []
    while True:
        try:
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)  # nobody queues behind this one
                await connection.execute(f"SET LOCAL lock_timeout = '{_WAIT}'")
                async with watching(dsn, connection, name=_NAME) as seen:
                    holders = seen
                    return await _migrate(connection)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            if time.monotonic() >= deadline:
                raise SchemaError(_HELD.format(holders="; ".join(holders) or "somebody who was not seen")) from error
            log.warning("a lock that the migration needs is held", action="migration_waits", holders=holders)
        await asyncio.sleep(random.uniform(*_PAUSE))  # noqa: S311 - no secret


async def _migrate(connection: asyncpg.Connection) -> int:
    if not await connection.fetchval(_EXISTS):
        await connection.execute(schema_sql())
        await _record(connection, MIGRATIONS)
        return 0
    before = await _version(connection, migrating=True)
    for migration in MIGRATIONS:
        if migration.version > before:
            await connection.execute(migration_sql(migration))
            await _record(connection, (migration,))
    return before


async def migrate_step_by_step(connection: asyncpg.Connection) -> None:
    """Build an empty database from the numbered migrations alone; a test compares the result with `schema.sql`."""
    for migration in MIGRATIONS:
        await connection.execute(migration_sql(migration))
        await _record(connection, (migration,))


async def _record(connection: asyncpg.Connection, migrations: tuple[Migration, ...]) -> None:
    await connection.executemany(_RECORD, [(m.version, m.oldest_version, m.oldest_release) for m in migrations])


async def check(connection: asyncpg.Connection) -> int:
    """The database's version. Raises SchemaError, saying what to do, when this release cannot work with it."""
    if not await connection.fetchval(_EXISTS):
        raise SchemaError("the database has no tables yet: run `receiver migrate` first")
    return await _version(connection, migrating=False)


async def _version(connection: asyncpg.Connection, *, migrating: bool) -> int:
    row = await connection.fetchrow(_CURRENT)
    if row is None:
        raise SchemaError("the table schema_versions is empty: this database was not made by `receiver migrate`")
    version, oldest_version, oldest_release = row
    if oldest_version > VERSION:
        raise SchemaError(
            f"the database has schema {version}, which needs release {oldest_release} or newer; "
            f"this release knows schemas up to {VERSION}: start a newer release"
        )
    if version < VERSION and not migrating:
        raise SchemaError(f"the database has schema {version}, this release needs {VERSION}: run `receiver migrate`")
    return int(version)
