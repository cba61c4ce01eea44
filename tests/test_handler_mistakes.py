"""What handlers may get wrong: whatever they answer, raise or ask of Postgres is a failure of that event alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any, Never, cast

import asyncpg
import pytest
from structlog.testing import capture_logs

from receiver import Context, Event, GiveUp, Outcome, RetryAfter, SyncContext, handler
from receiver.store import failures
from receiver.store.dead_letters import DeadLetters, retry
from tests.log_events import store
from tests.workers import prepared, running, true, value

COUNT = "SELECT count(*) FROM effects WHERE handler = $1"
EFFECT = "INSERT INTO effects (handler, event_id) VALUES ($1, $2)"
LETTERS = """
    SELECT event->>'subject', error_type || ': ' || error, attempts FROM dead_letters WHERE handler = $1 ORDER BY 1
"""


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database that also has a table for what handlers do."""
    connection = await asyncpg.connect(database)
    await connection.execute("CREATE TABLE effects (handler text, event_id uuid)")
    yield connection
    await connection.close()


async def letters(connection: asyncpg.Connection, name: str) -> dict[str, str]:
    """What was kept of a handler's events, by their subject; each was tried twice."""
    rows = await connection.fetch(LETTERS, name)
    assert {row[2] for row in rows} <= {2}
    return {row[0]: row[1] for row in rows}


class Panic(BaseException):
    """As that of a library in Rust."""


class Mute(Exception):
    """Cannot be described."""

    def __str__(self) -> str:
        raise Panic


class Unchecked(RetryAfter):
    """An outcome whose constructor does not ask ours."""

    def __init__(self, delay: Any) -> None:
        object.__setattr__(self, "delay", delay)
        object.__setattr__(self, "reason", "")


class Proxy:
    """Something whose class cannot even be asked for."""

    __class__ = property(lambda _: _raise(LookupError("nothing is behind it")))


def _raise(error: BaseException) -> Never:
    raise error


def _cancel_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


SOON = cast("Any", "soon")
# What a handler does, and what is kept of it.
MISTAKES: dict[str, tuple[Callable[[], Any], str]] = {
    "an error as reason": (
        lambda: GiveUp(cast("Any", ValueError("no such customer"))),
        "TypeError: GiveUp wants a text as its reason, got ValueError('no such customer')",
    ),
    "a word as delay": (
        lambda: RetryAfter(SOON),
        "TypeError: RetryAfter wants a number of seconds, or a timedelta, got 'soon'",
    ),
    "unchecked": (
        lambda: Unchecked(SOON),
        "TypeError: RetryAfter wants a number of seconds, or a timedelta, got 'soon'",
    ),
    "no outcome": (lambda: 5, "TypeError: a handler returns an outcome or nothing, not int"),
    "a proxy": (Proxy, "LookupError: nothing is behind it"),
    "a panic": (lambda: _raise(Panic("in Rust")), "tests.test_handler_mistakes.Panic: in Rust"),
    "an exit": (lambda: _raise(SystemExit(3)), "SystemExit: 3"),
    "a cancellation": (lambda: _raise(asyncio.CancelledError("mine")), "asyncio.exceptions.CancelledError: mine"),
    "the end of a generator": (lambda: _raise(GeneratorExit("mine")), "GeneratorExit: mine"),
    "a mute error": (
        lambda: _raise(Mute()),
        "Exception: the handler has raised an error that cannot be described: asking for its text raises",
    ),
}
ON_THE_LOOP = {
    "cancels itself": (_cancel_itself, "receiver.dispatch.limit.SelfCancelled: cancelled the task that it runs in"),
}
IN_A_THREAD = {
    "ctrl-c": (lambda: _raise(KeyboardInterrupt()), "RuntimeError: raised KeyboardInterrupt by itself"),
}


