"""The schema's versions: applying them, and refusing a database that does not fit this release."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

import asyncpg

from receiver.errors import SchemaError
from receiver.store.connect import connect
from receiver.store.partitions import ensure_partitions

VERSION: Final = 2  # the schema this release is written for
_LOCK: Final = 0x0E_7E_47_5C  # advisory lock that serializes processes which migrate at the same time

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
)


def schema_sql() -> str:
    """The text of `schema.sql`: beside the package when installed, at the top of the repository else."""
    packaged = resources.files("receiver") / "schema.sql"
    source: Traversable | Path = packaged if packaged.is_file() else Path(__file__).parents[2] / "schema.sql"
    return source.read_text(encoding="utf-8")


def migration_sql(migration: Migration) -> str:
    """The text of one migration."""
    return (resources.files("receiver.store") / "migrations" / migration.file).read_text(encoding="utf-8")


async def migrate(dsn: str) -> tuple[int, int]:
    """Bring a database to this release's schema; returns (version before, version after).

    Idempotent, and safe when many processes start at once. An empty database gets `schema.sql`, an older one the steps
    it lacks. Raises SchemaError when the database is too new for this release.
    """
    connection = await connect(dsn, name="receiver migrate")
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            before = await _migrate(connection)
        await ensure_partitions(connection, ahead=0)  # the service makes those ahead: it knows how long they are to be
    finally:
        await connection.close()
    return before, max(before, VERSION)


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
