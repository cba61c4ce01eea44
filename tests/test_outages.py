"""A database that fails in the ways databases do: what a provider is told, and that everything goes on by itself.

In each: no event that was answered with success is missing, what cannot be stored in time gets the provider's "try
again" code, and neither the service nor its workers need anybody when it is over. A crash and a restart are in
test_faults.py, a database that is away or silent in test_overload.py, other people's locks in test_contention.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
import pytest
from structlog.testing import capture_logs

from receiver import Context, Event, Handler, handler
from receiver.contract import Post
from receiver.embedded.places import account_for
from receiver.event import EventType
from receiver.store.connect import KeptConnection, connect
from receiver.store.schema import migrate
from tests import workers
from tests.cli import command_for
from tests.log_events import store
from tests.pgbouncer import POOLED
from tests.postgres import Cluster
from tests.processes import Load, site
from tests.service import Played, Running, play, running
from tests.tcp_proxy import Proxy, proxied
from tests.test_dispatch_leases import FREEZES, SHARES
from tests.test_faults import check_all_once, posts, prepared
from tests.test_overload import impatient
from tests.waiting import until
from tests.workers import value

OTHERS: Final = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
CUT_OTHERS: Final = f"SELECT pg_terminate_backend(pid) {OTHERS}"
EFFECTS: Final = "SELECT count(*) FROM effects"
COPY_DONE: Final = b"c\0\0\0\4"  # of the protocol; the server then commits by itself


@handler(name="writer", tests=True, machines=True)
async def write(event: Event, ctx: Context) -> None:
    await ctx.sql.execute("INSERT INTO effects (event_id) VALUES ($1)", event.id)


async def prepare(sql: asyncpg.Connection, *handlers: Handler) -> None:
    """No unique key: an effect that happens twice must show."""
    await sql.execute("CREATE TABLE effects (event_id uuid)")
    await workers.prepared(sql, handlers)


async def statuses(service: Running, played: Played, *sent: Post) -> set[int]:
    answers = await asyncio.gather(*(service.post(played.source.name, post) for post in sent))
    return {answer.status_code for answer in answers}


async def accepted(service: Running, played: Played, *sent: Post) -> None:
    """As a provider does: again, until each was answered with success."""

    async def all_accepted() -> bool:
        return await statuses(service, played, *sent) == {200}

    await until(all_accepted)


async def stored_and_handled_once(sql: asyncpg.Connection, count: int) -> None:
    await value(sql, EFFECTS, count)
    assert await sql.fetchval("SELECT count(*) FROM events") == count
    assert await sql.fetchval("SELECT count(DISTINCT event_id) FROM effects") == count


# Failover ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Cluster, Cluster]]:
    """A primary, and a standby that it waits for at each commit."""
    with contextlib.ExitStack() as stack:
        primary = Cluster({})
        stack.callback(primary.close)
        await migrate(primary.dsn)
        standby = Cluster({}, standby_of=primary)
        stack.callback(standby.close)
        sql = await asyncpg.connect(primary.dsn)
        await sql.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")  # not in the standby, which gets none
        await sql.execute("SELECT pg_reload_conf()")
        await value(sql, "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'", 1)
        await sql.close()
        yield primary, standby


def both(first: Cluster, second: Cluster) -> str:
    hosts = ",".join(str(one.sockets) for one in (first, second))
    return f"postgresql://receiver@/receiver?host={hosts}&port=5432,5432"


async def test_a_failover_to_a_synchronous_standby_loses_nothing(tmp_path: Path) -> None:
    """the primary is killed for good under load, the standby promoted: what was acknowledged is there and handled"""
    sendgrid = play("sendgrid", tmp_path)
    async with pair() as (primary, standby), site(tmp_path, both(primary, standby), sendgrid) as started:
        await (await prepared(primary.dsn, started)).close()
        serve, worker = started.process("serve", "--no-dispatch"), started.process("work")
        for process in (serve, worker):
            await process.start()
        await started.serving(serve)
        load = Load(f"{started.url}/webhooks/sendgrid", posts(sendgrid, 300))
        loading = asyncio.create_task(load.run())

        async def some() -> bool:
            return load.succeeded >= 100

        await until(some, within=60)
        primary.kill()
        sql = await asyncpg.connect(standby.dsn)
        assert await sql.fetchval("SELECT pg_promote()")
        await sql.close()
        await asyncio.wait_for(loading, 120)
        assert serve.running
        assert worker.running
        await check_all_once(standby.dsn, 300)


async def test_a_retry_waits_for_the_standby_too(tmp_path: Path) -> None:
    """an event whose commit only the primary has is not acknowledged to a retry either, until the standby has it too"""
    sendgrid = impatient(play("sendgrid", tmp_path))
    (post,) = posts(sendgrid, 1)
    async with pair() as (primary, standby), running(primary.dsn, sendgrid) as service:
        standby.stop()
        assert await statuses(service, sendgrid, post) == {503}
        # As a restart of the primary does: whose wait is cut short has committed.
        cut_short = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        assert await service.connection.fetchval(cut_short)
        await value(service.connection, "SELECT count(*) FROM events", 1)
        assert await statuses(service, sendgrid, post) == {503}
        standby.start()
        await accepted(service, sendgrid, post)
        assert await service.count("events") == 1


async def test_a_standby_is_not_taken_for_the_primary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """of several servers the primary is used, wherever it stands in the list; a standby alone is refused"""
    async with pair() as (primary, standby):
        sql = await connect(both(standby, primary), name="test")
        assert not await sql.fetchval("SELECT pg_is_in_recovery()")
        await sql.close()
        receiver = command_for(standby.dsn, tmp_path, capsys, monkeypatch)
        for command in (("migrate",), ("events", "list")):
            ended = await receiver(*command)
            assert ended.code == 1
            assert "no primary answers, only a standby" in ended.err


# A server that refuses --------------------------------------------------------------------------------------------


async def test_too_many_connections(tmp_path: Path) -> None:
    """with all connections taken by others requests are told to come again; then all is stored and handled"""
    sendgrid = impatient(play("sendgrid", tmp_path))
    sent = posts(sendgrid, 10)
    with contextlib.closing(Cluster({"max_connections": "20"})) as cluster:
        await migrate(cluster.dsn)
        sql = await asyncpg.connect(cluster.dsn)
        await prepare(sql, write)
        async with running(cluster.dsn, sendgrid) as service, workers.running(cluster.dsn, write):
            assert await statuses(service, sendgrid, *sent[:5]) == {200}
            await sql.execute(f"{CUT_OTHERS} AND pid <> $1", service.connection.get_server_pid())
            taken = await take_all(cluster.dsn)
            assert await statuses(service, sendgrid, *sent) == {503}
            for connection in taken:
                connection.terminate()
            await accepted(service, sendgrid, *sent)
            await stored_and_handled_once(sql, 10)
        await sql.close()


async def take_all(dsn: str) -> list[asyncpg.Connection]:
    """Take connections until nobody else can have one: the service tries to get some meanwhile."""
    taken: list[asyncpg.Connection] = []
    with contextlib.suppress(asyncpg.TooManyConnectionsError):
        while True:
            taken.append(await asyncpg.connect(dsn))
    return taken


async def test_a_database_that_is_read_only(database: str, tmp_path: Path) -> None:
    """while the database takes no writes requests are told to come again; then all is stored and handled"""
    sendgrid = impatient(play("sendgrid", tmp_path))
    sent = posts(sendgrid, 10)
    sql = await asyncpg.connect(database, server_settings={"default_transaction_read_only": "off"})
    await prepare(sql, write)
    name = urlsplit(database).path.lstrip("/")
    async with running(database, sendgrid) as service, workers.running(database, write):
        assert await statuses(service, sendgrid, *sent[:5]) == {200}
        await sql.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await sql.execute(CUT_OTHERS + " AND pid <> $1", service.connection.get_server_pid())
        assert await statuses(service, sendgrid, *sent) == {503}
        await sql.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        if POOLED:  # the pooler keeps its sessions of that time, which a server that was promoted would not make so
            await sql.execute(CUT_OTHERS + " AND pid <> $1", service.connection.get_server_pid())
        await accepted(service, sendgrid, *sent)
        await stored_and_handled_once(sql, 10)
    await sql.close()


@contextlib.contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """A file system of its own for the server's user."""
    directory = Path(tempfile.mkdtemp(prefix="receiver-tests-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", directory], check=True)
    try:
        place = directory / "space"
        place.mkdir()
        account = account_for(directory)
        if account.uid is not None and account.gid is not None:
            directory.chmod(0o755)
            shutil.chown(place, account.uid, account.gid)
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)
        directory.rmdir()


