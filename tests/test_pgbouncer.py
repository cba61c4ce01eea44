"""PgBouncer in transaction mode, two connections to the server and many clients.

Every command, handler and request of the other test files also goes through it: see tests/with_pgbouncer.py.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from receiver import Context, Event, handler
from receiver.errors import SchemaError
from receiver.store.connect import connect, is_lent
from tests import service, workers
from tests.cli import Receiver, command_for
from tests.pgbouncer import pooled
from tests.processes import Load, site
from tests.service import play
from tests.test_faults import check_all_once, posts, prepared
from tests.test_overload import impatient
from tests.waiting import until
from tests.workers import value

pytestmark = pytest.mark.peers

SETTINGS = {"lock_timeout": "7s", "enable_seqscan": "off", "default_transaction_read_only": "on"}
SETTLED = "SELECT current_setting($1) || current_setting($2) || current_setting($3)"
OTHERS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@handler(name="nothing")
async def nothing(_event: Event, _ctx: Context) -> None:
    """Its cursors are what matters."""


@pytest.fixture
async def bouncer(database: str) -> AsyncIterator[str]:
    async with pooled(database) as dsn:
        yield dsn


@pytest.fixture
def receiver(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, bouncer: str, monkeypatch: pytest.MonkeyPatch
) -> Receiver:
    return command_for(bouncer, tmp_path, capsys, monkeypatch)


async def test_a_pooler_is_noticed(database: str, bouncer: str) -> None:
    """a connection through a pooler is told from a direct one, without being told"""
    through, direct = await connect(bouncer, name="test"), await connect(database, name="test")
    assert is_lent(through)
    assert not is_lent(direct)
    await through.close()
    await direct.close()


async def test_settings_hold_for_each_transaction_and_for_nobody_else(database: str, bouncer: str) -> None:
    """twelve clients on two connections: each statement has its client's settings, and the next client has its own"""
    asking = ("lock_timeout", "enable_seqscan", "transaction_read_only")
    mine = [await connect(bouncer, name="mine", settings=SETTINGS) for _ in range(6)]
    others = [await connect(bouncer, name="others") for _ in range(6)]

    async def ask(connection: asyncpg.Connection, expected: str) -> None:
        for _ in range(20):
            assert await connection.fetchval(SETTLED, *asking) == expected
        async with connection.transaction():
            assert await connection.fetchval(SETTLED, *asking) == expected
            assert await connection.fetchval("SELECT count(*) FROM events WHERE source = $1", "x") == 0

    await asyncio.gather(*(ask(one, "7soffon") for one in mine), *(ask(one, "0onoff") for one in others))
    direct = await asyncpg.connect(database)
    assert await direct.fetchval(f"SELECT count(*) {OTHERS}") == 2
    for connection in (*mine, *others, direct):
        await connection.close()


async def test_a_statement_that_fails_or_is_cut_off(bouncer: str) -> None:
    """after an error the connection can go on; one whose statement was cut off is let go at once"""
    connection = await connect(bouncer, name="test")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await connection.fetchval("SELECT 1 / $1::int", 0)
    assert await connection.fetchval("SELECT $1::int", 1) == 1
    asking = asyncio.create_task(connection.fetchval("SELECT pg_sleep($1)", 60))
    other = await connect(bouncer, name="other")
    await value(other, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'", 1)
    asking.cancel()
    connection.terminate()
    await asyncio.wait([asking], timeout=30)
    assert asking.cancelled()
    assert connection.is_closed()
    await other.close()


async def test_another_server_behind_the_pooler_is_noticed(database: str, bouncer: str, tmp_path: Path) -> None:
    """a restored dump is noticed though no connection was lost: the worker ends, and nothing more is stored"""
    sendgrid = impatient(play("sendgrid", tmp_path))
    first, second = posts(sendgrid, 2)
    sql = await asyncpg.connect(database)
    await workers.prepared(sql, [nothing])
    async with service.running(bouncer, sendgrid, connection_dsn=database) as web:
        worker = workers.start(bouncer, nothing)
        assert (await web.post("sendgrid", first)).status_code == 200
        await sql.execute("UPDATE cursors SET txid = '1000000000000' WHERE shard = 1")
        with pytest.raises(SchemaError, match="receiver cursors rebase"):
            await worker.ended()

        async def refused() -> bool:
            return (await web.post("sendgrid", second)).status_code == 503

        await until(refused)
    await sql.close()


async def test_the_service_and_workers(database: str, bouncer: str, receiver: Receiver, tmp_path: Path) -> None:
    """an empty database is migrated, receives and is handled by several processes, over a cut of the connections"""
    direct = await asyncpg.connect(database)
    await direct.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    assert (await receiver("migrate")).code == 0
    sendgrid = play("sendgrid", tmp_path)
    async with site(tmp_path, bouncer, sendgrid) as running:
        await (await prepared(database, running)).close()
        web = running.process("serve", "--no-dispatch")
        processes = [web, running.process("work"), running.process("work")]
        for process in processes:
            await process.start()
        await running.serving(web)
        load = Load(f"{running.url}/webhooks/sendgrid", posts(sendgrid, 300))
        loading = asyncio.create_task(load.run())
        await value(direct, "SELECT count(*) > 60 FROM ledger", expected=True)
        await direct.execute(f"SELECT pg_terminate_backend(pid) {OTHERS}")
        await asyncio.wait_for(loading, 120)
        await check_all_once(database, 300)
        for process in processes:
            assert await process.end(signal.SIGTERM) == 0, process.log()
    await direct.close()
