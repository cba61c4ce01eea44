"""The breaker: a handler that fails for everything stops, spends no events, probes, and goes on by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import asyncpg
import pytest
from structlog.testing import capture_logs

from receiver import Context, Event, Handler, handler
from tests.log_events import store
from tests.waiting import until
from tests.workers import prepared, running, true, value

COUNT = "SELECT count(*) FROM effects"
OPEN = "SELECT count(*) FROM handlers WHERE breaker_since IS NOT NULL"
SPENT = "SELECT (SELECT count(*) FROM retries) + (SELECT count(*) FROM dead_letters)"
PROBE = "UPDATE handlers SET breaker_probe_at = clock_timestamp()"


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database that also has a table for what handlers do."""
    connection = await asyncpg.connect(database)
    await connection.execute("CREATE TABLE effects (event_id uuid)")
    yield connection
    await connection.close()


class Deploy:
    """A handler whose code is broken until someone mends it."""

    def __init__(self, **options: Any) -> None:
        self.broken = True
        self.calls = 0

        decorate: Callable[..., Callable[..., Handler]] = cast("Any", handler)
        self.handler = decorate(name="deploy", **options)(self._handle)

    async def _handle(self, event: Event, ctx: Context) -> None:
        self.calls += 1
        await ctx.sql.execute("INSERT INTO effects VALUES ($1)", event.id)
        if self.broken:
            raise ImportError(f"no module for {event.recipient}")

    async def called_again(self) -> None:
        before = self.calls
        await true(lambda: self.calls > before)


async def test_a_bad_deploy(database: str, sql: asyncpg.Connection) -> None:
    """a handler that fails for everything spends no event, says so once, and goes on by itself when it is mended"""
    deploy = Deploy()
    await prepared(sql, [deploy.handler])
    await store(sql, 300)
    with capture_logs() as lines:
        async with running(database, deploy.handler):
            await value(sql, OPEN, 1)
            row = await sql.fetchrow("SELECT state, breaker_error, breaker_probe_at > now() FROM handlers")
            assert row is not None
            assert tuple(row) == ("running", "ImportError: no module for <address>", True)
            calls = deploy.calls
            for _ in range(3):
                await sql.execute(PROBE)
                await deploy.called_again()
            assert deploy.calls == calls + 3
            await true(lambda: [line["event"] for line in lines].count("breaker_probe_failed") == 3)
            assert await sql.fetchval(SPENT) == 0
            deploy.broken = False
            await sql.execute(PROBE)
            await value(sql, COUNT, 300)
    assert await sql.fetchval(OPEN) == 0
    assert await sql.fetchval(SPENT) == 0
    assert await sql.fetchval("SELECT count(DISTINCT event_id) FROM effects") == 300
    words = [line["event"] for line in lines if line["event"].startswith("breaker")]
    assert words == ["breaker_open", *["breaker_probe_failed"] * 3, "breaker_closed"]


async def test_few_events_at_a_time(database: str, sql: asyncpg.Connection) -> None:
    """events that come one by one cost a handful of retries, no dead letter, and are handled after the mending"""
    deploy = Deploy(breaker=5)
    await prepared(sql, [deploy.handler])
    async with running(database, deploy.handler):
        for number in range(1, 5):
            await store(sql)
            await value(sql, "SELECT count(*) FROM retries", number)
        await store(sql)
        await value(sql, OPEN, 1)
        await sql.execute("UPDATE retries SET next_at = now()")
        await store(sql, 50)
        for _ in range(4):
            await sql.execute(PROBE)
            await deploy.called_again()
        assert await sql.fetchval("SELECT max(attempt) FROM retries") == 1
        assert await sql.fetchval(SPENT) == 4
        deploy.broken = False
        await sql.execute(PROBE)
        await value(sql, OPEN, 0)
        await sql.execute("UPDATE retries SET next_at = now()")
        await value(sql, COUNT, 55)
    assert await sql.fetchval(SPENT) == 0


async def test_probes_grow_rarer(database: str, sql: asyncpg.Connection) -> None:
    """the pause between probes grows with the time that the breaker has been open, up to five minutes"""
    deploy = Deploy()
    await prepared(sql, [deploy.handler])
    await store(sql, 30)
    pauses: list[float] = []
    async with running(database, deploy.handler):
        await value(sql, OPEN, 1)
        for minutes in (0, 1, 3, 60):
            await sql.execute(
                "UPDATE handlers SET breaker_probe_at = now(), breaker_since = now() - $1 * interval '1 minute'",
                minutes,
            )
            await deploy.called_again()
            pauses.append(
                await sql.fetchval("SELECT extract(epoch FROM breaker_probe_at - now())::float FROM handlers")
            )
    assert pauses == [pytest.approx(expected, abs=5) for expected in (5, 60, 180, 300)]


async def test_poison_does_not_open_it(database: str, sql: asyncpg.Connection) -> None:
    """a few events that always fail, one after the other and again and again, go their way to the dead letters"""

    @handler(max_attempts=3)
    async def picky(event: Event, ctx: Context) -> None:
        if event.subject == "bad":
            raise ValueError("never")
        await ctx.sql.execute("INSERT INTO effects VALUES ($1)", event.id)

    await prepared(sql, [picky])
    await store(sql, 9, subject="bad", shard=5)
    await store(sql, 45, subject=lambda n: "bad" if n % 3 == 2 else None, shard=5)
    with capture_logs() as lines:
        async with running(database, picky):
            await value(sql, COUNT, 30)
            for attempt in (1, 2):  # again and again, and nothing else comes
                await value(sql, "SELECT count(*) FROM retries WHERE attempt = $1", 24, attempt)
                await sql.execute("UPDATE retries SET next_at = now()")
            await value(sql, "SELECT count(*) FROM dead_letters", 24)
    assert not [line for line in lines if line["event"] == "breaker_open"]
    assert await sql.fetchval(OPEN) == 0


