"""Old events beside new ones: a lane ends exactly where the handler's own cursor began or stood."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from structlog.testing import capture_logs

from receiver import Context, Event, Handler, handler
from receiver.dispatch.worker import Worker
from receiver.plugins.handlers import THE_BEGINNING
from receiver.store.lanes import open_lane, place_before
from tests.log_events import store, store_rows, write_transactions
from tests.workers import VAULT, Running, prepared, running, start, value

EFFECT = "INSERT INTO effects (event_id, replaying) VALUES ($1, $2)"
COUNT = "SELECT count(*) FROM effects"
LANES = "SELECT count(*) FROM lanes"
CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name"
LANE_CURSORS = "SELECT count(*) FROM cursors WHERE handler LIKE '%/lane'"


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    await connection.execute("CREATE TABLE effects (event_id uuid, replaying boolean)")
    yield connection
    await connection.close()


def writer(*, name: str = "writer", start: str = "now", batch_size: int = 500) -> Handler:
    @handler(name=name, start=start, batch_size=batch_size)
    async def write(event: Event, ctx: Context) -> None:
        await ctx.sql.execute(EFFECT, event.id, ctx.replaying)

    return write


async def effects(sql: asyncpg.Connection, *, replaying: bool | None = None) -> Counter[UUID]:
    rows = await sql.fetch("SELECT event_id, replaying FROM effects")
    return Counter(row[0] for row in rows if replaying is None or row[1] is replaying)


async def gone(sql: asyncpg.Connection) -> None:
    """Wait until the lane and its cursors have been removed."""
    await value(sql, LANES, 0)
    assert await sql.fetchval(LANE_CURSORS) == 0


async def test_a_new_handler_with_history(database: str, sql: asyncpg.Connection) -> None:
    """a handler that starts at the beginning gets old events as a replay and new ones as usual, each once"""
    old = await store(sql, 300)
    async with running(database, writer(start="beginning")):
        await value(sql, "SELECT count(*) FROM cursors WHERE handler = 'writer'", 64)
        new = await store(sql, 50)
        await value(sql, COUNT, 350)
        await gone(sql)
    assert await effects(sql, replaying=True) == Counter(old)
    assert await effects(sql, replaying=False) == Counter(new)


@pytest.mark.parametrize("seed", range(3))
async def test_the_lane_ends_where_the_cursor_began(database: str, sql: asyncpg.Connection, seed: int) -> None:
    """with writers whose transactions overlap the start, and workers killed in between, each event comes once"""
    committed: list[UUID] = []
    writers = [asyncio.create_task(write_transactions(database, seed * 100 + n, committed)) for n in range(8)]
    await value(sql, "SELECT count(*) > 60 FROM events", expected=True)
    for _ in range(3):
        worker = start(database, writer(start="beginning", batch_size=7), lease=0.6, batch=40)
        before = await sql.fetchval(COUNT)
        await value(sql, f"SELECT count(*) > {before} FROM effects", expected=True)
        await worker.kill()
    await asyncio.gather(*writers)
    async with running(database, writer(start="beginning", batch_size=7), lease=0.6):
        await value(sql, COUNT, len(committed))
        await gone(sql)
    assert await effects(sql) == Counter(committed)
    assert set(await effects(sql, replaying=True))
    assert set(await effects(sql, replaying=False))


async def test_transactions_under_way_are_the_cursors_own(database: str, sql: asyncpg.Connection) -> None:
    """what was being written when the handler began is handled as new once committed, and not by the lane"""
    other = await asyncpg.connect(database)
    under_way = other.transaction()
    await under_way.start()
    late = await store(other, 5)
    old = await store(sql, 20)
    async with running(database, writer(start="1h")):
        await value(sql, COUNT, 20)
        await under_way.commit()
        await value(sql, COUNT, 25)
        await gone(sql)
    await other.close()
    assert await effects(sql, replaying=True) == Counter(old)
    assert await effects(sql, replaying=False) == Counter(late)


@pytest.mark.parametrize("seed", range(2))
async def test_rewinding_under_load(database: str, sql: asyncpg.Connection, seed: int) -> None:
    """a rewind while others write gives again exactly what had been read, and new events still come once"""
    committed: list[UUID] = []
    await prepared(sql, [writer()])
    writers = [asyncio.create_task(write_transactions(database, seed * 100 + n, committed)) for n in range(8)]
    async with running(database, writer(), batch=40):
        await value(sql, "SELECT count(*) > 60 FROM effects", expected=True)
        async with sql.transaction(isolation="repeatable_read"):  # cursors and effects of the same moment
            await open_lane(sql, "writer", "rewind", THE_BEGINNING)
            read = await sql.fetch("SELECT event_id FROM effects")
        await asyncio.gather(*writers)
        await gone(sql)
        await value(sql, "SELECT count(*) FROM effects WHERE NOT replaying", len(committed))
    assert await effects(sql, replaying=False) == Counter(committed)
    assert await effects(sql, replaying=True) == Counter(row[0] for row in read)


async def test_a_rewind_has_a_first_time(database: str, sql: asyncpg.Connection) -> None:
    """a rewind gives what was received at or after its time, to the microsecond, in whatever order it was stored"""
    at = datetime.now(UTC) - timedelta(minutes=30)
    times = [at + timedelta(minutes=n) for n in (-3, 2, -1, 0, 5, -2, 1)] + [at - timedelta(microseconds=1)]
    await prepared(sql, [writer()])
    for n, time in enumerate(times * 4):
        await store_rows(sql, [{"received_at": time, "subject": str(time >= at), "shard": n % 3}])
    async with running(database, writer()):
        await value(sql, COUNT, len(times) * 4)
        await sql.execute("TRUNCATE effects")
        async with sql.transaction():
            await open_lane(sql, "writer", "rewind", at)
        await value(sql, "SELECT count(*) >= 16 FROM effects", expected=True)
        await gone(sql)
    wanted = {row[0] for row in await sql.fetch("SELECT id FROM events WHERE subject = 'True'")}
    assert await effects(sql, replaying=True) == Counter(wanted)


async def test_new_events_do_not_wait_for_a_lane(database: str, sql: asyncpg.Connection) -> None:
    """new events are handled while a lane with a low rate has most of its events before it"""
    old = await store(sql, 200)
    await prepared(sql, [writer()])
    async with sql.transaction():
        await open_lane(sql, "writer", "backfill", THE_BEGINNING, rate=2.0)
    async with running(database, writer()):
        await value(sql, "SELECT count(*) > 0 FROM effects WHERE replaying", expected=True)
        new = await store(sql, 100)
        await value(sql, "SELECT count(*) FROM effects WHERE NOT replaying", 100)
        assert sum((await effects(sql, replaying=True)).values()) < len(old)
    assert await effects(sql, replaying=False) == Counter(new)


async def test_a_failure_in_a_lane_stays_a_replay(database: str, sql: asyncpg.Connection) -> None:
    """an event that fails in a lane is tried again as a replay; one that waited as a failure keeps its effects"""
    failing = asyncio.Event()
    failing.set()

    @handler(name="writer")
    async def fails(event: Event, ctx: Context) -> None:
        if failing.is_set():
            raise ValueError("not now")
        await ctx.sql.execute(EFFECT, event.id, ctx.replaying)

    ids = await store(sql, 2)
    await prepared(sql, [fails])
    await sql.execute(
        "INSERT INTO retries (handler, event_id, event_received_at, shard, cause, next_at) "
        "SELECT 'writer', id, received_at, shard, 'failed', 'infinity' FROM events WHERE id = $1",
        ids[0],
    )
    async with sql.transaction():
        await open_lane(sql, "writer", "backfill", THE_BEGINNING)
    async with running(database, fails):
        await gone(sql)
        failing.clear()
        await sql.execute("UPDATE retries SET next_at = now()")
        await value(sql, COUNT, 2)
    assert await effects(sql, replaying=False) == Counter(ids[:1])
    assert await effects(sql, replaying=True) == Counter(ids[1:])


async def test_several_workers_share_a_lane(database: str, sql: asyncpg.Connection) -> None:
    """a lane's shards are spread over the workers that run the handler"""
    ids = await store(sql, 400)
    await prepared(sql, [writer()])
    async with sql.transaction():
        await open_lane(sql, "writer", "backfill", THE_BEGINNING, rate=1.0)
    shares = """
    SELECT array_agg(n ORDER BY n) FROM (
        SELECT count(*)::int AS n FROM cursors WHERE handler = 'writer/lane' AND lease_until > clock_timestamp()
        GROUP BY owner
    ) AS shares
    """
    async with running(database, writer()), running(database, writer()):
        await value(sql, shares, [32, 32])
        await sql.execute("UPDATE lanes SET rate = NULL")
        await value(sql, COUNT, len(ids))
        await gone(sql)
    assert await effects(sql, replaying=True) == Counter(ids)