async def test_whatever_a_handler_answers(database: str, sql: asyncpg.Connection) -> None:
    """no answer and no exception stops a handler: each is that event's failure, tried again, then a dead letter"""
    loop, thread = MISTAKES | ON_THE_LOOP, MISTAKES | IN_A_THREAD

    @handler(max_attempts=2, first_delay=0.01, breaker=0)
    async def on_the_loop(event: Event, ctx: Context) -> Outcome | None:
        await ctx.sql.execute(EFFECT, "on_the_loop", event.id)
        mistake = loop.get(event.subject or "")
        return cast("Outcome | None", mistake[0]()) if mistake else None

    @handler(max_attempts=2, first_delay=0.01, breaker=0)
    def in_a_thread(event: Event, ctx: SyncContext) -> Outcome | None:
        ctx.sql.execute(EFFECT, "in_a_thread", event.id)
        mistake = thread.get(event.subject or "")
        return cast("Outcome | None", mistake[0]()) if mistake else None

    words = [*(loop | thread), *["good"] * 8]
    await prepared(sql, [on_the_loop, in_a_thread])
    await store(sql, len(words), shard=lambda n: n % 3, subject=words.__getitem__)
    with capture_logs() as lines:
        async with running(database, on_the_loop, in_a_thread) as worker:
            for name, mistakes in (("on_the_loop", loop), ("in_a_thread", thread)):
                await value(sql, "SELECT count(*) FROM dead_letters WHERE handler = $1", len(mistakes), name)
                await value(sql, COUNT, len(words) - len(mistakes), name)
                assert await letters(sql, name) == {word: kept for word, (_, kept) in mistakes.items()}
            assert worker.worker.trouble() is None
    assert await sql.fetchval("SELECT count(*) FROM retries") == 0
    assert not {"dispatch_failed", "retry_failed", "failure_not_kept"} & {line["event"] for line in lines}


@pytest.mark.parametrize("delay", [float("nan"), float("inf"), 1_764_186_549, timedelta(days=367), None, "soon", 1j])
def test_a_delay_that_is_none(delay: Any) -> None:
    """a delay that nothing can be done with is an error where it is made, so that the handler's own test sees it"""
    with pytest.raises((TypeError, ValueError), match="RetryAfter wants"):
        RetryAfter(delay)


def test_a_delay() -> None:
    """numbers of any kind and timedeltas are delays, and one that has passed means at once"""
    delays: list[Any] = [60, 1.5, Decimal(3), timedelta(minutes=2), -5]
    assert [RetryAfter(one).seconds for one in delays] == [60, 1.5, 3, 120, 0]


async def test_a_mistake_for_every_event(database: str, sql: asyncpg.Connection) -> None:
    """an outcome that is always wrong opens the breaker, as an exception does: no event is spent"""

    @handler(breaker=5)
    async def wrong(_event: Event, _ctx: Context) -> Outcome:
        return Unchecked(SOON)

    await prepared(sql, [wrong])
    await store(sql, 20)
    async with running(database, wrong):
        await value(sql, "SELECT breaker_since IS NOT NULL FROM handlers", expected=True)
    assert await sql.fetchval("SELECT (SELECT count(*) FROM retries) + (SELECT count(*) FROM dead_letters)") == 0


async def test_an_event_that_a_handler_has_changed(database: str, sql: asyncpg.Connection) -> None:
    """what cannot be kept with a changed event is kept with the event as it was stored, and says so"""

    @handler(max_attempts=2, first_delay=0.01)
    async def spoils(event: Event, ctx: Context) -> Outcome | None:
        if event.subject is None:
            await ctx.sql.execute(EFFECT, "spoils", event.id)
            return None
        event.metadata["shop"] = object()
        if event.subject == "never":
            return GiveUp("hopeless")
        raise LookupError("no shop")

    words = {1: "never", 4: "bad"}
    await prepared(sql, [spoils])
    await store(sql, 8, shard=3, subject=words.get, metadata='{"plan": "pro"}')
    with capture_logs() as lines:
        async with running(database, spoils):
            await value(sql, "SELECT count(*) FROM dead_letters", 2)
            await value(sql, COUNT, 6, "spoils")
            await sql.execute("DELETE FROM events")
            assert await retry(sql, DeadLetters(error_type="GiveUp"))
            await value(sql, "SELECT count(*) FROM dead_letters", 3)
    columns = "event->>'subject', attempts, error_type, event->>'metadata', error"
    rows = [tuple(row) for row in await sql.fetch(f"SELECT {columns} FROM dead_letters ORDER BY id")]
    assert {row[:4] for row in rows[:2]} == {
        ("never", 1, "GiveUp", '{"plan": "pro"}'),
        ("bad", 2, "LookupError", '{"plan": "pro"}'),
    }
    assert rows[2][:4] == ("never", 1, "GiveUp", "{}")  # the log had it no more
    assert all("has a handler changed its event?" in row[4] for row in rows)
    told = {(line["error_type"], line["error"]) for line in lines if line["event"] == "failure_not_kept"}
    assert told == {("GiveUp", "hopeless"), ("LookupError", "no shop")}