@pytest.mark.peers
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
async def test_a_full_disk(tmp_path: Path) -> None:
    """with the disk of the events full requests are told to come again; with room again all is stored and handled"""
    sendgrid = impatient(play("sendgrid", tmp_path))
    sent = posts(sendgrid, 5)
    with small_disk(8) as disk, contextlib.closing(Cluster({})) as cluster:
        await migrate(cluster.dsn)
        sql = await asyncpg.connect(cluster.dsn)
        await prepare(sql, write)
        await sql.execute(f"CREATE TABLESPACE small LOCATION '{disk / 'space'}'")
        for name in [row[0] for row in await sql.fetch("SELECT inhrelid::regclass::text FROM pg_inherits")]:
            with contextlib.suppress(asyncpg.WrongObjectTypeError):
                await sql.execute(f"ALTER TABLE {name} SET TABLESPACE small")
        async with running(cluster.dsn, sendgrid) as service, workers.running(cluster.dsn, write):
            assert await statuses(service, sendgrid, *sent[:5]) == {200}
            fill(disk / "filler")
            wide = [sendgrid.posts(EventType.DELIVERED, *many(number), run=f"w{number}")[0] for number in range(3)]
            assert 503 in await statuses(service, sendgrid, *wide)
            (disk / "filler").unlink()
            await accepted(service, sendgrid, *wide)
            await stored_and_handled_once(sql, 5 + 3 * 200)
        await sql.close()


