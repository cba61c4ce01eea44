"""A batch handler that asks for later: it rests where it stands, and nothing is filed event by event."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from structlog.testing import capture_logs

from receiver import Context, Event, Handler, Outcome, RetryAfter, handler
from receiver.store import breakers
from tests import http_sink
from tests.cli import Receiver
from tests.http_sink import Sink
from tests.log_events import store
from tests.test_forward import configured
from tests.workers import all_read, prepared, running, true, value

FILED = "SELECT (SELECT count(*) FROM retries) + (SELECT count(*) FROM attempts) + (SELECT count(*) FROM dead_letters)"
RESTS = "SELECT breaker_probe_at > clock_timestamp() AND breaker_since IS NULL FROM handlers WHERE name = 'forward'"
LONG = "SELECT breaker_probe_at > clock_timestamp() + $1 * interval '1 s' FROM handlers WHERE name = 'forward'"
EFFECTS = "INSERT INTO effects SELECT unnest($1::uuid[])"
COUNT = "SELECT count(DISTINCT event_id) FROM effects"


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    await connection.execute("CREATE TABLE effects (event_id uuid)")
    yield connection
    await connection.close()


@pytest.fixture
async def sink(tmp_path: Path) -> AsyncIterator[Sink]:
    async with http_sink.running(tmp_path / "sink") as one:
        yield one


def sizes(sink: Sink, *, refused: bool) -> list[int]:
    """How many events were in each request."""
    return [len(json.loads(one["body"])) for one in sink.requests if one["refused"] is refused]


def strings(ids: Sequence[UUID]) -> Counter[str]:
    return Counter(map(str, ids))


async def shown(receiver: Receiver) -> dict[str, Any]:
    (row,) = [row for row in (await receiver("handlers", "--json")).rows if row["handler"] == "forward"]
    return row


@handler()
async def other(event: Event, ctx: Context) -> None:
    """Note that the event has come."""
    await ctx.sql.execute(EFFECTS, [event.id])


async def test_an_outage_leaves_the_log_as_the_queue(
    database: str, sql: asyncpg.Connection, sink: Sink, receiver: Receiver
) -> None:
    """a URL that is away for a while costs a request for each rest and no row; afterwards come full batches, once"""
    forward = configured(sink.url)
    await prepared(sql, [forward, other])
    sink.answer(503, "away", retry_after="1")
    ids = await store(sql, 1000)
    async with running(database, forward, other):
        await true(lambda: len(sink.requests) >= 3)
        await value(sql, COUNT, 1000)  # nobody else is delayed
        sink.answer(503, "away", retry_after="4")
        await value(sql, LONG, True, 3)  # long enough to be looked at
        row = await shown(receiver)
        assert (row["state"], row["lag_events"], row["breaker_error"]) == ("resting", 1000, None)
        assert row["resting_because"] == "the URL answered 503: away"
        assert "rests until" in (await receiver("handlers")).out
        assert await sql.fetchval(FILED) == 0
        assert set(sizes(sink, refused=True)) == {100}
        sink.answer(200)
        await all_read(sql)
        assert (await shown(receiver))["state"] == "running"
    assert Counter(sink.taken()) == strings(ids)
    assert len(sizes(sink, refused=False)) <= 12
    assert await sql.fetchval(FILED) == 0


@pytest.mark.parametrize("seconds", [0, -5, 0.001])
async def test_a_rest_of_no_time(database: str, sql: asyncpg.Connection, seconds: float) -> None:
    """whoever asks for a rest that is over at once gets the same batch again, and nothing is passed over"""
    asked, seen = 0, Counter[UUID]()

    @handler(batch=True, batch_size=7)
    async def hasty(events: Sequence[Event], _ctx: Context) -> Outcome | None:
        nonlocal asked
        if asked < 3:
            asked += 1
            return RetryAfter(seconds)
        seen.update(event.id for event in events)
        return None

    await prepared(sql, [hasty])
    ids = await store(sql, 300)
    async with running(database, hasty):
        await all_read(sql)
    assert seen == Counter(ids)
    assert await sql.fetchval(FILED) == 0


async def test_a_start_asks_again(database: str, sql: asyncpg.Connection, sink: Sink) -> None:
    """429 without a time is a rest too; a worker that starts meanwhile asks once, and goes on where all is well"""
    await prepared(sql, [configured(sink.url)])
    sink.answer(429)
    ids = await store(sql, 300)
    for starts in (1, 2):
        async with running(database, configured(sink.url)):
            await true(lambda: len(sink.requests) >= starts)  # noqa: B023 - awaited in the same round
            await value(sql, LONG, True, 20)
        assert sizes(sink, refused=True) == [100] * starts
    assert await sql.fetchval(FILED) == 0
    sink.answer(200)
    async with running(database, configured(sink.url)):
        await all_read(sql)
    assert Counter(sink.taken()) == strings(ids)
    assert sizes(sink, refused=False) == [100] * 3


async def test_a_rest_is_all_workers(database: str, sql: asyncpg.Connection, sink: Sink) -> None:
    """what one worker was told the others obey, and when the rest is over they all go on; each event comes once"""
    forward = configured(sink.url)
    await prepared(sql, [forward, other])
    async with running(database, forward, other), running(database, configured(sink.url), other):
        await value(sql, "SELECT count(DISTINCT owner) FROM cursors WHERE handler = 'forward'", 2)
        await breakers.rest(sql, "forward", "told to another", seconds=3600)
        first = await sql.fetchval("SELECT max(expires_at) FROM workers")
        await value(sql, "SELECT min(expires_at) > $1::timestamptz + interval '1 s' FROM workers", True, first)
        ids = await store(sql, 800)
        await value(sql, COUNT, 800)
        assert sink.requests == []
        await sql.execute("UPDATE handlers SET breaker_probe_at = now() WHERE name = 'forward'")
        await all_read(sql)
    assert Counter(sink.taken()) == strings(ids)
    assert len(sink.requests) <= 12
    assert await sql.fetchval(FILED) == 0


async def test_a_resting_handler_can_be_paused(
    database: str, sql: asyncpg.Connection, sink: Sink, receiver: Receiver
) -> None:
    """pause, resume and, once it is stopped, remove do during a rest what they always do"""
    forward = configured(sink.url)
    await prepared(sql, [forward])
    sink.answer(503)
    await store(sql, 50)
    async with running(database, forward, other):
        await value(sql, RESTS, expected=True)
        assert (await receiver("handlers", "pause", "forward")).code == 0
        assert (await shown(receiver))["state"] == "paused"
        assert (await receiver("handlers", "resume", "forward")).code == 0
        assert (await shown(receiver))["state"] == "resting"
    assert (await receiver("handlers", "remove", "forward", "--yes")).code == 0
    assert await sql.fetchval("SELECT count(*) FROM handlers WHERE name = 'forward'") == 0


async def test_ordered_events_are_not_parked(database: str, sql: asyncpg.Connection, sink: Sink) -> None:
    """a rest of an ordered handler keeps each recipient's events in the log, and in order"""
    forward = configured(sink.url)
    forward = replace(forward, run=forward.run.model_copy(update={"ordered": True}))
    await prepared(sql, [forward])
    sink.answer(503, retry_after="1")
    ids = await store(sql, 200, recipient=lambda n: f"{n % 5}@x.test")
    async with running(database, forward):
        await true(lambda: len(sink.requests) >= 2)
        assert await sql.fetchval(FILED) == 0
        sink.answer(200)
        await all_read(sql)
    taken = sink.taken()
    assert Counter(taken) == strings(ids)
    for recipient in range(5):
        mine = list(map(str, ids[recipient::5]))
        assert [one for one in taken if one in set(mine)] == mine


