"""What a handler, a retry or a replay still needs stays, and people hear of it in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest

from receiver.plugins.handlers import THE_BEGINNING
from receiver.retention_settings import RetentionSettings
from receiver.store import needs
from receiver.store.lanes import open_lane
from receiver.store.partitions import Span, ensure_partitions, list_partitions
from receiver.store.replays import Accepts, Selection, cancel_replay, put_events, start_replay
from tests.aged import (
    EVENTS,
    RAW,
    aged_database,
    connected,
    count,
    midnight,
    names,
    old_partition,
    partition_of,
    run,
    standing_here,
)
from tests.log_events import store
from tests.waiting import until


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    async with aged_database(database) as made:
        yield made


@pytest.fixture
async def other(database: str) -> AsyncIterator[asyncpg.Connection]:
    """Another one's connection."""
    async with connected(database) as made:
        yield made


async def test_unread_events_are_kept(connection: asyncpg.Connection) -> None:
    """a partition with events that a handler has not read stays, and the run names the handler."""
    await standing_here(connection, "slow", "quick")
    old = await old_partition(connection, 100)
    for rules in (EVENTS, RAW):
        (done,) = await run(connection, rules)
        assert {need.who for need in done.held} == {"slow", "quick"}
    await connection.execute("DELETE FROM cursors WHERE handler = 'quick'")
    (done,) = await run(connection, EVENTS)
    assert [str(need) for need in done.held] == ["slow has not read all of it"]
    assert old.name in await names(connection)
    await connection.execute("DELETE FROM cursors")
    await standing_here(connection, "slow")  # it has read everything by now
    (done,) = await run(connection, EVENTS)
    assert done.held == ()


