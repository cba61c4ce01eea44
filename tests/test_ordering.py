"""Ordered handlers: one recipient's events strictly in order, whatever fails, restarts or is killed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from receiver import Context, Event, Outcome, RetryAfter, handler
from receiver.event import shard_of
from receiver.plugins.handlers import THE_BEGINNING, Handler
from receiver.store.dead_letters import DeadLetters, retry
from receiver.store.lanes import open_lane
from receiver.store.ordering import key_of
from receiver.testing import event as make_event
from tests.cli import Receiver, command
from tests.log_events import store
from tests.workers import prepared, running, start, true, value

EFFECT = "INSERT INTO effects (recipient, n) VALUES ($1, $2)"
COUNT = "SELECT count(*) FROM effects"
ORDER = "SELECT array_agg(n ORDER BY seq) FROM effects WHERE recipient = $1"
PARKED = "SELECT count(*) FROM retries WHERE next_at = 'infinity'"
FAILED = "SELECT count(*) FROM retries WHERE cause = 'failed'"
NOW = "UPDATE retries SET next_at = now() WHERE next_at <> 'infinity'"


@pytest.fixture
def receiver(database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Receiver:
    monkeypatch.setenv("RECEIVER_DATABASE", database)
    return command(capsys)


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database that also has a table for what handlers do, in the order in which they do it."""
    connection = await asyncpg.connect(database)
    await connection.execute("CREATE TABLE effects (seq bigserial, recipient text, n int)")
    yield connection
    await connection.close()


class Diary:
    """An ordered handler that writes down each event, and fails for those in `bad`."""

    def __init__(self, *, bad: Sequence[str] = (), batch: bool = False, **options: Any) -> None:
        self.bad = set(bad)
        options = {"ordered": True, "breaker": 0, **options}
        decorate: Any = handler
        self.handler: Handler = decorate(name="diary", batch=batch, **options)(self._many if batch else self._one)

    async def _one(self, event: Event, ctx: Context) -> None:
        await ctx.sql.execute(EFFECT, event.recipient, int(event.subject or ""))
        if f"{event.recipient} {event.subject}" in self.bad:
            raise ValueError("not now")

    async def _many(self, events: Sequence[Event], ctx: Context) -> None:
        for event in events:
            await self._one(event, ctx)


async def write(sql: asyncpg.Connection, recipient: str, numbers: Sequence[int]) -> None:
    """Events of one recipient, each in a transaction of its own."""
    for number in numbers:
        await store(sql, recipient=recipient, subject=str(number))


@pytest.mark.parametrize("batch", [False, True])
async def test_later_events_wait(database: str, sql: asyncpg.Connection, *, batch: bool) -> None:
    """behind a failed event all later ones of its recipient wait, those of others do not; then they go on in order"""
    diary = Diary(bad=["ann 2"], batch=batch)
    await prepared(sql, [diary.handler])
    await write(sql, "ann", range(5))
    await write(sql, "bob", range(5))
    async with running(database, diary.handler):
        await value(sql, ORDER, [0, 1, 2, 3, 4], "bob")
        await value(sql, PARKED, 2)
        await write(sql, "ann", range(5, 30))
        await value(sql, PARKED, 27)
        assert await sql.fetchval(ORDER, "ann") == [0, 1]
        await sql.execute(NOW)
        await value(sql, "SELECT max(attempt) FROM retries", 2)
        diary.bad.clear()
        await sql.execute(NOW)
        await value(sql, "SELECT count(*) FROM retries", 0)
        await write(sql, "ann", [30])
        await value(sql, ORDER, list(range(31)), "ann")