@pytest.mark.peers
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
async def test_a_full_disk_of_what_handlers_write() -> None:
    """with the disk full that a handler writes to its events wait and none is spent; with room again it has them all"""

    @handler(max_attempts=1, breaker=0)
    async def hoards(event: Event, ctx: Context) -> None:
        await ctx.sql.execute("INSERT INTO effects (event_id, load) VALUES ($1, $2)", event.id, os.urandom(300_000))

    with small_disk(16) as disk, contextlib.closing(Cluster({})) as cluster:
        await migrate(cluster.dsn)
        sql = await asyncpg.connect(cluster.dsn)
        await prepare(sql, hoards)
        await sql.execute(f"CREATE TABLESPACE small LOCATION '{disk / 'space'}'")
        await sql.execute("ALTER TABLE effects ADD load bytea, SET TABLESPACE small")
        fill(disk / "filler")
        await store(sql, 10)
        with capture_logs() as lines:
            async with workers.running(cluster.dsn, hoards):
                await workers.true(lambda: [line["event"] for line in lines].count("database_full") > 2)
                (disk / "filler").unlink()
                await stored_and_handled_once(sql, 10)
        await sql.close()
    assert {"database_full"} == {line["event"] for line in lines if line["log_level"] in ("warning", "error")}


@pytest.mark.peers
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
async def test_a_full_disk_of_the_write_ahead_log(tmp_path: Path) -> None:
    """with no room for its log Postgres itself ends; started again with room it has all that was acknowledged"""
    sendgrid = impatient(play("sendgrid", tmp_path))
    sent = posts(sendgrid, 10)
    with small_disk(128) as disk, contextlib.closing(Cluster({})) as cluster:
        await migrate(cluster.dsn)
        cluster.move_log(disk / "space" / "pg_wal")
        sql = await asyncpg.connect(cluster.dsn)
        await prepare(sql, write)
        async with running(cluster.dsn, sendgrid) as service, workers.running(cluster.dsn, write):
            assert await statuses(service, sendgrid, *sent[:5]) == {200}
            fill(disk / "filler")
            with pytest.raises((asyncpg.PostgresError, OSError)):
                await use_up_log(sql)
            assert await statuses(service, sendgrid, *sent) == {503}
            assert "No space left on device" in cluster.log()
            (disk / "filler").unlink()
            cluster.stop()
            cluster.start()
            await accepted(service, sendgrid, *sent)
            sql = await asyncpg.connect(cluster.dsn)
            await stored_and_handled_once(sql, 10)
            await service.connection.close()
        await sql.close()


async def use_up_log(sql: asyncpg.Connection) -> None:
    """More segments of the log than are made ahead."""
    for _ in range(20):
        await sql.execute("SELECT pg_logical_emit_message(false, 'test', ''), pg_switch_wal()")


