"""Handing events to handlers: exactly once inside Postgres, failures apart, nobody delayed by another."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

import asyncpg
import pytest
from structlog.testing import capture_logs

from receiver import Context, Done, Event, EventType, GiveUp, Handler, Outcome, RetryAfter, Skip, handler
from receiver.dispatch.failing import scrub
from receiver.plugins.execution import Execution
from receiver.store.dead_letters import DeadLetters, discard, list_dead_letters, retry, show_dead_letter
from receiver.testing import event as make_event
from tests.log_events import store
from tests.workers import prepared, running, true, value

COUNT = "SELECT count(*) FROM effects WHERE handler = $1"
EFFECT = "INSERT INTO effects (handler, event_id) VALUES ($1, $2)"
TRIES = "SELECT max(attempt) FROM retries"


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database that also has a table for what handlers do."""
    connection = await asyncpg.connect(database)
    await connection.execute("CREATE TABLE effects (handler text, event_id uuid, note text)")
    yield connection
    await connection.close()


async def soon(connection: asyncpg.Connection) -> None:
    """Make everything due that waits for a later attempt."""
    await connection.execute("UPDATE retries SET next_at = now()")


def writes(name: str, **options: Any) -> Handler:
    """A handler that writes one row for each event."""

    async def write(event: Event, ctx: Context) -> None:
        await ctx.sql.execute(EFFECT, name, event.id)

    decorate: Callable[..., Callable[..., Handler]] = cast("Any", handler)
    return decorate(name=name, **options)(write)


async def test_filters(database: str, sql: asyncpg.Connection) -> None:
    """a handler gets the events that its filters name, machines and tests only when asked for"""
    seen: dict[str, list[str]] = {}

    def notes(name: str, **options: Any) -> Handler:
        async def note(event: Event, _ctx: Context) -> None:
            seen.setdefault(name, []).append(event.subject or "")

        decorate: Callable[..., Callable[..., Handler]] = cast("Any", handler)
        return decorate(name=name, **options)(note)

    handlers = (
        notes("all"),
        notes("bounces", types=[EventType.BOUNCED]),
        notes("machines", types=[EventType.OPENED], machines=True),
        notes("tests", types=[EventType.DELIVERED], tests=True),
        notes("tagged", tag="b"),
        notes("from", provider="ses", source=["one", "two"], stream="marketing"),
    )
    await prepared(sql, handlers)
    for columns in (
        {"subject": "delivered"},
        {"subject": "bounced", "type": "bounced"},
        {"subject": "scanner", "type": "opened", "actor": "machine"},
        {"subject": "human", "type": "opened", "actor": "human"},
        {"subject": "test", "is_test": True},
        {"subject": "tags", "tags": ["a", "b"]},
        {"subject": "ses", "provider": "ses", "source": "two", "stream": "marketing"},
        {"subject": "other", "provider": "ses", "source": "three", "stream": "marketing"},
        {"subject": "last"},
    ):
        await store(sql, shard=0, **columns)
    counts = {"all": 7, "bounces": 1, "machines": 2, "tests": 6, "tagged": 1, "from": 1}
    async with running(database, *handlers):
        await true(lambda: {name: len(subjects) for name, subjects in seen.items()} == counts)
    assert seen["all"] == ["delivered", "bounced", "human", "tags", "ses", "other", "last"]
    assert seen["bounces"] == ["bounced"]
    assert seen["machines"] == ["scanner", "human"]
    assert seen["tests"] == ["delivered", "test", "tags", "ses", "other", "last"]
    assert seen["tagged"] == ["tags"]
    assert seen["from"] == ["ses"]


async def test_wake(database: str, sql: asyncpg.Connection) -> None:
    """a commit in the same process is handled at once, without waiting for the next poll"""
    one = writes("one")
    await prepared(sql, [one])
    async with running(database, one, poll=(60.0, 60.0)) as worker:
        await value(sql, "SELECT count(*) FROM cursors WHERE owner IS NOT NULL", 64)
        await store(sql, 3)
        worker.worker.wake()
        await value(sql, COUNT, 3, "one", within=10)


