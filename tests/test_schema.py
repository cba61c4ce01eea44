"""The schema: two ways to the same one, many processes at once, and databases that do not fit."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg
import pytest

from receiver.errors import SchemaError
from receiver.event import Event
from receiver.maintenance import check_database
from receiver.store import schema
from receiver.store.intake import COLUMNS
from receiver.store.partitions import ensure_partitions
from tests import release_before
from tests.workers import VAULT, value

CATALOG: Final = """
    SELECT 'column', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull::text,
           coalesce(pg_get_expr(d.adbin, d.adrelid), ''), coalesce(col_description(c.oid, a.attnum), '')
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
    UNION ALL
    SELECT 'relation', c.relname, c.relkind::text, coalesce(obj_description(c.oid, 'pg_class'), ''), '', '', ''
    FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'index', tablename, indexname, indexdef, '', '', '' FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL
    SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', '', ''
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'function', proname, pg_get_functiondef(oid), coalesce(obj_description(oid, 'pg_proc'), ''), '', '', ''
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'trigger', tgrelid::regclass::text, tgname, pg_get_triggerdef(t.oid), tgenabled::text, '', ''
    FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid
    WHERE NOT tgisinternal AND c.relnamespace = 'public'::regnamespace
    ORDER BY 1, 2, 3, 4
"""


QUEUED: Final = """
    SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE application_name = 'receiver migrate' AND NOT granted AND relation = 'retries'::regclass