async def test_lanes_of_several_handlers(database: str, sql: asyncpg.Connection) -> None:
    """the lanes of several handlers are read in one worker without losing its connection, each event once"""
    handlers = [writer(name=f"writer{n}", batch_size=5) for n in range(4)]
    ids = await store(sql, 200)
    await prepared(sql, handlers)
    async with sql.transaction():
        for one in handlers:
            await open_lane(sql, one.name, "rewind", THE_BEGINNING)
    with capture_logs() as lines:
        async with running(database, *handlers):
            await value(sql, COUNT, len(handlers) * len(ids))
            await gone(sql)
    assert [line for line in lines if line["log_level"] != "info"] == []
    assert await effects(sql, replaying=True) == Counter(ids * len(handlers))


async def test_a_stopped_worker_leaves_no_connection(database: str, sql: asyncpg.Connection) -> None:
    """a worker that has read a lane has no connection left when it is stopped, and none when it is killed"""
    await store(sql, 500)
    await prepared(sql, [writer()])
    async with sql.transaction():
        await open_lane(sql, "writer", "backfill", THE_BEGINNING, rate=1.0)
    for end in (Running.stop, Running.kill):
        # Directly, since a pooler would keep the server's connections.
        worker = Running(Worker(dsn=database, handlers=[writer()], vault=VAULT, name="the one", lease=2.0))
        await value(sql, f"{CONNECTIONS} LIKE '%the one lanes'", 1)
        await end(worker)
        await value(sql, f"{CONNECTIONS} LIKE '%the one%'", 0)