async def test_one_read_for_all_handlers(database: str, sql: asyncpg.Connection) -> None:
    """handlers of one process that stand at the same place get the very same events, read once"""
    seen: dict[str, list[Event]] = {"one": [], "two": [], "three": []}

    def keeps(name: str) -> Handler:
        @handler(name=name, batch=True)
        async def keep(events: Sequence[Event], _ctx: Context) -> None:
            seen[name].extend(events)

        return keep

    handlers = [keeps(name) for name in seen]
    await prepared(sql, handlers)
    await store(sql, 300)
    async with running(database, *handlers):
        await true(lambda: all(len(events) == 300 for events in seen.values()))
    identities = [{id(event) for event in events} for events in seen.values()]
    assert identities[0] == identities[1] == identities[2]


async def test_a_slow_and_a_failing_handler_delay_nobody(database: str, sql: asyncpg.Connection) -> None:
    """one handler hangs, one always raises, the third goes on as if they were not there"""
    release = asyncio.Event()

    @handler(batch=True, timeout=60)
    async def slow(_events: Sequence[Event], _ctx: Context) -> None:
        await release.wait()

    @handler(breaker=0)
    async def failing(_event: Event, _ctx: Context) -> None:
        raise RuntimeError("no")

    good = writes("good")
    await prepared(sql, [slow, failing, good])
    await store(sql, 50)
    async with running(database, slow, failing, good):
        await value(sql, COUNT, 50, "good")
        await value(sql, "SELECT count(*) FROM retries WHERE handler = 'failing'", 50)
        await store(sql, 50)
        await value(sql, COUNT, 100, "good")
        release.set()


async def test_failures_are_logged_together(database: str, sql: asyncpg.Connection) -> None:
    """when everything fails, the log gets a line for each kind of failure in a batch, not one for each event"""

    @handler(max_attempts=1, breaker=0)
    async def failing(event: Event, _ctx: Context) -> None:
        raise LookupError(event.recipient)

    await prepared(sql, [failing])
    await store(sql, 300, shard=1)
    with capture_logs() as lines:
        async with running(database, failing):
            await value(sql, "SELECT count(*) FROM dead_letters", 300)
    letters = [line for line in lines if line["event"] == "dead_letter"]
    assert sum(line["events"] for line in letters) == 300
    assert len(letters) < 10
    assert {(line["error_type"], line["error"], line["handler"]) for line in letters} == {
        ("LookupError", "<address>", "failing")
    }


async def test_a_batch_with_a_failing_event(database: str, sql: asyncpg.Connection) -> None:
    """when one event fails, the others' effects are kept exactly once, also those of the batch rolled back before"""

    @handler()
    async def picky(event: Event, ctx: Context) -> None:
        await ctx.sql.execute(EFFECT, "picky", event.id)
        if event.subject == "bad":
            raise ValueError("cannot do this one")

    await prepared(sql, [picky])
    bad = await store(sql, 2, subject="bad")
    good = await store(sql, 40)
    async with running(database, picky):
        await value(sql, COUNT, 40, "picky")
        await value(sql, "SELECT count(*) FROM retries", 2)
    assert {row[0] for row in await sql.fetch("SELECT event_id FROM effects")} == set(good)
    rows = await sql.fetch("SELECT event_id, attempt, cause, error FROM retries")
    assert {row["event_id"] for row in rows} == set(bad)
    assert {tuple(row)[1:] for row in rows} == {(1, "failed", "ValueError: cannot do this one")}


async def test_a_batch_handler_that_fails(database: str, sql: asyncpg.Connection) -> None:
    """a batch handler whose batch fails gets each event alone, so that only the culprit is put aside"""
    sizes: list[int] = []

    @handler(batch=True)
    async def batch(events: Sequence[Event], ctx: Context) -> Outcome:
        sizes.append(len(events))
        for event in events:
            await ctx.sql.execute(EFFECT, "batch", event.id)
        return GiveUp("bad one") if any(event.subject == "bad" for event in events) else Done()

    await prepared(sql, [batch])
    await store(sql, 20, subject=lambda n: "bad" if n == 11 else None)
    async with running(database, batch):
        await value(sql, COUNT, 19, "batch")
        await value(sql, "SELECT count(*) FROM dead_letters", 1)
    assert max(sizes) > 1
    assert sizes.count(1) >= 20


