"""Several workers on one database: shares, take-over, fencing."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest
from msgspec.structs import replace

from receiver import Context, Event, Handler, handler
from receiver.dispatch.acks import Acks
from receiver.dispatch.database import OWN_PLANS, Database, DatabaseGone
from receiver.dispatch.transaction import Transaction
from receiver.store import leases
from receiver.store.connect import connect
from receiver.store.control import remove
from receiver.store.leases import Leased, LeaseLost, Move, ack, share, take
from receiver.store.sessions import end_late, session_name
from tests.log_events import store
from tests.pgbouncer import POOLED
from tests.postgres import Cluster
from tests.processes import site
from tests.workers import prepared, running, start, true, value

EFFECT = "INSERT INTO effects (handler, event_id) VALUES ($1, $2)"
COUNT = "SELECT count(*) FROM effects"
SHARES = """
SELECT array_agg(n ORDER BY n) FROM (
    SELECT count(*)::int AS n FROM cursors WHERE handler = $1 AND lease_until > clock_timestamp() GROUP BY owner
) AS shares
"""


FREEZES = """
import asyncio
from pathlib import Path

from receiver import Context, Event, handler


@handler()
async def slow(event: Event, ctx: Context) -> None:
    await ctx.sql.execute("INSERT INTO effects (handler, event_id) VALUES ('slow', $1)", event.id)
    if not Path("in_the_middle").exists():
        Path("in_the_middle").touch()
        await asyncio.sleep(5)
"""


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    await connection.execute("CREATE TABLE effects (handler text, event_id uuid)")
    yield connection
    await connection.close()


@handler(batch=True)
async def writer(events: Sequence[Event], ctx: Context) -> None:
    """Write one row for each event."""
    for event in events:
        await ctx.sql.execute(EFFECT, "writer", event.id)


@handler(batch=True)
async def second(_events: Sequence[Event], _ctx: Context) -> None:
    """Do nothing, for the shares alone."""


def test_shares_are_even() -> None:
    """whatever the number of workers, all shards are given out and no two differ by more than one"""
    for count in range(1, 80):
        workers = [uuid4() for _ in range(count)]
        shares = [share(workers, one) for one in workers]
        assert sum(shares) == 64
        assert max(shares) - min(shares) <= 1


async def test_workers_share_and_take_over(database: str, sql: asyncpg.Connection) -> None:
    """shards are spread over the workers that live; a stopped one's are taken at once, a killed one's after a while"""
    await prepared(sql, [writer])
    async with running(database, writer):
        await value(sql, SHARES, [64], "writer")
        another, third = start(database, writer), start(database, writer)
        await value(sql, SHARES, [21, 21, 22], "writer")
        await store(sql, 200)
        await value(sql, COUNT, 200)
        await another.stop()
        await value(sql, SHARES, [32, 32], "writer")
        await third.kill()
        await store(sql, 200)
        await value(sql, COUNT, 400)
        await value(sql, SHARES, [64], "writer")
    assert await sql.fetchval("SELECT count(DISTINCT event_id) FROM effects") == 400
    assert await sql.fetchval("SELECT count(*) FROM cursors WHERE owner IS NOT NULL") == 0
    assert await sql.fetchval("SELECT count(*) FROM workers WHERE expires_at > clock_timestamp()") == 0


async def test_workers_that_come_and_go(database: str, sql: asyncpg.Connection) -> None:
    """with one to five workers, some killed and some stopped, shards stay evenly spread and nothing is done twice"""
    await prepared(sql, [writer])
    workers, stored = [], 0
    spread = {1: [64], 2: [32, 32], 3: [21, 21, 22], 4: [16, 16, 16, 16], 5: [12, 13, 13, 13, 13]}
    for count in (1, 2, 3, 4, 5):
        workers.append(start(database, writer))
        stored += len(await store(sql, 50))
        await value(sql, SHARES, spread[count], "writer")
    for count in (4, 3, 2, 1):
        gone = workers.pop(0)
        stored += len(await store(sql, 50))
        await (gone.kill() if count % 2 else gone.stop())
        await value(sql, SHARES, spread[count], "writer")
    await value(sql, COUNT, stored)
    await workers.pop().stop()
    assert await sql.fetchval("SELECT count(DISTINCT event_id) FROM effects") == stored


async def test_a_frozen_worker_cannot_commit(database: str, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """a process that is stopped in the middle of a batch loses its leases, its locks, and its batch when it goes on"""
    if not POOLED:  # behind a pooler nobody knows whose sessions are whose, and the server ends them much later
        await sql.execute("CREATE UNIQUE INDEX ON effects (event_id)")  # who takes over waits for what is uncommitted
    async with site(tmp_path, database) as running_site:
        (tmp_path / "handlers" / "slow.py").write_text(FREEZES)
        frozen, other = running_site.process("work"), running_site.process("work")
        await frozen.start()
        await value(sql, SHARES, [64], "slow", within=60)
        stored = await store(sql, 40, shard=lambda n: n % 4)
        await true((tmp_path / "in_the_middle").exists, within=60)
        frozen.send(signal.SIGSTOP)
        await other.start()
        await value(sql, COUNT, 40, within=45)
        assert "handler_failed" not in other.log()
        frozen.send(signal.SIGCONT)
        await true(lambda: ("lease_lost" if POOLED else "database_away") in frozen.log(), within=60)
        stored += await store(sql, 40)
        await value(sql, COUNT, 80, within=60)
        await value(sql, SHARES, [32, 32], "slow", within=60)
        assert [await one.end(signal.SIGTERM) for one in (frozen, other)] == [0, 0]
    assert Counter(row[0] for row in await sql.fetch("SELECT event_id FROM effects")) == Counter(stored)


@pytest.mark.skipif(POOLED, reason="behind a pooler nobody knows whose sessions are whose")
async def test_whose_sessions_are_ended(database: str, sql: asyncpg.Connection) -> None:
    """those of a worker that is overdue by a lease, and not those that a living one's name stands for after its cut"""
    host = "ip-10-0-123-45.eu-central-1.compute.internal"  # so long that Postgres keeps nothing of what follows it
    overdue = {"gone:1": 11, "slow:1": 9, f"{host}:1": 11, f"{host}:2": -9}
    for name, seconds in overdue.items():
        await sql.execute(
            "INSERT INTO workers VALUES ($1, $2, '{}', now(), clock_timestamp() - $3 * interval '1 second')",
            *(uuid4(), name, seconds),
        )
    theirs = {name: await connect(database, name=session_name(name)) for name in overdue}
    await end_late(sql, sql.get_server_pid(), lease=10)
    await true(theirs["gone:1"].is_closed)
    for name in ("slow:1", f"{host}:1", f"{host}:2"):
        assert await theirs[name].fetchval("SELECT 1") == 1
    for one in theirs.values():
        one.terminate()