async def test_what_was_due_waits_too_and_comes_in_batches(database: str, sql: asyncpg.Connection, sink: Sink) -> None:
    """retries from before the rest stay as they are, and then come together, beside what is new"""
    forward = configured(sink.url)
    await prepared(sql, [forward])
    old = await store(sql, 250)
    sink.answer(500)
    async with running(database, forward):
        await value(sql, "SELECT count(*) FROM retries WHERE attempt > 0", 250)
    before = len(sink.requests)
    sink.answer(503)
    await sql.execute("UPDATE retries SET next_at = now()")
    as_they_were = await sql.fetch("SELECT * FROM retries ORDER BY event_id")
    async with running(database, forward):
        await value(sql, LONG, True, 20)
        new = await store(sql, 100)
        assert await sql.fetch("SELECT * FROM retries ORDER BY event_id") == as_they_were
        assert len(sink.requests) == before + 1
    sink.answer(200)
    async with running(database, configured(sink.url)):
        await all_read(sql)
        await value(sql, "SELECT count(*) FROM retries", 0)
    assert Counter(sink.taken()) == strings(old + new)
    assert len(sizes(sink, refused=False)) <= 6


class Picky:
    """A batch handler that takes nothing together with a bad event, and answers for the whole as it is told to."""

    def __init__(self, answer: Outcome | None = None, **options: Any) -> None:
        self.calls: list[int] = []
        self.answer = answer
        self.bad = "bad"

        @handler(name="picky", batch=True, batch_size=20, **options)
        async def handle(events: Sequence[Event], ctx: Context) -> Outcome | None:
            self.calls.append(len(events))
            if any(self.bad in (event.subject, "all") for event in events):
                if self.answer is None:
                    raise ValueError("no")
                return self.answer
            await ctx.sql.execute(EFFECTS, [event.id for event in events])
            return None

        self.handler: Handler = handle