async def test_finding_a_time_in_the_log(sql: asyncpg.Connection) -> None:
    """the place found for a time has nothing of that time before it, and not much more than an hour of older events"""
    first = datetime(2020, 1, 1, tzinfo=UTC)
    await sql.execute("CREATE TABLE events_old PARTITION OF events FOR VALUES FROM ('2020-01-01') TO ('2020-02-01')")
    for hour in range(48):
        await store(sql, 3, received_at=first + timedelta(hours=hour))

    async def before(time: datetime) -> dict[str, Any]:
        gen, txid = await place_before(sql, time)
        rows = await sql.fetch("SELECT received_at FROM events WHERE (gen, txid) < ($1::int2, $2::xid8)", gen, txid)
        left = await sql.fetchval(
            "SELECT count(*) FROM events WHERE (gen, txid) >= ($1::int2, $2::xid8) AND received_at < $3",
            *(gen, txid, time),
        )
        return {"passed": [row[0] for row in rows], "left": left}

    for hour in (0, 1, 10, 30, 47, 100):
        time = first + timedelta(hours=hour, minutes=30)
        found = await before(time)
        assert all(at < time for at in found["passed"])
        assert found["left"] <= 3 * 3
    await sql.execute("ALTER TABLE events ALTER COLUMN gen SET DEFAULT 2")
    await store(sql, 3, received_at=first + timedelta(hours=50))
    assert len((await before(first + timedelta(hours=30)))["passed"]) > 3 * 25
    assert (await before(first - timedelta(days=1)))["passed"] == []