async def test_a_stopped_workers_shards_are_free_at_once(database: str, sql: asyncpg.Connection) -> None:
    """nobody waits for the leases of a worker that stopped in order to run out"""
    await prepared(sql, [writer])
    first = start(database, writer, lease=600.0)
    await value(sql, SHARES, [64], "writer")
    await first.stop()
    async with running(database, writer, lease=600.0):
        await store(sql, 10)
        await value(sql, COUNT, 10)


async def test_workers_with_different_handlers(database: str, sql: asyncpg.Connection) -> None:
    """each handler's shards are shared by the workers that run it, and by no others"""
    await prepared(sql, [writer, second])
    async with running(database, writer, second), running(database, writer):
        await value(sql, SHARES, [32, 32], "writer")
        await value(sql, SHARES, [64], "second")
        async with running(database, second), running(database, second):
            await value(sql, SHARES, [21, 21, 22], "second")
            await value(sql, SHARES, [32, 32], "writer")


async def test_fencing(database: str, sql: asyncpg.Connection) -> None:
    """a worker that was too slow finds its shards taken over: its effects are undone, the successor's stay"""
    waiting, release = asyncio.Event(), asyncio.Event()

    def slow(name: str) -> Handler:
        @handler(name="slow", batch=True)
        async def write(events: Sequence[Event], ctx: Context) -> None:
            for event in events:
                await ctx.sql.execute(EFFECT, name, event.id)
            if name == "first":
                waiting.set()
                await release.wait()

        return write

    await prepared(sql, [slow("first")])
    await store(sql, 100)
    async with running(database, slow("first"), lease=60.0, batch=5000):
        await asyncio.wait_for(waiting.wait(), 30)
        await sql.execute("UPDATE cursors SET lease_until = '-infinity'")  # as if it had been silent for long
        await sql.execute("UPDATE workers SET expires_at = '-infinity'")
        other = start(database, slow("other"), lease=60.0)
        await value(sql, "SELECT count(*) > 0 FROM effects WHERE handler = 'other'", expected=True)
        release.set()
        await value(sql, COUNT, 100)
        await other.stop()
        await value(sql, SHARES, [64], "slow")
    assert await sql.fetchval("SELECT count(DISTINCT event_id) FROM effects") == 100