async def test_one_event_stops_no_handler_for_ever(database: str, sql: asyncpg.Connection) -> None:
    """where a batch asks for later again and again its events come alone: all but the one that asks are handled"""
    picky = Picky(RetryAfter(0.05), max_attempts=3, first_delay=2000, longest_delay=3600)
    await prepared(sql, [picky.handler])
    await store(sql, 100, shard=3, subject=lambda n: "bad" if n == 47 else None)
    async with running(database, picky.handler):
        await value(sql, COUNT, 99)
        # Alone it waits longer each time, or the handler would rest whenever it is due.
        await value(sql, "SELECT next_at > now() + interval '900 s' FROM retries", expected=True)
        await store(sql, 40, shard=3)
        await value(sql, COUNT, 139)
    assert picky.calls.count(20) >= 4 + 3 - 1 + 2
    assert await sql.fetchval("SELECT count(*) FROM effects") == 139
    assert await sql.fetchval("SELECT count(*) FROM dead_letters") == 0


async def test_a_url_that_is_away_for_one_event(database: str, sql: asyncpg.Connection, sink: Sink) -> None:
    """an event for which alone the URL answers 503 is the only one filed; all others arrive, once"""
    forward = configured(sink.url)
    forward = replace(forward, run=forward.run.model_copy(update={"first_delay": 3600, "max_attempts": 2}))
    await prepared(sql, [forward])
    sink.answer(503, retry_after="1", poison="poisoned")
    ids = await store(sql, 30, subject={9: "poisoned"}.get)
    with capture_logs() as lines:
        async with running(database, forward):
            await true(lambda: len(set(sink.taken())) == 29)
            await all_read(sql)
    assert Counter(sink.taken()) == strings([one for one in ids if one != ids[9]])
    asked = [line for line in lines if line["event"] == "handler_asked_for_later"]
    assert {(line["event_id"], line["events"]) for line in asked} == {(str(ids[9]), 1)}
    assert await sql.fetchval("SELECT attempt FROM retries") == 0


async def test_retries_that_fail_together_are_run_alone(database: str, sql: asyncpg.Connection) -> None:
    """a bad event among many that are due costs the others nothing"""
    picky = Picky(breaker=0, first_delay=3600)
    picky.bad = "all"
    await prepared(sql, [picky.handler])
    await store(sql, 30, subject=lambda n: "bad" if n == 7 else None)
    async with running(database, picky.handler):
        await value(sql, "SELECT count(*) FROM retries", 30)
        picky.bad = "bad"
        picky.calls.clear()
        await sql.execute("UPDATE retries SET next_at = now()")
        await value(sql, COUNT, 29)
        await value(sql, "SELECT attempt FROM retries", 2)
    assert picky.calls[0] == 20
    assert set(picky.calls[1:]) <= {1, 10, 11}
    assert await sql.fetchval("SELECT count(*) FROM attempts") == 2