def fill(file: Path) -> None:
    """Write until there is no room."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as filler:
        while filler.write(bytes(4096)):
            pass


def many(number: int) -> Sequence[str]:
    return [f"u{number}-{each}@one.test" for each in range(200)]


# The network ------------------------------------------------------------------------------------------------------


async def test_a_slow_network(database: str, tmp_path: Path) -> None:
    """with a tenth of a second to the database and back, everything is stored and handled"""
    sendgrid = play("sendgrid", tmp_path)
    sql = await asyncpg.connect(database)
    await prepare(sql, write)
    async with proxied(database) as (proxy, dsn):
        proxy.delay = 0.05
        async with running(dsn, sendgrid, connection_dsn=database) as service, workers.running(dsn, write, lease=5.0):
            assert await statuses(service, sendgrid, *posts(sendgrid, 40)) == {200}
            await stored_and_handled_once(sql, 40)
    await sql.close()


@pytest.mark.parametrize("passes", [True, False])
async def test_a_connection_that_is_cut_during_a_commit(database: str, tmp_path: Path, *, passes: bool) -> None:
    """whether or not the commit came through nobody can know, so the provider is told to come again: stored once"""
    sendgrid = impatient(play("sendgrid", tmp_path))
    sent = posts(sendgrid, 10)
    async with proxied(database) as (proxy, dsn), running(dsn, sendgrid, connection_dsn=database) as service:
        assert await statuses(service, sendgrid, sent[0]) == {200}
        proxy.cut_passes, proxy.cut_at = passes, (b'COPY "events"', COPY_DONE)
        assert await statuses(service, sendgrid, *sent[1:]) == {503}
        assert proxy.refusing
        if passes:
            await value(service.connection, "SELECT count(*) > 1 FROM events", expected=True)
        else:
            assert await service.count("events") == 1
        proxy.refusing = False
        await accepted(service, sendgrid, *sent)
        assert await service.count("events") == 10


async def test_a_worker_whose_commit_is_cut(database: str, tmp_path: Path) -> None:
    """whether or not a batch's commit came through, each effect is there once"""
    sendgrid = play("sendgrid", tmp_path)
    sent = posts(sendgrid, 80)
    sql = await asyncpg.connect(database)
    await prepare(sql, write)
    async with (
        proxied(database) as (proxy, dsn),
        running(database, sendgrid) as service,
        workers.running(dsn, write, lease=1.0),
    ):
        for number, passes in enumerate((True, False, True, False)):
            proxy.cut_passes, proxy.cut_at = passes, (b"COMMIT",)
            assert await statuses(service, sendgrid, *sent[: 20 * (number + 1)]) == {200}

            async def was_cut() -> bool:
                return proxy.refusing

            await until(was_cut)
            proxy.refusing = False
            await stored_and_handled_once(sql, 20 * (number + 1))
    await sql.close()


async def test_a_worker_that_goes_silent_is_taken_over(database: str, tmp_path: Path) -> None:
    """a worker that the network has swallowed loses its shards to another; back again, it cannot commit what it had"""
    sendgrid = play("sendgrid", tmp_path)
    sent = posts(sendgrid, 60)
    sql = await asyncpg.connect(database)
    await prepare(sql, write)
    async with (
        proxied(database) as (proxy, dsn),
        running(database, sendgrid) as service,
        workers.running(dsn, write, lease=1.0),
        workers.running(database, write, lease=1.0),
    ):
        await value(sql, "SELECT count(DISTINCT owner) FROM cursors", 2)
        proxy.passing.clear()
        assert await statuses(service, sendgrid, *sent[:40]) == {200}
        await stored_and_handled_once(sql, 40)
        proxy.passing.set()
        assert await statuses(service, sendgrid, *sent[40:]) == {200}
        await stored_and_handled_once(sql, 60)
    await sql.close()


@asynccontextmanager
async def in_the_middle(
    database: str, tmp_path: Path, *, call: float = 30.0, **options: Any
) -> AsyncIterator[Silenced]:
    """A worker behind a proxy, which has written something in a transaction and does not go on before it is told."""
    sendgrid, reached, go_on = play("sendgrid", tmp_path), asyncio.Event(), asyncio.Event()

    @handler(name="writer", tests=True, machines=True, timeout=call)
    async def write_slowly(event: Event, ctx: Context) -> None:
        await ctx.sql.execute("INSERT INTO effects (event_id) VALUES ($1)", event.id)
        reached.set()
        await go_on.wait()

    sql = await asyncpg.connect(database)
    await sql.execute(
        "CREATE TABLE effects (event_id uuid PRIMARY KEY)"
    )  # whoever comes next waits for the old session
    await workers.prepared(sql, [write_slowly])
    async with proxied(database) as (proxy, dsn), running(database, sendgrid) as service:
        worker = workers.start(dsn, write_slowly, **{"lease": 1.0, "grace": 1.0, **options})
        assert await statuses(service, sendgrid, *posts(sendgrid, 20)) == {200}
        await asyncio.wait_for(reached.wait(), 30)
        yield Silenced(sql, proxy, worker, go_on)
        go_on.set()
        await worker.end()
    await sql.close()