@pytest.mark.parametrize(
    ("attempts", "action", "error"), [(1, "dispatch_failed", Panic), (2, "retry_failed", KeyError)]
)
async def test_what_should_not_be_able_to_happen(
    database: str,
    sql: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    attempts: int,
    action: str,
    error: type[BaseException],
) -> None:
    """where nothing can be kept at all the handler waits, and says so, in the log and to whoever asks for health"""

    async def fails(*_: Any, **__: Any) -> None:
        raise error

    @handler(max_attempts=attempts, first_delay=0.01)
    async def bad(_event: Event, _ctx: Context) -> None:
        raise LookupError

    await prepared(sql, [bad])
    await store(sql)
    with capture_logs() as lines, monkeypatch.context() as patch:
        patch.setattr(failures, "bury", fails)
        async with running(database, bad) as worker:
            told = f"bad is set back again and again ({action}: {error.__name__}"
            await true(lambda: told in (worker.worker.trouble() or ""))
            patch.undo()
            await value(sql, "SELECT count(*) FROM dead_letters", 1)
    assert [line["handler"] for line in lines if line["event"] == action][:3] == ["bad"] * 3


LIMITS = {
    "too much": "SET LOCAL work_mem = '64kB'; SET LOCAL temp_file_limit = '64kB'; "
    "CREATE TEMP TABLE spill ON COMMIT DROP AS SELECT n FROM generate_series(1, 100000) n ORDER BY random()",
    "memory": "DO $$ BEGIN RAISE 'out of memory' USING ERRCODE = '53200'; END $$",
    "another server": "DO $$ BEGIN RAISE 'could not connect to server' USING ERRCODE = '08001'; END $$",
}


async def test_a_query_that_exceeds_its_limits(database: str, sql: asyncpg.Connection) -> None:
    """a limit that one statement exceeds, or a server that it cannot reach, is its event's failure and nobody else's"""

    @handler(max_attempts=2, first_delay=0.01, breaker=0)
    async def greedy(event: Event, ctx: Context) -> None:
        await ctx.sql.execute(EFFECT, "greedy", event.id)
        if event.subject in LIMITS:
            await ctx.sql.execute(LIMITS[event.subject])

    words = [*LIMITS, *["good"] * 5]
    await prepared(sql, [greedy])
    await store(sql, len(words), subject=words.__getitem__)
    with capture_logs() as lines:
        async with running(database, greedy):
            await value(sql, "SELECT count(*) FROM dead_letters", len(LIMITS))
            await value(sql, COUNT, 5, "greedy")
    kept = await letters(sql, "greedy")
    assert kept["too much"].startswith(
        "asyncpg.exceptions.ConfigurationLimitExceededError: temporary file size exceeds"
    )
    assert kept["memory"] == "asyncpg.exceptions.OutOfMemoryError: out of memory"
    assert set(kept) == set(LIMITS)
    assert "database_away" not in {line["event"] for line in lines}


async def test_a_statement_that_finds_the_disk_full(database: str, sql: asyncpg.Connection) -> None:
    """with a full disk an event waits and is not spent, the handler says so, and others are not disturbed"""
    full, tries = True, Counter[str]()

    @handler(max_attempts=1, first_delay=0.01)
    async def writes(event: Event, ctx: Context) -> None:
        await ctx.sql.execute(EFFECT, "writes", event.id)
        tries["writes"] += 1
        if full:
            await ctx.sql.execute("DO $$ BEGIN RAISE 'could not extend file' USING ERRCODE = '53100'; END $$")

    @handler()
    async def reads(event: Event, ctx: Context) -> None:
        await ctx.sql.execute(EFFECT, "reads", event.id)

    await prepared(sql, [writes, reads])
    await store(sql, 20)
    with capture_logs() as lines:
        async with running(database, writes, reads) as worker:
            await true(lambda: [line["event"] for line in lines].count("database_full") > 2)
            assert worker.worker.trouble() is None
            await value(sql, COUNT, 20, "reads")
            assert (
                await sql.fetchval("SELECT (SELECT count(*) FROM retries) + (SELECT count(*) FROM dead_letters)") == 0
            )
            full = False
            await value(sql, COUNT, 20, "writes")
    assert {line["handler"] for line in lines if line["event"] == "database_full"} == {"writes"}
    assert "database_away" not in {line["event"] for line in lines}