async def test_batch_size(database: str, sql: asyncpg.Connection) -> None:
    """no call gets more events than batch_size, however many there are"""
    sizes: list[int] = []

    @handler(batch=True, batch_size=7)
    async def small(events: Sequence[Event], _ctx: Context) -> None:
        sizes.append(len(events))

    await prepared(sql, [small])
    await store(sql, 100, shard=3)
    async with running(database, small):
        await true(lambda: sum(sizes) == 100)
    assert max(sizes) == 7


async def test_from_failure_to_dead_letter(database: str, sql: asyncpg.Connection) -> None:
    """an event that always fails is tried max_attempts times, then kept with a traceback that shows no address"""
    attempts: list[int] = []

    @handler(max_attempts=3)
    async def poison(event: Event, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        await ctx.sql.execute(EFFECT, "poison", event.id)
        raise LookupError(f"nothing known of {event.recipient} nor of Other.One@example.org")

    await prepared(sql, [poison])
    (id_,) = await store(sql, recipient="ann.secret@example.com", metadata='{"a": [1]}', raw='{"r": "é"}')
    async with running(database, poison):
        for attempt in (1, 2):
            await value(sql, TRIES, attempt)
            await soon(sql)
        await value(sql, "SELECT count(*) FROM dead_letters", 1)
    assert attempts[-3:] == [1, 2, 3] or attempts == [1, 1, 2, 3]  # the first batch runs again, event by event
    assert await sql.fetchval("SELECT count(*) FROM retries") == 0
    assert await sql.fetchval(COUNT, "poison") == 0
    (listed,) = await list_dead_letters(sql)
    letter = await show_dead_letter(sql, listed.id)
    assert letter is not None
    assert (letter.attempts, letter.error_type, letter.event_type) == (3, "LookupError", "delivered")
    assert letter.first_failed_at is not None
    assert letter.first_failed_at <= letter.dead_at
    assert letter.error == "nothing known of <address> nor of <address>"
    assert letter.traceback is not None
    assert "in poison" in letter.traceback
    assert "LookupError" in letter.traceback
    assert "@example" not in letter.traceback
    assert (letter.event.id, letter.event.recipient) == (id_, "ann.secret@example.com")
    assert (letter.event.metadata, letter.event.raw_object()) == ({"a": [1]}, {"r": "é"})


async def test_retrying_a_dead_letter(database: str, sql: asyncpg.Connection) -> None:
    """a retried letter is handled again with all its attempts, even when the event's own row is gone"""
    healed = False

    @handler(max_attempts=1)
    async def sick(event: Event, ctx: Context) -> None:
        if not healed:
            raise RuntimeError("not yet")
        await ctx.sql.execute("INSERT INTO effects VALUES ('sick', $1, $2)", event.id, f"{event.subject} {ctx.attempt}")

    await prepared(sql, [sick])
    await store(sql, 3, subject="hello")
    async with running(database, sick):
        await value(sql, "SELECT count(*) FROM dead_letters", 3)
        first, second, third = await list_dead_letters(sql)
        assert await discard(sql, DeadLetters(ids=[third.id]), reason="not worth it")
        assert not await retry(sql, DeadLetters(ids=[third.id]))
        assert not await discard(sql, DeadLetters(ids=[third.id]), reason="again")
        assert await retry(sql, DeadLetters(ids=[first.id]))
        await value(sql, "SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL", 2)
        healed = True
        await sql.execute("DELETE FROM events WHERE id = $1", second.event_id)
        assert await retry(sql, DeadLetters(ids=[second.id]))
        assert not await retry(sql, DeadLetters(ids=[second.id]))
        await value(sql, COUNT, 1, "sick")
    assert await sql.fetchval("SELECT note FROM effects") == "hello 1"
    assert await sql.fetchval("SELECT event_id FROM effects") == second.event_id
    resolutions = [letter.resolution for letter in await list_dead_letters(sql, DeadLetters(resolved=True))]
    assert Counter(resolutions) == Counter(["retried", "retried", "discarded", None])


async def test_outcomes(database: str, sql: asyncpg.Connection) -> None:
    """RetryAfter and GiveUp undo the event's effects; asking for later is no failure; Skip is done"""

    @handler(types=[EventType.CLICKED], max_attempts=1)
    async def decides(event: Event, ctx: Context) -> Outcome | None:
        await ctx.sql.execute("INSERT INTO effects VALUES ('decides', $1, $2)", event.id, event.subject)
        match event.subject:
            case "later":
                return RetryAfter(timedelta(hours=1), "the shop is closed")
            case "never":
                return GiveUp("hopeless case of ann@example.com")
            case "skip":
                return Skip("not interesting")
        return None

    await prepared(sql, [decides])
    words = ["later", "never", "skip", "done"]
    await store(sql, 4, type="clicked", subject=lambda n: words[n])
    async with running(database, decides):
        await value(sql, COUNT, 2, "decides")
        await value(sql, "SELECT count(*) FROM dead_letters", 1)
        for _ in range(3):
            assert await sql.fetchval("SELECT attempt FROM retries") == 0
            await soon(sql)
            await value(sql, "SELECT next_at > now() + interval '50 min' FROM retries", expected=True)
    assert {row[0] for row in await sql.fetch("SELECT note FROM effects")} == {"skip", "done"}
    retry = await sql.fetchrow("SELECT cause, error, next_at - now() AS wait FROM retries")
    assert retry is not None
    assert (retry["cause"], retry["error"]) == ("asked", "RetryAfter: the shop is closed")
    assert timedelta(minutes=50) < retry["wait"] <= timedelta(hours=1)
    letter = await sql.fetchrow("SELECT error_type, error, attempts, traceback FROM dead_letters")
    assert letter is not None
    assert tuple(letter) == ("GiveUp", "hopeless case of <address>", 1, None)


@pytest.mark.parametrize("batch", [False, True])
async def test_a_hanging_handler_is_cancelled(database: str, sql: asyncpg.Connection, *, batch: bool) -> None:
    """a call that takes longer than its time limit counts as a failure, and the others go on"""

    async def hang(events: Sequence[Event], ctx: Context) -> None:
        for event in events:
            await ctx.sql.execute(EFFECT, "hanging", event.id)
        if any(event.subject == "bad" for event in events):
            await ctx.sql.execute("SELECT pg_sleep(600)")

    if batch:
        hanging = handler(name="hanging", batch=True, timeout=0.3)(hang)
    else:

        @handler(name="hanging", timeout=0.3)
        async def hanging(event: Event, ctx: Context) -> None:
            await hang([event], ctx)

    await prepared(sql, [hanging])
    await store(sql, 5, subject=lambda n: "bad" if n == 2 else None)
    async with running(database, hanging):
        await value(sql, COUNT, 4, "hanging")
        await value(sql, "SELECT error FROM retries", "TimeoutError: took too long")


async def test_errors_of_the_handlers_sql(database: str, sql: asyncpg.Connection) -> None:
    """a constraint that the handler's SQL violates is its failure, also when it goes on as if nothing had happened"""
    await sql.execute("CREATE TABLE once (word text PRIMARY KEY)")
    await sql.execute("INSERT INTO once VALUES ('taken')")

    @handler(types=[EventType.CLICKED])
    async def careless(event: Event, ctx: Context) -> None:
        await ctx.sql.execute(EFFECT, "careless", event.id)
        try:
            await ctx.sql.execute("INSERT INTO once VALUES ($1)", event.subject)
        except asyncpg.UniqueViolationError:
            if event.subject == "taken":
                return

    @handler(types=[EventType.CLICKED])
    async def careful(event: Event, ctx: Context) -> Outcome:
        await ctx.sql.execute(EFFECT, "careful", event.id)
        try:
            async with ctx.sql.savepoint():
                await ctx.sql.execute("INSERT INTO once VALUES ('taken')")
        except asyncpg.UniqueViolationError:
            return Done()
        raise AssertionError("the word is taken")

    await prepared(sql, [careless, careful])
    words = ["taken", "new", "other"]
    await store(sql, 3, type="clicked", subject=lambda n: words[n])
    async with running(database, careless, careful):
        await value(sql, COUNT, 2, "careless")
        await value(sql, COUNT, 3, "careful")
        await value(sql, "SELECT count(*) FROM retries WHERE handler = 'careless'", 1)
    error = await sql.fetchval("SELECT error FROM retries")
    assert "savepoint" in error
    assert await sql.fetchval("SELECT count(*) FROM retries WHERE handler = 'careful'") == 0


async def test_a_constraint_that_fails_at_the_commit(database: str, sql: asyncpg.Connection) -> None:
    """a deferred constraint that one event violates is that event's failure: the others pass, deferred or not"""
    await sql.execute("CREATE TABLE parents (id uuid PRIMARY KEY)")
    await sql.execute(
        "CREATE TABLE children (handler text, event_id uuid REFERENCES parents DEFERRABLE INITIALLY DEFERRED)"
    )

    @handler(first_delay=0.01, max_attempts=3)
    async def orphans(event: Event, ctx: Context) -> None:
        await ctx.sql.execute("INSERT INTO children VALUES ('orphans', $1)", event.id)
        await ctx.sql.execute(EFFECT, "orphans", event.id)
        if event.subject != "bad":
            await ctx.sql.execute("INSERT INTO parents VALUES ($1)", event.id)

    await prepared(sql, [orphans])
    ids = await store(sql, 21, shard=lambda n: n % 2, subject=lambda n: "bad" if n == 5 else None)
    with capture_logs() as lines:
        async with running(database, orphans):
            await value(sql, COUNT, 20, "orphans")
            await value(sql, "SELECT count(*) FROM dead_letters", 1)
    letters = await sql.fetch("SELECT event_id, attempts, error_type FROM dead_letters")
    assert [tuple(row) for row in letters] == [(ids[5], 3, "asyncpg.exceptions.ForeignKeyViolationError")]
    assert not {"dispatch_failed", "retry_failed"} & {line["event"] for line in lines}


async def test_no_way_to_end_the_transaction(database: str, sql: asyncpg.Connection) -> None:
    """a handler can neither commit nor roll back, nor go on after it has returned"""
    kept: list[Context] = []
    errors: list[str] = []

    @handler()
    async def escapes(event: Event, ctx: Context) -> None:
        await ctx.sql.execute(EFFECT, "escapes", event.id)
        kept.append(ctx)
        for statement in ("COMMIT", "  rollback", "END; SELECT 1", "begin"):
            with pytest.raises(ValueError, match="committed when the handler returns"):
                await ctx.sql.execute(statement)
            errors.append(statement)

    await prepared(sql, [escapes])
    await store(sql)
    async with running(database, escapes):
        await value(sql, COUNT, 1, "escapes")
    assert len(errors) == 4
    with pytest.raises(RuntimeError, match="has ended"):
        await kept[0].sql.fetchval("SELECT 1")


async def test_statements_of_concurrent_tasks(database: str, sql: asyncpg.Connection) -> None:
    """a handler may gather its statements; they run one after the other in the same transaction"""

    @handler(batch=True)
    async def gathers(events: Sequence[Event], ctx: Context) -> None:
        await asyncio.gather(*(ctx.sql.execute(EFFECT, "gathers", event.id) for event in events))

    await prepared(sql, [gathers])
    await store(sql, 30)
    async with running(database, gathers):
        await value(sql, COUNT, 30, "gathers")


async def test_sends(database: str, sql: asyncpg.Connection) -> None:
    """a key is queued once, however often the handler runs and whatever failed before"""
    failing = True
    returned: list[UUID | None] = []

    @handler()
    async def sender(event: Event, ctx: Context) -> None:
        id_ = await ctx.send(
            template="tips",
            topic="news",
            to="Ann <ANN@Example.com>",
            key="tips:ann",
            data={"subject": event.subject},
            delay=timedelta(days=1),
            cancel_on=[EventType.UNSUBSCRIBED],
        )
        returned.append(id_)
        if failing:
            raise RuntimeError("after the send")

    await prepared(sql, [sender])
    (id_,) = await store(sql, subject="hello")
    async with running(database, sender):
        await value(sql, TRIES, 1)
        assert await sql.fetchval("SELECT count(*) FROM sends") == 0
        failing = False
        await soon(sql)
        await value(sql, "SELECT count(*) FROM sends", 1)
        await store(sql, 3)
        await true(lambda: returned.count(None) == 3)
    row = await sql.fetchrow(
        "SELECT recipient, template, stream, state, handler, event_id, data->>'subject', cancel_on, "
        "not_before > now() + interval '23 h' FROM sends"
    )
    assert row is not None
    expected = ("ann@example.com", "tips", "marketing", "queued", "sender", id_, "hello", ["unsubscribed"], True)
    assert tuple(row) == expected


async def test_replaying(database: str, sql: asyncpg.Connection) -> None:
    """a replayed event says so and queues no message, unless the handler insists"""
    flags: list[bool] = []

    @handler()
    async def resends(_event: Event, ctx: Context) -> None:
        flags.append(ctx.replaying)
        await ctx.send(template="a", topic="news", to="a@example.com", key=f"a {ctx.replaying}")
        await ctx.send(
            template="b", topic="news", to="a@example.com", key=f"b {ctx.replaying}", even_when_replaying=True
        )

    await store(sql)
    await prepared(sql, [resends])
    await sql.execute(
        "INSERT INTO retries (handler, event_id, event_received_at, shard, cause, next_at) "
        "SELECT 'resends', id, received_at, shard, 'replay', now() FROM events"
    )
    async with running(database, resends):
        await value(sql, "SELECT count(*) FROM retries", 0)
    assert flags == [True]
    assert [row[0] for row in await sql.fetch("SELECT key FROM sends")] == ["b True"]


async def test_a_lock_is_nobodys_failure(database: str, sql: asyncpg.Connection) -> None:
    """a batch that meets a deadlock is run again, without counting as an attempt"""
    await sql.execute("CREATE TABLE counters (name text PRIMARY KEY, n int)")
    await sql.execute("INSERT INTO counters VALUES ('a', 0), ('b', 0)")
    met = asyncio.Event()

    @handler(batch=True)
    async def counts(events: Sequence[Event], ctx: Context) -> None:
        await ctx.sql.execute("UPDATE counters SET n = n + $1 WHERE name = 'a'", len(events))
        met.set()
        await ctx.sql.execute("UPDATE counters SET n = n + $1 WHERE name = 'b'", len(events))

    await prepared(sql, [counts])
    async with sql.transaction():
        await sql.execute("SET LOCAL deadlock_timeout = '60s'")  # the other one is to be chosen
        await sql.execute("UPDATE counters SET n = n WHERE name = 'b'")
        other = await asyncpg.connect(database)
        await store(other, 10)
        async with running(database, counts):
            await met.wait()
            await asyncio.wait_for(sql.execute("UPDATE counters SET n = n WHERE name = 'a'"), 30)
            await sql.execute("COMMIT")
            await value(other, "SELECT n FROM counters WHERE name = 'a'", 10)
            await value(other, "SELECT n FROM counters WHERE name = 'b'", 10)
            assert await other.fetchval("SELECT count(*) FROM retries") == 0
        await other.close()
        await sql.execute("BEGIN")  # for the block's own commit


async def test_the_database_goes_away(database: str, sql: asyncpg.Connection) -> None:
    """cut connections, also in the middle of a batch, are nobody's failure: everything is done once in the end"""
    started = asyncio.Event()

    @handler()
    async def patient(event: Event, ctx: Context) -> None:
        await ctx.sql.execute(EFFECT, "patient", event.id)
        if not started.is_set():
            started.set()
            await ctx.sql.execute("SELECT pg_sleep(600)")

    await prepared(sql, [patient])
    await store(sql, 200)
    async with running(database, patient):
        await asyncio.wait_for(started.wait(), 30)
        await sql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await store(sql, 100)
        await value(sql, COUNT, 300, "patient")
    assert await sql.fetchval("SELECT count(DISTINCT event_id) FROM effects") == 300
    assert (
        await sql.fetchval("SELECT count(*) FROM retries") + await sql.fetchval("SELECT count(*) FROM dead_letters")
        == 0
    )


def test_backoff() -> None:
    """the waits grow, never exceed an hour, and are not all the same"""
    waits = [[Execution().backoff(attempt) for _ in range(50)] for attempt in (1, 2, 3, 8, 1000)]
    assert max(waits[0]) <= 2 < min(waits[2])
    assert all(max(wait) <= 3600 for wait in waits)
    assert len(set(waits[1])) > 1


@pytest.mark.parametrize(
    "text",
    [
        "Ann.Secret@Example.com",
        "<ann.secret@example.com>",
        "mailto:ann.secret%40example.com",
        "Key (address)=(ann.secret@example.com) already exists",
        "{'to': 'Ann.Secret@EXAMPLE.com'}",
        "ann.secret@example.com\x00\ud800",
    ],
)
def test_scrubbing(text: str) -> None:
    """no form of an address is kept, nor anything that Postgres cannot store"""
    clean = scrub(text, make_event("delivered", recipient="ann.secret@example.com"), limit=1000)
    assert "secret" not in clean.lower()
    assert "<address>" in clean
    assert not re.search("[\x00\ud800]", clean)