async def test_an_ack_needs_the_lease(sql: asyncpg.Connection) -> None:
    """a cursor moves only for the owner and epoch that hold it, wherever its row lies meanwhile"""
    first, other = uuid4(), uuid4()
    await prepared(sql, [writer])

    async def taken(owner: UUID) -> leases.Leased:
        (leased,) = await take(sql, "writer", owner, ttl=30, held=(), limit=1)
        return leased

    one = await taken(first)
    move = Move(one, one.cursor)
    ((place, tid),) = (await ack(sql, first, [move], ttl=30)).items()
    assert (place, tid != one.tid) == (("writer", one.shard), True)
    # The known place is stale now, as after a renewal: found by its key.
    assert len(await ack(sql, first, [move], ttl=30)) == 1
    assert not await ack(sql, other, [move], ttl=30)
    await sql.execute("UPDATE cursors SET lease_until = '-infinity'")
    assert (await taken(other)).epoch == one.epoch + 1
    assert not await ack(sql, first, [move], ttl=30)


async def test_handlers_that_are_done_together_are_acked_together(database: str, sql: asyncpg.Connection) -> None:
    """one statement moves the cursors of all who are done; who has lost a lease learns of it, and nobody else does"""
    owner = uuid4()
    await prepared(sql, [writer, second])
    connections = Database(database, connections=3, idle_limit=60, name="test")
    await connections.open()
    acks = Acks(connections, owner=owner, ttl=30)
    held = [await take(sql, name, owner, ttl=30, held=(), limit=2) for name in ("writer", "second")]

    async def move(leased: Sequence[Leased]) -> None:
        async with Transaction(connections) as transaction:
            await acks.move([Move(one, replace(one.cursor, position=1), 1) for one in leased], transaction)
            await transaction.commit()

    await asyncio.gather(*map(move, held))  # one by one: taking the leases has left marks of its locks
    await sql.execute("UPDATE cursors SET epoch = epoch + 1 WHERE handler = 'second' AND shard = $1", held[1][1].shard)
    ended = await asyncio.gather(*map(move, [held[0], held[1][1:], held[1][:1]]), return_exceptions=True)
    moved = await sql.fetch("SELECT handler, xmin FROM cursors WHERE handled = 2")
    assert [type(one) for one in ended] == [type(None), LeaseLost, type(None)]
    assert sorted(row["handler"] for row in moved) == ["second", "writer", "writer"]
    assert len({row["xmin"] for row in moved}) == 1
    async with sql.transaction():
        await sql.execute("SELECT FROM cursors WHERE handler = 'second' FOR UPDATE")
        waits = asyncio.create_task(move(held[1][:1]))
        await move(held[0])  # with it, but not behind the lock
        assert not waits.done()
    await waits
    assert await sql.fetchval("SELECT array_agg(handled ORDER BY handled) FROM cursors WHERE handled > 0") == [
        1,
        3,
        3,
        3,
    ]
    connections.close()
    ended = await asyncio.gather(*map(move, held), return_exceptions=True)
    assert [type(one) for one in ended] == [DatabaseGone, DatabaseGone]


async def test_who_is_cancelled_or_meets_a_fault_leaves_no_other_waiting(
    database: str, sql: asyncpg.Connection
) -> None:
    """of those whose acks wait in one statement one may be cancelled: the others are moved; whatever fails for all of
    them, also what is no trouble of the database's, each learns of
    """
    owner = uuid4()
    await prepared(sql, [writer, second])
    connections = Database(database, connections=3, idle_limit=60, name="test")
    acks = Acks(connections, owner=owner, ttl=30)
    held = [await take(sql, name, owner, ttl=30, held=(), limit=1) for name in ("writer", "second")]

    async def move(leased: Sequence[Leased]) -> None:
        async with asyncio.timeout(30), Transaction(connections) as transaction:
            await acks.move([Move(one, one.cursor, 1) for one in leased], transaction)
            await transaction.commit()

    ended = await asyncio.gather(*map(move, held), return_exceptions=True)
    assert [type(one) for one in ended] == [AssertionError, AssertionError]  # it is not open
    await connections.open()
    await asyncio.gather(*map(move, held))  # one by one: taking the leases has left marks of its locks
    async with sql.transaction():
        await sql.execute("LOCK TABLE cursors IN ACCESS EXCLUSIVE MODE")
        cancelled, waits = (asyncio.create_task(move(one)) for one in held)
        await value(sql, "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'cursors'::regclass", 1)
        cancelled.cancel()
        (end,) = await asyncio.gather(cancelled, return_exceptions=True)
        comes_later = asyncio.create_task(move(held[0]))
    await asyncio.gather(waits, comes_later)
    assert type(end) is asyncio.CancelledError
    moved = await sql.fetch("SELECT handler, handled FROM cursors WHERE handled > 0 ORDER BY handler")
    assert [tuple(row) for row in moved] == [("second", 2), ("writer", 3)]  # what was under way is done
    connections.close()


