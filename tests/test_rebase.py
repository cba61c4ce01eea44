"""A dump restored into another server, where transaction ids start anew."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from receiver import Context, Event, handler
from receiver.embedded.places import find_places
from receiver.errors import SchemaError
from receiver.ingest.link import Link
from receiver.maintenance import check_database
from receiver.store.rebase import rebase
from tests.cli import Receiver, command_for
from tests.log_events import store
from tests.postgres import FAST, Cluster
from tests.workers import VAULT, prepared, running, start, value

EFFECT = "INSERT INTO effects (event_id) VALUES ($1)"
COUNT = "SELECT count(*) FROM effects"
SPEND = "DO $$ BEGIN FOR i IN 1..20000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
PENDING = "SELECT count(*) FROM cursors WHERE $1::text::xid8 = ANY (pending)"


@handler()
async def writer(event: Event, ctx: Context) -> None:
    """Write one row for each event."""
    await ctx.sql.execute(EFFECT, event.id)


@pytest.fixture
def young() -> Iterator[Cluster]:
    """A server that has had few transactions, with an empty database."""
    cluster = Cluster(FAST)
    yield cluster
    cluster.close()


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    await connection.execute("CREATE TABLE effects (event_id uuid)")
    yield connection
    await connection.close()


def restore(source: str, target: Cluster) -> None:
    """A logical dump of the one into the other."""
    places = find_places(target.data_dir)
    dump = places.cluster.parent / "dump"
    places.run("pg_dump", "--format=custom", f"--file={dump}", f"--dbname={_plain(source)}")
    places.run("pg_restore", "--no-owner", f"--dbname={_plain(target.dsn)}", dump)


def _plain(dsn: str) -> str:
    """As a list of keywords, which libpq of every version understands."""
    parts = urlsplit(dsn)
    words = {"dbname": parts.path[1:], "user": parts.username or "", "password": parts.password or ""}
    words |= {name: values[0] for name, values in parse_qs(parts.query).items()}
    words |= {"host": parts.hostname} if parts.hostname else {}
    words |= {"port": str(parts.port)} if parts.port else {}
    return " ".join(f"{name}='{value}'" for name, value in words.items() if value)


async def stepped(sql: asyncpg.Connection, database: str, count: int) -> None:
    """Let a worker handle what there is, up to so many effects."""
    async with running(database, writer):
        await value(sql, COUNT, count)


async def test_a_restored_dump(
    database: str,
    sql: asyncpg.Connection,
    young: Cluster,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """the service refuses it and names the command, after which each handler gets exactly what it had not read"""
    await sql.execute(SPEND)
    await prepared(sql, [writer])
    other, third = await asyncpg.connect(database), await asyncpg.connect(database)
    late, never = other.transaction(), third.transaction()
    await late.start()
    unread = await store(other, 5, shard=lambda n: n)
    await never.start()
    await store(third, 5, shard=lambda n: n)
    done = await store(sql, 128, shard=lambda n: n % 64)
    await stepped(sql, database, 128)
    running_id = await other.fetchval("SELECT pg_current_xact_id()::text")
    assert await sql.fetchval(PENDING, running_id) > 0
    await late.commit()
    unread += await store(sql, 20)
    await asyncio.to_thread(restore, database, young)  # `never` is still running, so it is not in the dump
    await never.rollback()
    await other.close()
    await third.close()

    receiver: Receiver = command_for(young.dsn, tmp_path, capsys, monkeypatch)
    with pytest.raises(SchemaError, match="receiver cursors rebase"):
        await check_database(young.dsn, VAULT)
    with pytest.raises(SchemaError, match="receiver cursors rebase"):
        await start(young.dsn, writer).ended()
    tried = await receiver("cursors", "rebase", "--dry-run")
    assert (tried.code, "25 events" in tried.out, "64 cursors of 1 handlers" in tried.out) == (0, True, True)
    assert (await receiver("cursors", "rebase")).code == 1

    restored = await asyncpg.connect(young.dsn)
    await restored.execute(
        "INSERT INTO workers (id, name, handlers, expires_at) "
        "VALUES (gen_random_uuid(), 'elsewhere:7', '{writer}', now() + interval '1 hour')"
    )
    refused = await receiver("cursors", "rebase", "--yes")
    assert (refused.code, "elsewhere:7" in refused.err) == (1, True)
    await restored.execute("DELETE FROM workers")
    assert (await receiver("cursors", "rebase", "--yes")).code == 0
    assert "nothing to do" in (await receiver("cursors", "rebase", "--yes")).out
    assert await restored.fetchval("SELECT array_agg(action) FROM audit_log") == ["rebase"]

    await check_database(young.dsn, VAULT)
    # Transactions of the new server run while old events are read, and their ids mean nothing among those.
    open_ = await asyncpg.connect(young.dsn)
    transaction = open_.transaction()
    await transaction.start()
    new = await store(open_, 3)
    new += await store(restored, 10)
    async with running(young.dsn, writer):
        await value(restored, COUNT, 128 + 25 + 10)
        await transaction.commit()
        await value(restored, COUNT, 128 + 25 + 13)
    handled = Counter(row[0] for row in await restored.fetch("SELECT event_id FROM effects"))
    assert handled == Counter(done + unread + new)
    await open_.close()
    await restored.close()


async def test_two_people_at_once(
    sql: asyncpg.Connection,
    database: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """who comes second, between the question and the answer, is told so, and leaves no row in the audit log"""
    receiver: Receiver = command_for(database, tmp_path, capsys, monkeypatch)
    await prepared(sql, [writer])
    await sql.execute("UPDATE cursors SET txid = '1000000000000' WHERE shard = 1")
    loop = asyncio.get_running_loop()

    def meanwhile(**_options: bool) -> bool:
        return asyncio.run_coroutine_threadsafe(rebase(sql), loop).result(timeout=30)

    monkeypatch.setattr("receiver.cli.asking.go_on", meanwhile)
    second = await receiver("cursors", "rebase")
    assert (second.code, "someone else has done it" in second.out) == (0, True), second.err
    assert await sql.fetchval("SELECT count(*) FROM audit_log") == 0


async def test_ids_of_two_servers_are_not_mixed_up(sql: asyncpg.Connection, database: str) -> None:
    """a transaction that has the id of one that old events were stored in does not bring them a second time"""
    await prepared(sql, [writer])
    other = await asyncpg.connect(database)
    transaction = other.transaction()
    await transaction.start()
    running_id = await other.fetchval("SELECT pg_current_xact_id()")
    for shard in range(4):  # as if stored by the old server, half of it handled there
        await store(sql, 4, shard=shard, txid=running_id, position=lambda n: n + 1)
    await sql.execute("UPDATE cursors SET txid = $1::xid8, position = 2, pending = '{}'", running_id)
    await sql.execute("ALTER TABLE events ALTER COLUMN gen SET DEFAULT 2")
    await stepped(sql, database, 8)
    assert await sql.fetchval("SELECT count(DISTINCT event_id) FROM effects") == 8
    await store(sql, 4, shard=lambda n: n)
    async with running(database, writer):
        await value(sql, COUNT, 12)
        await transaction.rollback()
        await store(sql, 1)
        await value(sql, COUNT, 13)
    await other.close()
    assert await sql.fetchval("SELECT count(DISTINCT event_id) FROM effects") == 13


async def test_finding_out_while_running(database: str, sql: asyncpg.Connection) -> None:
    """a worker that meets a restored database when it connects again stops, and the web side stores nothing"""
    await prepared(sql, [writer])
    worker = start(database, writer)
    await store(sql, 3)
    await value(sql, COUNT, 3)
    await sql.execute("UPDATE cursors SET txid = '1000000000000' WHERE shard = 1")
    await sql.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with pytest.raises(SchemaError, match="receiver cursors rebase"):
        await worker.ended()
    with pytest.raises(SchemaError, match="receiver cursors rebase"):
        await Link(database).get()