async def test_what_waits_is_shown(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """events parked behind a failed one are a backlog: they are counted, from when they were parked"""
    diary = Diary(bad=["ann 1"])
    await prepared(sql, [diary.handler])
    await write(sql, "ann", range(4))
    async with running(database, diary.handler):
        await value(sql, PARKED, 2)
        await sql.execute("UPDATE retries SET created_at = now() - interval '1 hour'")
        await sql.execute("UPDATE retries SET next_at = now() + interval '1 day' WHERE next_at <> 'infinity'")
        (shown,) = (await receiver("handlers", "--json")).rows
        assert "3 (2 parked)" in (await receiver("handlers")).out
    assert [shown[key] for key in ("lag_events", "retries", "retries_due", "parked")] == [0, 3, 0, 2]
    assert 3600 <= float(str(shown["lag_seconds"])) < 3900


async def test_without_order_they_do_not_wait(database: str, sql: asyncpg.Connection) -> None:
    """by default later events of a recipient do not wait behind one that failed"""
    diary = Diary(bad=["ann 2"], ordered=False)
    await prepared(sql, [diary.handler])
    await write(sql, "ann", range(5))
    async with running(database, diary.handler):
        await value(sql, ORDER, [0, 1, 3, 4], "ann")
    assert await sql.fetchval("SELECT array_agg(cause) FROM retries") == ["failed"]


async def test_after_a_dead_letter(database: str, sql: asyncpg.Connection) -> None:
    """when a failed event becomes a dead letter, those behind it go on; retried later, it comes when it is retried"""
    diary = Diary(bad=["ann 1", "ann 3"], max_attempts=2)
    await prepared(sql, [diary.handler])
    await write(sql, "ann", range(6))
    async with running(database, diary.handler):
        await value(sql, PARKED, 4)
        await sql.execute(NOW)
        await value(sql, "SELECT count(*) FROM dead_letters", 1)
        await value(sql, FAILED, 1)
        await value(sql, ORDER, [0, 2], "ann")
        await sql.execute(NOW)
        await value(sql, ORDER, [0, 2, 4, 5], "ann")
        diary.bad.clear()
        await retry(sql, DeadLetters())
        await value(sql, ORDER, [0, 2, 4, 5, 1, 3], "ann")


async def test_asking_for_later_holds_the_others_up(database: str, sql: asyncpg.Connection) -> None:
    """an event that the handler wants later holds those behind it too"""
    later = True

    @handler(ordered=True)
    async def diary(event: Event, ctx: Context) -> Outcome | None:
        if later and event.subject == "1":
            return RetryAfter(3600)
        await ctx.sql.execute(EFFECT, event.recipient, int(event.subject or ""))
        return None

    await prepared(sql, [diary])
    await write(sql, "ann", range(4))
    async with running(database, diary):
        await value(sql, PARKED, 2)
        assert await sql.fetchval(ORDER, "ann") == [0]
        later = False
        await sql.execute(NOW)
        await value(sql, ORDER, [0, 1, 2, 3], "ann")


async def test_across_restarts(database: str, sql: asyncpg.Connection) -> None:
    """what waits still waits after a restart, and events that come meanwhile wait behind it"""
    diary = Diary(bad=["ann 0"])
    await prepared(sql, [diary.handler])
    await write(sql, "ann", range(3))
    async with running(database, diary.handler):
        await value(sql, PARKED, 2)
    await write(sql, "ann", range(3, 6))
    async with running(database, diary.handler):
        await value(sql, PARKED, 5)
        assert await sql.fetchval(COUNT) == 0
        diary.bad.clear()
        await sql.execute(NOW)
        await value(sql, ORDER, list(range(6)), "ann")


async def test_failures_from_before_it_was_ordered(database: str, sql: asyncpg.Connection) -> None:
    """a handler that becomes ordered keeps later events behind those that had failed; made unordered, it frees them"""
    diary = Diary(bad=["ann 0", "bob 0"])
    unordered = Diary(bad=["ann 0"], ordered=False)
    await prepared(sql, [diary.handler])
    await write(sql, "ann", [0])
    async with running(database, unordered.handler):
        await value(sql, FAILED, 1)
    await sql.execute(NOW)
    await sql.execute("UPDATE retries SET ordering_key = NULL")
    async with running(database, diary.handler):
        await value(sql, "SELECT ordering_key FROM retries", key_of(make_event("delivered", recipient="ann")))
        await value(sql, "SELECT attempt FROM retries", 2)
        await write(sql, "ann", [1])
        await write(sql, "bob", [0, 1])
        await value(sql, PARKED, 2)
    unordered.bad.clear()
    async with running(database, unordered.handler):
        await value(sql, COUNT, 2)
    assert await sql.fetchval(FAILED) == 2


async def test_rows_removed_by_hand(database: str, sql: asyncpg.Connection) -> None:
    """when somebody deletes the event that others wait for, the next of them goes on"""
    diary = Diary(bad=["ann 0"])
    await prepared(sql, [diary.handler])
    await write(sql, "ann", range(3))
    async with running(database, diary.handler):
        await value(sql, PARKED, 2)
    await sql.execute("DELETE FROM retries WHERE cause = 'failed'")
    async with running(database, diary.handler):
        await value(sql, ORDER, [1, 2], "ann")


async def test_a_replay_keeps_the_order(database: str, sql: asyncpg.Connection) -> None:
    """old events that are handed over again keep their order too, and know that they are replayed, parked or not"""
    flags: list[bool] = []
    bad = True

    @handler(ordered=True)
    async def diary(event: Event, ctx: Context) -> None:
        flags.append(ctx.replaying)
        if bad and event.subject == "0":
            raise ValueError("not now")
        await ctx.sql.execute(EFFECT, event.recipient, int(event.subject or ""))

    await write(sql, "ann", range(5))
    await prepared(sql, [diary])
    async with sql.transaction():
        await open_lane(sql, "diary", "backfill", THE_BEGINNING)
    async with running(database, diary):
        await value(sql, PARKED, 4)
        bad = False
        await sql.execute(NOW)
        await value(sql, ORDER, list(range(5)), "ann")
    assert set(flags) == {True}


async def test_what_is_put_while_others_are_due(database: str, sql: asyncpg.Connection) -> None:
    """an event that is put for a replay in the middle of a round waits behind one of its recipient that has failed"""
    put = (
        "INSERT INTO retries (handler, event_id, event_received_at, shard, cause, next_at) "
        "SELECT 'diary', id, received_at, shard, 'replay', now() FROM events "
        "WHERE recipient = $1 AND subject = ANY ($2) ON CONFLICT DO NOTHING"
    )
    other = await asyncpg.connect(database)
    bad = True

    @handler(ordered=True, first_delay=3600)
    async def diary(event: Event, ctx: Context) -> None:
        if event.recipient == "bob" and bad:
            await other.execute(put, "ann", ["2", "3"])
        if event.subject == "1" and bad:
            raise ValueError("not now")
        await ctx.sql.execute(EFFECT, event.recipient, int(event.subject or ""))

    await write(sql, "ann", [1, 2, 3])
    await write(sql, "bob", [0, 9])
    await prepared(sql, [diary])
    async with sql.transaction():  # one round takes both, ann's first
        await sql.execute(put, "ann", ["1"])
        await sql.execute(put, "bob", ["0"])
        await sql.execute(
            "UPDATE retries SET next_at = now() - interval '1 s' WHERE shard = $1", shard_of("ann", None, b"")
        )
    async with running(database, diary):
        await value(sql, ORDER, [0], "bob")
        await sql.execute(put, "bob", ["9"])
        await value(sql, ORDER, [0, 9], "bob")
        assert await sql.fetchval(ORDER, "ann") is None
        bad = False
        await sql.execute(NOW)
        await value(sql, ORDER, [1, 2, 3], "ann")
    await other.close()


async def test_a_retry_whose_lease_is_lost(database: str, sql: asyncpg.Connection) -> None:
    """an attempt during which the shard was lost is not committed: its event is tried again by the new holder"""
    attempts: list[int] = []
    release = asyncio.Event()

    @handler(ordered=True)
    async def diary(event: Event, ctx: Context) -> None:
        await ctx.sql.execute(EFFECT, event.recipient, int(event.subject or ""))
        if event.subject == "0":
            attempts.append(ctx.attempt)
            if ctx.attempt == 1:
                raise ValueError("not now")
            await release.wait()

    await prepared(sql, [diary])
    await write(sql, "ann", range(2))
    with capture_logs() as lines:
        async with running(database, diary):
            await value(sql, PARKED, 1)
            await sql.execute(NOW)
            await true(lambda: 2 in attempts)
            await sql.execute("UPDATE cursors SET epoch = epoch + 1, owner = NULL, lease_until = '-infinity'")
            release.set()
            await value(sql, COUNT, 2)
    assert "lease_lost" in [line["event"] for line in lines]
    assert attempts.count(2) == 2
    assert await sql.fetchval(ORDER, "ann") == [0, 1]


@pytest.mark.parametrize("seed", [1, 2])
async def test_no_inversion(database: str, sql: asyncpg.Connection, seed: int) -> None:
    """several workers, one killed, one joining, a flaky handler: every recipient's events are done once and in order"""
    chance = random.Random(seed)
    names, count = [f"r{n}@example.com" for n in range(12)], 25

    def flaky(concurrency: int) -> Handler:
        @handler(name="flaky", ordered=True, concurrency=concurrency, max_attempts=1000, first_delay=0.01, batch_size=7)
        async def flaky(event: Event, ctx: Context) -> Outcome | None:
            await ctx.sql.execute(EFFECT, event.recipient, int(event.subject or ""))
            if chance.random() < 0.1:
                raise ValueError("flaky")
            return RetryAfter(0.01) if chance.random() < 0.05 else None

        return flaky

    async def writer(name: str) -> None:
        connection = await asyncpg.connect(database)
        for number in range(count):
            await write(connection, name, [number])
            await asyncio.sleep(chance.random() / 20)
        await connection.close()

    await prepared(sql, [flaky(1)])
    workers = [start(database, flaky(n)) for n in (1, 2, 3)]
    try:
        writing = asyncio.gather(*map(writer, names))
        await value(sql, f"SELECT count(*) > {3 * count} FROM effects", expected=True)
        await workers[1].kill()
        workers.append(start(database, flaky(4)))
        await writing
        await value(sql, COUNT, len(names) * count, within=90)
    finally:
        await asyncio.gather(*(worker.end() for worker in workers))
    for name in names:
        assert await sql.fetchval(ORDER, name) == list(range(count)), (name, seed)
    assert await sql.fetchval("SELECT count(*) FROM retries") == 0