async def test_events_of_a_transaction_that_was_running_are_kept(
    connection: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    """events behind a cursor that it could not see yet hold their partition too."""
    old = await old_partition(connection, 100, events=0)
    transaction = other.transaction()
    await transaction.start()
    await store(other, 1, received_at=old.span.low)
    await standing_here(connection, "slow")
    await transaction.commit()
    (done,) = await run(connection, EVENTS)
    assert [need.who for need in done.held] == ["slow"]


async def test_events_that_wait_for_a_retry_are_kept(connection: asyncpg.Connection) -> None:
    """a retry holds its event's partition, unless a dead letter has a copy of the event."""
    old = await old_partition(connection, 100)
    event, at = await connection.fetchrow("SELECT id, received_at FROM events LIMIT 1") or (None, None)
    letter = await connection.fetchval(
        "INSERT INTO dead_letters (handler, event_id, event, event_type, source, attempts, error_type, error)"
        " VALUES ('sync', $1, '{}', 'delivered', 'shop', 1, 'E', '') RETURNING id",
        event,
    )
    await connection.execute(
        "INSERT INTO retries (handler, event_id, event_received_at, shard, cause, next_at)"
        " VALUES ('sync', $1, $2, 0, 'failed', now())",
        *(event, at),
    )
    (done,) = await run(connection, EVENTS)
    assert [need.who for need in done.held] == ["sync"]
    await connection.execute("UPDATE retries SET dead_letter_id = $1", letter)
    (done,) = await run(connection, EVENTS)
    assert (done.relation, done.held) == (old.name, ())


async def test_a_replay_keeps_what_it_may_still_read(connection: asyncpg.Connection) -> None:
    """nothing is dropped under a replay that is being put into retries."""
    await old_partition(connection, 100)
    await connection.execute(
        "INSERT INTO replays (handler, selection, accepts, side_effects, events, started_by)"
        " VALUES ('sync', '{}', '{}', false, 10, 'ann')"
    )
    (done,) = await run(connection, EVENTS)
    assert [need.who for need in done.held] == ["sync"]
    await ensure_partitions(connection)
    assert await needs.warnings(connection, EVENTS) == []
    await connection.execute("UPDATE replays SET state = 'done'")
    (done,) = await run(connection, EVENTS)
    assert done.held == ()


@pytest.mark.parametrize("rules", [EVENTS, RAW])
async def test_what_is_begun_while_retention_waits_keeps_the_partition(
    connection: asyncpg.Connection, other: asyncpg.Connection, database: str, rules: RetentionSettings
) -> None:
    """a replay begun after retention has asked who needs a partition, and before it or its raw goes, keeps both."""
    old = await old_partition(connection, 100)
    process = await connection.fetchval("SELECT pg_backend_pid()")
    transaction = other.transaction()
    await transaction.start()
    await count(other)
    running = asyncio.create_task(run(connection, rules))
    async with connected(database) as third:

        async def waits() -> bool:
            return bool(await count(third, f"pg_locks WHERE pid = {process} AND NOT granted"))

        await until(waits)
        await start_replay(third, "sync", Selection(), Accepts(), side_effects=False, events=10, by="ann")
        await transaction.rollback()
        (done,) = await running
    assert [need.who for need in done.held] == ["sync"]
    assert await connection.fetchval(f"SELECT count(raw) FROM {old.name}") == 10
    assert old.name in await names(connection)


@pytest.mark.parametrize(
    ("since", "before", "held"), [(None, 90, True), (None, 110, False), (90, None, False), (110, None, True)]
)
async def test_a_replay_keeps_what_it_selects(
    connection: asyncpg.Connection, *, since: int | None, before: int | None, held: bool
) -> None:
    """a replay holds no partition whose events are all older or younger than what it was told to take."""
    await old_partition(connection, 100)
    chosen = Selection(
        since=None if since is None else midnight(since), until=None if before is None else midnight(before)
    )
    await start_replay(connection, "sync", chosen, Accepts(), side_effects=False, events=10, by="ann")
    (done,) = await run(connection, EVENTS)
    assert bool(done.held) is held


async def test_a_replay_that_nobody_finishes_is_told(connection: asyncpg.Connection) -> None:
    """a replay unfinished after a day is warned of, with how to go on and how to end it, whatever the rules are."""
    await ensure_partitions(connection)
    id_ = await start_replay(connection, "sync", Selection(), Accepts(), side_effects=False, events=10, by="ann")
    await connection.execute("UPDATE replays SET started_at = now() - interval '23 hours'")
    assert await needs.warnings(connection, RetentionSettings()) == []
    await connection.execute("UPDATE replays SET started_at = now() - interval '25 hours'")
    (warned,) = await needs.warnings(connection, RetentionSettings())
    assert (warned.key, warned.severity) == (f"replay:{id_}", "warning")
    assert f"`receiver replay resume {id_}`" in warned.text
    assert f"`receiver replay cancel {id_}`" in warned.text
    await cancel_replay(connection, id_)
    assert await needs.warnings(connection, RetentionSettings()) == []


@pytest.mark.parametrize(("days", "severity"), [(40, None), (50, "warning"), (75, "critical"), (100, "critical")])
async def test_a_handler_that_lags_is_named_before_retention_waits(
    connection: asyncpg.Connection, days: int, severity: str | None
) -> None:
    """a warning comes when the oldest unread event has used up half of its time, and is critical from 80 % on."""
    await ensure_partitions(connection)
    await standing_here(connection, "slow")
    await old_partition(connection, days)
    found = await needs.warnings(connection, EVENTS)
    assert [(one.key, one.severity) for one in found] == ([("retention_lag:slow", severity)] if severity else [])
    assert await needs.warnings(connection, RetentionSettings()) == []


async def test_what_was_just_asked_for_is_no_lag(connection: asyncpg.Connection) -> None:
    """a backfill, and events of a replay, hold old events and are no lag; they are named once they stand still a day

    The warning says what to type, by the handler's own name.
    """
    await ensure_partitions(connection)
    await old_partition(connection, 75)
    await standing_here(connection, "scoring")
    async with connection.transaction():
        await open_lane(connection, "scoring", "backfill", THE_BEGINNING)
    replay = await start_replay(connection, "sync", Selection(), Accepts(), side_effects=False, events=10, by="ann")
    await standing_here(connection, "sync")
    while await put_events(connection, replay, limit=10):
        pass
    (done,) = await run(connection, RetentionSettings(events=timedelta(days=60)))
    assert {str(need) for need in done.held} == {
        "scoring is being given it by a rewind or backfill (receiver handlers)",
        "sync is to be given events of it again (retries)",
    }
    assert await needs.warnings(connection, EVENTS) == []
    await connection.execute("UPDATE cursors SET updated_at = now() - interval '2 days' WHERE handler LIKE '%/lane'")
    await connection.execute("UPDATE retries SET created_at = now() - interval '2 days'")
    lane, waiting = await needs.warnings(connection, EVENTS)
    assert (lane.key, lane.severity) == ("retention_lag:scoring:backfill", "critical")
    assert "the backfill of scoring has stood still since" in lane.text
    assert "`receiver handlers cancel scoring`" in lane.text
    assert (waiting.key, waiting.severity) == (f"retention_lag:sync:replay:{replay}", "critical")
    assert f"`receiver replay cancel {replay}`" in waiting.text
    assert not any("handlers remove" in one.text for one in (lane, waiting))
    await connection.execute("UPDATE cursors SET updated_at = now() WHERE handler = 'scoring/lane' AND shard < 32")
    await cancel_replay(connection, replay)
    assert await needs.warnings(connection, EVENTS) == []


async def test_a_retry_that_waits_long_is_its_handlers_lag(connection: asyncpg.Connection) -> None:
    """a failed event that is old is no lag on its first day; later it is one with the handler's unread events"""
    await ensure_partitions(connection)
    await standing_here(connection, "slow")
    await old_partition(connection, 75)
    await connection.execute(
        "INSERT INTO retries (handler, event_id, event_received_at, shard, cause, next_at)"
        " SELECT 'quick', id, received_at, shard, 'failed', now() FROM events"
    )
    (warned,) = await needs.warnings(connection, EVENTS)
    assert warned.key == "retention_lag:slow"
    await connection.execute("UPDATE retries SET created_at = now() - interval '2 days'")
    assert [one.key for one in await needs.warnings(connection, EVENTS)] == [
        "retention_lag:quick",
        "retention_lag:slow",
    ]
    await connection.execute("UPDATE retries SET handler = 'slow'")
    (warned,) = await needs.warnings(connection, EVENTS)
    assert "`receiver handlers resume slow`" in warned.text


async def test_missing_partitions_are_warned_about(connection: asyncpg.Connection) -> None:
    """no partition for now is critical; none for the days to come is a warning."""
    for one in await list_partitions(connection):
        await connection.execute(f"DROP TABLE {one.name}")
    assert [(one.key, one.severity) for one in await needs.warnings(connection, EVENTS)] == [
        ("partition_now", "critical")
    ]
    await partition_of(connection, "events_now", Span(midnight(0), midnight(-2)))
    assert [(one.key, one.severity) for one in await needs.warnings(connection, EVENTS)] == [
        ("partition_ahead", "warning")
    ]
    await ensure_partitions(connection)
    assert await needs.warnings(connection, EVENTS) == []