"""


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def empty_database(dsn: str) -> asyncpg.Connection:
    connection = await asyncpg.connect(dsn)
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return connection


async def test_migrations_and_schema_sql_end_in_the_same_schema(database: str) -> None:
    """the numbered migrations and schema.sql end in the same schema."""
    connection = await empty_database(database)
    try:
        await connection.execute(schema.schema_sql())
        at_once = await connection.fetch(CATALOG)
        await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        await schema.migrate_step_by_step(connection)
        in_steps = await connection.fetch(CATALOG)
    finally:
        await connection.close()
    assert len(at_once) > 200
    assert at_once == in_steps


async def test_every_table_and_column_has_a_comment(database: str) -> None:
    """every table and every column is explained in the database itself."""
    connection = await asyncpg.connect(database)
    try:
        bare = await connection.fetch(
            """
            SELECT c.relname, a.attname FROM pg_class c
            JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum >= 0 AND NOT a.attisdropped
            WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
              AND col_description(c.oid, a.attnum) IS NULL
            UNION ALL
            SELECT relname, NULL FROM pg_class WHERE relnamespace = 'public'::regnamespace
              AND relkind IN ('r', 'p') AND NOT relispartition AND obj_description(oid, 'pg_class') IS NULL
            """
        )
    finally:
        await connection.close()
    assert bare == []


async def test_ten_processes_may_migrate_at_once(database: str) -> None:
    """ten migrations at the same moment end in one schema, and another one changes nothing."""
    connection = await empty_database(database)
    try:
        results = await asyncio.gather(*(schema.migrate(database) for _ in range(10)))
        versions = await connection.fetch("SELECT version FROM schema_versions ORDER BY version")
    finally:
        await connection.close()
    assert sorted(before for before, _ in results) == [0] + [schema.VERSION] * 9
    assert [row[0] for row in versions] == [migration.version for migration in schema.MIGRATIONS]
    assert await schema.migrate(database) == (schema.VERSION, schema.VERSION)


@asynccontextmanager
async def backup(dsn: str) -> AsyncIterator[int]:
    """A transaction of another program that has read a table which the migration changes, and goes on; its process."""
    connection = await asyncpg.connect(dsn, server_settings={"application_name": "nightly backup"})
    try:
        async with connection.transaction():
            await connection.fetch("SELECT count(*) FROM retries")
            yield connection.get_server_pid()
    finally:
        await connection.close()


async def test_a_held_lock_is_waited_out(database: str) -> None:
    """while another transaction holds a lock, the migration tries again and again, and others are served between"""
    async with connected(database) as sql:
        await release_before.make_schema(sql)
        async with backup(database):
            migrating = asyncio.create_task(schema.migrate(database))
            for _ in range(2):  # it waits in the queue, with others behind it, and steps back
                await value(sql, QUEUED, 1)
                await sql.execute("UPDATE retries SET attempt = attempt", timeout=30)
            assert not migrating.done()
        assert await migrating == (1, schema.VERSION)


async def test_who_holds_a_lock_is_named(database: str) -> None:
    """a migration that has waited long enough changes nothing, and says who is in its way and what to do"""
    async with connected(database) as sql:
        await release_before.make_schema(sql)
        async with backup(database) as pid:
            with pytest.raises(SchemaError) as refused:
                await schema.migrate(database, patience=0)
        message = str(refused.value)
        assert re.search(rf"process {pid} of role \S+, 'nightly backup', in a transaction since 20\S+ \S+ UTC", message)
        assert ("pg_terminate_backend" in message, "receiver migrate" in message) == (True, True)
        assert await sql.fetchval("SELECT max(version) FROM schema_versions") == 1
    assert await schema.migrate(database, patience=0) == (1, schema.VERSION)


async def test_a_database_without_tables_is_refused(database: str) -> None:
    """a start on an empty database says to run `receiver migrate`."""
    connection = await empty_database(database)
    await connection.close()
    with pytest.raises(SchemaError, match="receiver migrate"):
        await check_database(database, VAULT)


async def test_a_database_that_is_too_new_is_refused(database: str) -> None:
    """a schema whose oldest release is newer than this one is refused by serve and by migrate, naming the release."""
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(
            "INSERT INTO schema_versions (version, oldest_version, oldest_release) VALUES (99, 98, '7.1')"
        )
    finally:
        await connection.close()
    for start in (lambda dsn: check_database(dsn, VAULT), schema.migrate):
        with pytest.raises(SchemaError, match=r"release 7\.1 or newer"):
            await start(database)


async def test_a_newer_schema_that_still_suits_this_release_is_accepted(database: str) -> None:
    """a rolling upgrade: the database is ahead, but says that this release can work with it."""
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(
            "INSERT INTO schema_versions (version, oldest_version, oldest_release) VALUES (99, $1, '0.1.0')",
            schema.VERSION,
        )
    finally:
        await connection.close()
    await check_database(database, VAULT)


async def test_partitions_are_made_ahead_without_blocking_readers(database: str) -> None:
    """partitions are made while a SELECT on events is open in another transaction."""
    connection, reader = await asyncpg.connect(database), await asyncpg.connect(database)
    try:
        async with reader.transaction():
            await reader.fetch("SELECT count(*) FROM events")
            made = await ensure_partitions(connection, ahead=5)
        assert len(made) == 5
        assert await ensure_partitions(connection, ahead=5) == []
    finally:
        await connection.close()
        await reader.close()


async def test_events_between_prunes(database: str) -> None:
    """events_between adds the bound that leaves older partitions out of the plan."""
    connection = await asyncpg.connect(database)
    try:
        await ensure_partitions(connection, ahead=4)
        names = await connection.fetch(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass ORDER BY 1"
        )
        start = datetime.strptime(names[-2][0], "events_%Y%m").replace(tzinfo=UTC) + timedelta(days=3)
        plan = await connection.fetch(
            f"EXPLAIN SELECT count(*) FROM events_between('{start}', '{start + timedelta(days=5)}')"
        )
    finally:
        await connection.close()
    text = "\n".join(row[0] for row in plan)
    # Events of a range may be received later, so the partitions after it stay; those before it are left out.
    assert [name for (name,) in names if name in text] == [name for (name,) in names[-2:]]


async def test_event_and_table_have_the_same_columns(database: str) -> None:
    """Event's fields are the columns of the table, and ingest's columns are among them."""
    connection = await asyncpg.connect(database)
    try:
        rows = await connection.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'events'::regclass AND attnum > 0 AND NOT attisdropped"
        )
    finally:
        await connection.close()
    columns = {row[0] for row in rows}
    assert columns == set(Event.__struct_fields__)
    assert set(COLUMNS) == columns - {"received_at", "gen", "txid", "position"}
