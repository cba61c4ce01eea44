"""What a handler gave up on: every attempt is kept, people look at it, retry it or close it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from receiver import Context, Event, Outcome, RetryAfter, handler
from receiver.store.failures import MOST_ATTEMPTS, list_dead_letters, retry_dead_letter, show_dead_letter
from tests.log_events import store
from tests.workers import prepared, running, value


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def soon(connection: asyncpg.Connection) -> None:
    """Make everything due that waits for a later attempt."""
    await connection.execute("UPDATE retries SET next_at = now()")


async def test_every_attempt_is_kept(database: str, sql: asyncpg.Connection) -> None:
    """each failed attempt is kept with its time, error, scrubbed traceback and worker, also over a retry by hand"""

    @handler(max_attempts=3)
    async def poison(event: Event, ctx: Context) -> None:
        raise LookupError(f"number {ctx.attempt} knows nothing of {event.recipient}")

    await prepared(sql, [poison])
    await store(sql, recipient="ann.secret@example.com")
    async with running(database, poison, name="here:1"):
        for attempt in (1, 2):
            await value(sql, "SELECT count(*) FROM attempts WHERE dead_letter_id IS NULL", attempt)
            await soon(sql)
        await value(sql, "SELECT count(*) FROM dead_letters", 1)
        (listed,) = await list_dead_letters(sql)
        letter = await show_dead_letter(sql, listed.id)
        assert letter is not None
        assert [one.attempt for one in letter.history] == [1, 2, 3]
        assert [one.error for one in letter.history] == [f"number {n} knows nothing of <address>" for n in (1, 2, 3)]
        assert {(one.error_type, one.worker) for one in letter.history} == {("LookupError", "here:1")}
        assert all("in poison" in (one.traceback or "") for one in letter.history)
        assert not any("ann.secret" in (one.traceback or "") for one in letter.history)
        assert [one.at for one in letter.history] == sorted(one.at for one in letter.history)
        assert await retry_dead_letter(sql, letter.id)
        for attempt in (4, 5):
            await value(sql, "SELECT count(*) FROM attempts", attempt)
            await soon(sql)
        await value(sql, "SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL", 1)
    again = await show_dead_letter(sql, (await list_dead_letters(sql))[0].id)
    assert again is not None
    assert [one.attempt for one in again.history] == [1, 2, 3, 1, 2, 3]
    assert {row[0] for row in await sql.fetch("SELECT dead_letter_id FROM attempts")} == {again.id}
    await sql.execute("DELETE FROM dead_letters")
    assert await sql.fetchval("SELECT count(*) FROM attempts") == 0


async def test_attempts_go_when_the_event_is_handled(database: str, sql: asyncpg.Connection) -> None:
    """once an event is handled after all, nothing is left of the attempts before"""

    @handler()
    async def second_time(_event: Event, ctx: Context) -> None:
        if ctx.attempt == 1:
            raise RuntimeError("not yet")

    await prepared(sql, [second_time])
    await store(sql, 2)
    async with running(database, second_time):
        await value(sql, "SELECT count(*) FROM attempts", 2)
        await soon(sql)
        await value(sql, "SELECT count(*) FROM retries", 0)
    assert await sql.fetchval("SELECT count(*) FROM attempts") == 0


async def test_attempts_are_bounded(database: str, sql: asyncpg.Connection) -> None:
    """a handler that asks for later again and again keeps the latest attempts of an event and no more"""
    calls = 0

    @handler()
    async def later(_event: Event, _ctx: Context) -> Outcome:
        nonlocal calls
        calls += 1
        return RetryAfter(0 if calls < MOST_ATTEMPTS + 10 else 3600, f"call {calls}")

    await prepared(sql, [later])
    await store(sql)
    async with running(database, later):
        await value(sql, "SELECT next_at > now() + interval '50 min' FROM retries", expected=True)
    kept = [row[0] for row in await sql.fetch("SELECT error FROM attempts ORDER BY id")]
    assert kept == [f"call {n}" for n in range(calls - MOST_ATTEMPTS + 1, calls + 1)]