@dataclass(frozen=True, slots=True)
class Silenced:
    sql: asyncpg.Connection
    proxy: Proxy
    worker: workers.Running
    go_on: asyncio.Event


@pytest.mark.parametrize("notices", ["lease", "statement"])
async def test_connections_that_die_without_a_word(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notices: str
) -> None:
    """a worker notices by itself that nobody answers, by its lease or by the time of each statement, connects anew, and
    begins the batch in hand again: no effect is missing, and none waits until the server gives up the old session
    """
    monkeypatch.setattr("receiver.dispatch.reader._PATIENCE", 1.0)
    limits = {"lease": 1.0, "patience": 600.0} if notices == "lease" else {"lease": 600.0, "patience": 1.0}
    async with in_the_middle(database, tmp_path, call=3.0 if notices == "statement" else 30.0, **limits) as one:
        one.proxy.swallow()
        one.go_on.set()
        await stored_and_handled_once(one.sql, 20)
        await workers.true(lambda: one.worker.worker.trouble() is None)


async def test_a_look_that_is_cut_off_keeps_no_lock(database: str) -> None:
    """what one process has locked for a look when its connection dies without a word is free for all others soon"""
    sql = await asyncpg.connect(database)
    async with proxied(database) as (proxy, dsn):
        kept = KeptConnection(dsn, name="test look")
        with contextlib.suppress(TimeoutError):
            async with kept.transaction(within=1) as connection:
                await connection.execute("LOCK TABLE alerts")
                proxy.swallow()
                await connection.execute("SELECT")
                raise AssertionError("it was answered")
        await value(sql, "SELECT count(*) FROM pg_locks WHERE relation = 'alerts'::regclass", 0)
    await sql.close()


@pytest.mark.parametrize("everything", [True, False])
async def test_a_worker_stops_though_nobody_answers(database: str, tmp_path: Path, *, everything: bool) -> None:
    """whether only the connections of now are dead or new ones are silent too, a stop ends in time"""
    async with in_the_middle(database, tmp_path) as one:
        if everything:
            one.proxy.passing.clear()
        one.proxy.swallow()
        await asyncio.wait_for(one.worker.stop(), 30)


async def test_sigterm_ends_a_process_that_nobody_answers(database: str, tmp_path: Path) -> None:
    """a real process whose connections have died without a word ends in order, within what the documentation says"""
    sql = await asyncpg.connect(database)
    await sql.execute("CREATE TABLE effects (handler text, event_id uuid)")
    async with proxied(database) as (proxy, dsn), site(tmp_path, dsn, play("sendgrid", tmp_path)) as home:
        (tmp_path / "handlers" / "slow.py").write_text(FREEZES)
        serve = home.process("serve")
        await serve.start()
        await home.serving(serve)
        await value(sql, SHARES, [64], "slow", within=60)
        await store(sql, 5)
        await workers.true((tmp_path / "in_the_middle").exists, within=60)
        proxy.passing.clear()
        proxy.swallow()
        assert await asyncio.wait_for(serve.end(signal.SIGTERM), 100) == 0
        assert "dispatch_stopped" in serve.log()
    await sql.close()


# Other people's locks ---------------------------------------------------------------------------------------------


async def test_a_lock_that_handlers_wait_for(database: str, tmp_path: Path) -> None:
    """a batch that meets somebody's lock longer than the limit is rolled back and tried again, which is no failure"""
    sendgrid = play("sendgrid", tmp_path)
    sql, other = await asyncpg.connect(database), await asyncpg.connect(database)
    await prepare(sql, write)
    async with running(database, sendgrid) as service, workers.running(database, write):
        async with other.transaction():
            await other.execute("LOCK TABLE effects IN ACCESS EXCLUSIVE MODE")
            assert await statuses(service, sendgrid, *posts(sendgrid, 10)) == {200}
            given_up = "SELECT xact_rollback > $1 FROM pg_stat_database WHERE datname = current_database()"
            before = await sql.fetchval(given_up.replace("> $1", ""))
            await value(sql, given_up, True, before)
        await stored_and_handled_once(sql, 10)
        assert await sql.fetchval("SELECT (SELECT count(*) FROM retries) + (SELECT count(*) FROM dead_letters)") == 0
    await sql.close()
    await other.close()