async def test_an_ack_does_not_walk_dead_versions(sql: asyncpg.Connection) -> None:
    """an ack finds its rows by their place, which stays cheap while an old snapshot keeps dead versions alive"""
    owner = uuid4()
    await prepared(sql, [writer])
    held = await take(sql, "writer", owner, ttl=30, held=(), limit=64)
    await sql.execute(f"{OWN_PLANS.replace('SET LOCAL', 'SET')}; SET plan_cache_mode = force_generic_plan")
    await sql.execute(f"PREPARE ack AS {leases._ACK_AT}")
    plan = await sql.fetch(f"EXPLAIN EXECUTE ack ({', '.join(['NULL'] * 12)})")
    assert len(held) == 64
    assert "Tid Scan" in "\n".join(row[0] for row in plan)


async def test_restarts_in_the_middle_of_batches(database: str, sql: asyncpg.Connection) -> None:
    """workers that are killed at any moment leave every event's effect in the database exactly once"""
    await prepared(sql, [writer])
    ids = []
    for round_ in range(6):
        worker = start(database, writer, lease=0.6, batch=60)
        ids += await store(sql, 150)
        target = len(ids) - 100
        await value(sql, f"{COUNT.replace('count(*)', 'count(*) >= $1')}", True, target)
        await (worker.kill() if round_ % 2 else worker.stop())
    async with running(database, writer, lease=0.6):
        await value(sql, COUNT, len(ids))
    assert {row[0] for row in await sql.fetch("SELECT event_id FROM effects")} == set(ids)


async def test_a_server_crash(own_cluster: Cluster) -> None:
    """after a crash of Postgres under load the worker goes on by itself; nothing is lost or done twice"""
    connection = await asyncpg.connect(own_cluster.dsn)
    await connection.execute("CREATE TABLE effects (handler text, event_id uuid)")
    await prepared(connection, [writer])
    ids = await store(connection, 3000)
    async with running(own_cluster.dsn, writer, batch=100):
        await value(connection, "SELECT count(*) > 200 FROM effects", expected=True)
        own_cluster.kill()
        connection.terminate()
        own_cluster.start()
        connection = await asyncpg.connect(own_cluster.dsn)
        ids += await store(connection, 500)
        await value(connection, COUNT, len(ids), within=60)
    assert {row[0] for row in await connection.fetch("SELECT event_id FROM effects")} == set(ids)
    await connection.close()


async def test_starting_before_the_database(own_cluster: Cluster) -> None:
    """a worker that starts while the database is away waits for it"""
    own_cluster.stop()
    seen: list[Event] = []

    @handler()
    async def keeps(event: Event, _ctx: Context) -> None:
        seen.append(event)

    async with running(own_cluster.dsn, keeps):
        own_cluster.start()
        connection = await asyncpg.connect(own_cluster.dsn)
        await value(connection, "SELECT count(*) FROM cursors", 64)
        await store(connection, 5)
        await true(lambda: len(seen) == 5)
        await connection.close()


async def test_a_lease_that_its_worker_does_not_know_of_runs_out(database: str, sql: asyncpg.Connection) -> None:
    """shards that are a worker's by the database alone, since its letting go was lost on the way, are read again"""
    await prepared(sql, [writer])
    async with running(database, writer, lease=1.0) as one, running(database, writer, lease=1.0):
        await value(sql, SHARES, [32, 32], "writer")
        # As after a release that did not arrive: the other one's shards are in the name of the first.
        await sql.execute(
            """
            UPDATE cursors SET owner = $1, epoch = epoch + 1, lease_until = clock_timestamp() + interval '1 second'
            WHERE handler = 'writer' AND owner <> $1
            """,
            one.worker.id,
        )
        await store(sql, 200)
        await value(sql, COUNT, 200)
        await value(sql, SHARES, [32, 32], "writer")


async def test_a_handler_removed_while_its_worker_seemed_gone(database: str, sql: asyncpg.Connection) -> None:
    """where a worker was cut off, and its handler removed meanwhile, it begins anew with what comes from then on"""
    await prepared(sql, [writer])
    async with running(database, writer):
        await store(sql, 1)
        await value(sql, COUNT, 1)
        await remove(sql, "writer", dead_letters=False)
        await value(sql, "SELECT count(*) FROM cursors WHERE owner IS NOT NULL", 64)
        (id_,) = await store(sql, 1)
        await value(sql, f"{COUNT} WHERE event_id = $1", 1, id_)