async def test_many_bad_events_in_a_row(database: str, sql: asyncpg.Connection) -> None:
    """a long run of bad events opens it, but neither holds up the other events for ever nor escapes its own fate"""

    @handler(max_attempts=1)
    async def picky(event: Event, ctx: Context) -> None:
        if event.subject == "bad":
            raise ValueError("never")
        await ctx.sql.execute("INSERT INTO effects VALUES ($1)", event.id)

    await prepared(sql, [picky])
    await store(sql, 35, subject="bad", shard=5)

    async def settled() -> bool:
        await store(sql)
        await sql.execute(f"{PROBE} WHERE breaker_since IS NOT NULL")
        return bool(await sql.fetchval("SELECT count(*) FROM dead_letters") == 35)

    with capture_logs() as lines:
        async with running(database, picky):
            await until(settled, within=60)
            await value(sql, "SELECT (SELECT count(*) FROM events) - (SELECT count(*) FROM effects)", 35)
    words = [line["event"] for line in lines]
    assert 3 <= words.count("breaker_open") <= 4
    assert words.count("breaker_closed") >= 3
    assert await sql.fetchval("SELECT count(*) FROM retries") == 0


async def test_bad_retries_are_not_the_only_probes(database: str, sql: asyncpg.Connection) -> None:
    """while all that is due again is bad, a new event that is handled closes the breaker"""

    @handler(breaker=3)
    async def picky(event: Event, ctx: Context) -> None:
        if event.subject == "bad":
            raise ValueError("never")
        await ctx.sql.execute("INSERT INTO effects VALUES ($1)", event.id)

    await prepared(sql, [picky])

    async def closed() -> bool:
        await sql.execute("UPDATE retries SET next_at = now()")
        await sql.execute(f"{PROBE} WHERE breaker_since IS NOT NULL")
        return not await sql.fetchval(OPEN)

    async with running(database, picky):
        for number in (1, 2):
            await store(sql, subject="bad", shard=5)
            await value(sql, "SELECT count(*) FROM retries", number)
        await store(sql, subject="bad", shard=5)
        await value(sql, OPEN, 1)
        await store(sql, shard=6)
        await until(closed)
        await value(sql, COUNT, 1)


async def test_all_workers_obey(database: str, sql: asyncpg.Connection) -> None:
    """an open breaker stops every worker, also one that starts later; one worker probes, and one success frees all"""
    deploys = [Deploy() for _ in range(3)]
    await prepared(sql, [deploys[0].handler])
    async with running(database, deploys[0].handler), running(database, deploys[1].handler):
        await value(sql, "SELECT count(DISTINCT owner) FROM cursors", 2)
        await store(sql, 500)
        await value(sql, OPEN, 1)
        async with running(database, deploys[2].handler):
            await value(sql, "SELECT count(DISTINCT owner) FROM cursors", 3)
            assert deploys[2].calls <= 1  # its start hastens the next probe
            await value(sql, "SELECT breaker_probe_at > now() FROM handlers", expected=True)
            before = sum(deploy.calls for deploy in deploys)
            await sql.execute(PROBE)
            await true(lambda: sum(deploy.calls for deploy in deploys) > before)
            await value(sql, "SELECT breaker_probe_at > now() FROM handlers", expected=True)
            assert await sql.fetchval(SPENT) == 0
            for deploy in deploys:
                deploy.broken = False
            await sql.execute(PROBE)
            await value(sql, COUNT, 500)
    assert all(deploy.calls > 20 for deploy in deploys)
    assert await sql.fetchval("SELECT count(DISTINCT event_id) FROM effects") == 500
    assert await sql.fetchval(SPENT) == 0


async def test_retried_dead_letters_open_it_too(database: str, sql: asyncpg.Connection) -> None:
    """events handed over again by request are not spent on a broken handler either; one of them can be the probe"""
    deploy = Deploy(max_attempts=1)
    await store(sql, 40)
    await prepared(sql, [deploy.handler])
    await sql.execute(
        "INSERT INTO retries (handler, event_id, event_received_at, shard, cause, next_at) "
        "SELECT 'deploy', id, received_at, shard, 'replay', now() FROM events"
    )
    async with running(database, deploy.handler):
        await value(sql, OPEN, 1)
        assert await sql.fetchval("SELECT count(*) FROM dead_letters") < 10
        left = await sql.fetchval("SELECT count(*) FROM retries")
        assert left > 30
        deploy.broken = False
        await sql.execute(PROBE)
        await value(sql, OPEN, 0)
        await value(sql, COUNT, left)


async def test_without_a_breaker(database: str, sql: asyncpg.Connection) -> None:
    """with breaker=0 everything is retried and buried, even where another release has left the breaker open"""
    deploy = Deploy(breaker=0, max_attempts=1)
    await prepared(sql, [deploy.handler])
    await sql.execute("UPDATE handlers SET breaker_since = now(), breaker_probe_at = now() + interval '1 hour'")
    await store(sql, 50)
    async with running(database, deploy.handler):
        await value(sql, "SELECT count(*) FROM dead_letters", 50)
    assert await sql.fetchval(OPEN) == 0
