"""Retention: what is too old goes, what somebody needs stays, and nobody waits for it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from receiver.event import EventType
from receiver.maintenance import maintain_once
from receiver.retention_settings import RetentionSettings
from receiver.store import bare, forecast, needs, retention, tasks
from receiver.store.log import Cursor, create_cursors, read_pages
from receiver.store.partitions import Partition, Span, attach, ensure_partitions, list_partitions
from receiver.store.queries import show_event
from receiver.store.steps import Busy, Done, Progress
from tests.cli import Receiver, command
from tests.log_events import store
from tests.service import play, running
from tests.waiting import until

NINETY = timedelta(days=90)
EVENTS = RetentionSettings(events=NINETY)
RAW = RetentionSettings(raw=NINETY)
COPIES = "SELECT count(*) FROM pg_class WHERE relname LIKE 'events_bare%' AND relkind = 'r'"


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """To a database whose partitions begin today, so that each test makes older ones as it likes."""
    made = await asyncpg.connect(database)
    try:
        for one in await list_partitions(made):
            await made.execute(f"DROP TABLE {one.name}")
        await partition_of(made, "events_now", Span(midnight(0), midnight(-60)))
        yield made
    finally:
        await made.close()


@pytest.fixture
async def other(database: str) -> AsyncIterator[asyncpg.Connection]:
    """Another one's connection."""
    made = await asyncpg.connect(database)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
def receiver(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: str
) -> Receiver:
    """The command line on the test's database; events are kept 90 days."""
    for name in [name for name in os.environ if name.startswith("RECEIVER_") and "TEST" not in name]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("RECEIVER_RETENTION__EVENTS", "90d")
    return command(capsys)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention gives up on a lock after two short attempts."""
    for module in (retention, bare):
        monkeypatch.setattr(module, "PAUSES", (0.05, 0.05))
    monkeypatch.setattr(retention, "DETACH_WAIT", 0.3)


def ago(days: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


def midnight(days: int) -> datetime:
    """The beginning of the day so many days ago."""
    return ago(days).replace(hour=0, minute=0, second=0, microsecond=0)


async def partition_of(connection: asyncpg.Connection, name: str, span: Span) -> Partition:
    await connection.execute(f"CREATE TABLE {name} (LIKE events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
    await attach(connection, name, span)
    return Partition(name, span, detaching=False)


async def old_partition(connection: asyncpg.Connection, days: int, events: int = 10, **columns: Any) -> Partition:
    """A partition of one day that began so many days ago, with events in it."""
    low = midnight(days)
    made = await partition_of(connection, f"events_{low:%Y%m%d}", Span(low, low + timedelta(days=1)))
    await store(connection, events, received_at=lambda n: low + timedelta(seconds=n), **columns)
    return made


async def run(connection: asyncpg.Connection, rules: RetentionSettings) -> list[Done]:
    """What a run reports, without its progress."""
    done: list[Done] = []

    async def report(step: Done | Progress) -> None:
        if isinstance(step, Done):
            done.append(step)

    await retention.run(connection, rules, report)
    return done


async def names(connection: asyncpg.Connection) -> set[str]:
    return {one.name for one in await list_partitions(connection)}


async def standing_here(connection: asyncpg.Connection, *handlers: str) -> None:
    """Cursors of handlers that have read all there is now, and last read something long ago."""
    await create_cursors(connection, handlers)
    await connection.execute("UPDATE cursors SET read_from = $1", ago(1000))


async def count(connection: asyncpg.Connection, table: str = "events") -> int:
    found: int = await connection.fetchval(f"SELECT count(*) FROM {table}")
    return found


# Events -------------------------------------------------------------------------------------------------------------


async def test_partitions_that_are_too_old_are_dropped(connection: asyncpg.Connection) -> None:
    """partitions whose events are all older than the rule go, with what they freed; those younger stay."""
    old, young = await old_partition(connection, 100), await old_partition(connection, 89)
    (done,) = await run(connection, EVENTS)
    assert (done.part, done.relation, done.rows, done.held) == ("events", old.name, 10, ())
    assert done.bytes > 0
    assert young.name in await names(connection)
    assert await connection.fetchval("SELECT to_regclass($1)", old.name) is None
    assert await count(connection) == 10
    assert await connection.fetchval("SELECT finished_at IS NOT NULL FROM retention_steps")


async def test_by_default_events_are_kept_for_ever(connection: asyncpg.Connection) -> None:
    """without a rule no event goes, however old."""
    old = await old_partition(connection, 4000)
    assert await run(connection, RetentionSettings()) == []
    assert old.name in await names(connection)


async def test_events_are_received_while_partitions_go(
    database: str, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    """ingest under load answers every request with success while partitions are detached and rewritten."""
    for days in range(100, 106):
        await old_partition(connection, days)
    for days in range(50, 54):
        await old_partition(connection, days)
    resend = play("resend", tmp_path)
    async with running(database, resend) as service:
        stop, statuses = asyncio.Event(), list[int]()

        async def load(client: int) -> None:
            number = 0
            while not stop.is_set():
                (post,) = resend.posts(EventType.DELIVERED, "ann@one.test", run=f"{client}-{number}")
                statuses.append((await service.post("resend", post)).status_code)
                number += 1

        loads = [asyncio.create_task(load(client)) for client in range(4)]
        done = await run(connection, RetentionSettings(events=NINETY, raw=timedelta(days=30)))
        stop.set()
        await asyncio.gather(*loads)
        assert [one.part for one in done] == ["events"] * 6 + ["raw"] * 4
        assert set(statuses) == {200}
        assert len(statuses) > 20
        assert await service.count("events") == len(statuses) + 40
        assert await service.count("quarantine") == 0


@pytest.mark.usefixtures("impatient")
async def test_an_open_select_delays_a_drop_and_nobody_else(
    connection: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    """while a SELECT on events is open a drop is put off, events are stored meanwhile, and the next run finishes it."""
    old = await old_partition(connection, 100)
    transaction = other.transaction()
    await transaction.start()
    assert await count(other) == 10
    with pytest.raises(Busy, match=old.name):
        await run(connection, EVENTS)
    await connection.execute("SET lock_timeout = '50ms'")
    await store(connection, 5)
    assert await count(connection) == 5  # the old ones are hidden already
    await connection.execute("RESET lock_timeout")
    await transaction.rollback()
    (done,) = await run(connection, EVENTS)
    assert done.relation == old.name
    assert await connection.fetchval("SELECT to_regclass($1)", old.name) is None


@pytest.mark.usefixtures("impatient")
async def test_what_waits_for_a_drop_does_not_wait_for_what_is_busy(
    connection: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    """a partition that cannot be dropped now keeps nothing else from being done."""
    await old_partition(connection, 100)
    await connection.execute("INSERT INTO event_ids SELECT gen_random_uuid(), now() - interval '46 days'")
    async with other.transaction():
        await count(other)
        with pytest.raises(Busy):
            await run(connection, EVENTS)
    assert await count(connection, "event_ids") == 0


async def test_a_run_that_was_killed_is_finished_later(
    database: str, connection: asyncpg.Connection, other: asyncpg.Connection, receiver: Receiver, tmp_path: Path
) -> None:
    """after kill -9 in the middle of a detach another process takes over once the lease has run out, and drops it."""
    old = await old_partition(connection, 100)
    transaction = other.transaction()
    await transaction.start()
    await count(other, old.name)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "receiver", "retention", "run", "--yes"),
        env={**os.environ, "DATABASE_URL": database, "PYTHONPATH": str(Path(__file__).parents[1])},
        cwd=tmp_path,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )

    async def detaching() -> bool:
        return any(one.detaching for one in await list_partitions(connection))

    await until(detaching)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await transaction.rollback()
    busy = await receiver("retention", "run", "--yes")
    assert busy.code == 1
    assert "runs already" in busy.err
    await connection.execute("UPDATE tasks SET lease_until = '-infinity'")
    done = await receiver("retention", "run", "--yes")
    assert done.code == 0, done.err
    assert old.name in done.out
    assert await connection.fetchval("SELECT to_regclass($1)", old.name) is None
    assert await count(connection) == 0


async def test_a_detach_by_hand_that_was_interrupted_blocks_nothing(
    connection: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    """a partition that somebody left half detached is taken out and kept; the one that is too old is dropped."""
    old, mine = await old_partition(connection, 100), await old_partition(connection, 20)
    async with other.transaction():
        await count(other)
        with pytest.raises(TimeoutError):
            await connection.execute(f"ALTER TABLE events DETACH PARTITION {mine.name} CONCURRENTLY", timeout=0.3)
    assert [one.relation for one in await run(connection, EVENTS)] == [old.name]
    assert mine.name not in await names(connection)
    assert await count(connection, mine.name) == 10


# Who needs what -----------------------------------------------------------------------------------------------------


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
    await connection.execute("UPDATE replays SET state = 'done'")
    (done,) = await run(connection, EVENTS)
    assert done.held == ()


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


# Raw ----------------------------------------------------------------------------------------------------------------

_LAYOUT = """
    SELECT attname, format_type(atttypid, atttypmod), attnotnull::text FROM pg_attribute
    WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped
    UNION ALL SELECT 'index', regexp_replace(pg_get_indexdef(indexrelid), '^.* USING', ''), '' FROM pg_index
    WHERE indrelid = $1::text::regclass
    UNION ALL SELECT 'constraint', pg_get_constraintdef(oid), '' FROM pg_constraint WHERE conrelid = $1::text::regclass
    ORDER BY 1, 2
"""


async def test_raw_goes_and_the_events_stay(connection: asyncpg.Connection) -> None:
    """a cold partition is rewritten without raw: same rows, ids and places, same table, less disk."""
    await create_cursors(connection, ["late"])
    cold = await old_partition(connection, 100, 300, raw=lambda n: '{"n": "' + f"{n:08d}" * 1000 + '"}')
    young = await old_partition(connection, 20)
    columns = "id, received_at, gen, txid, position, shard, recipient, tags, metadata::text"
    before = await connection.fetch(f"SELECT {columns} FROM events ORDER BY position")
    await connection.execute("CREATE TABLE cursors_then AS TABLE cursors; DELETE FROM cursors")
    layout = await connection.fetch(_LAYOUT, cold.name)
    (done,) = await run(connection, RAW)
    assert (done.part, done.relation, done.rows) == ("raw", cold.name, 300)
    assert done.bytes > 300 * 50
    assert await connection.fetch(f"SELECT {columns} FROM events ORDER BY position") == before
    assert await connection.fetch(_LAYOUT, cold.name) == layout
    assert await connection.fetchval(f"SELECT count(raw) FROM {cold.name}") == 0
    assert await connection.fetchval(f"SELECT count(raw) FROM {young.name}") == 10
    assert await run(connection, RAW) == []
    assert await connection.fetchval(COPIES) == 0


async def test_readers_go_on_over_a_partition_without_raw(connection: asyncpg.Connection) -> None:
    """a cursor that stands before the rewritten partition reads its events from it, and `events show` shows them."""
    await create_cursors(connection, ["late"])
    await old_partition(connection, 100, 30)
    ids = {row["id"] for row in await connection.fetch("SELECT id FROM events")}
    cursors = [dict(row) for row in await connection.fetch("SELECT * FROM cursors")]
    await connection.execute("UPDATE cursors SET position = 9223372036854775807, txid = '9223372036854775807'")
    statement = await connection.prepare("SELECT count(*) FROM events WHERE received_at < now()")
    assert await statement.fetchval() == 30
    await run(connection, RAW)
    assert await statement.fetchval() == 30
    places = [
        (one["shard"], Cursor(one["gen"], one["txid"], one["position"], tuple(one["pending"]), ago(400)))
        for one in cursors
    ]
    pages = await read_pages(connection, places, limit=100, gen=1)
    assert {event.id for page in pages for event in page.events} == ids
    assert {event.raw for page in pages for event in page.events} == {"null"}
    assert await show_event(connection, next(iter(ids))) is not None


async def test_a_rewrite_goes_on_where_it_was_ended(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """a rewrite that was ended in the middle copies what is left, and every row once."""
    monkeypatch.setattr(bare, "BLOCKS", 2)
    cold = await old_partition(connection, 100, 500)
    seen: list[int] = []

    class Killed(Exception):
        pass

    async def report(step: Done | Progress) -> None:
        if isinstance(step, Progress) and step.part == "raw":
            seen.append(step.done)
            if len(seen) == 3:
                raise Killed

    with pytest.raises(Killed):
        await retention.run(connection, RAW, report)
    assert await count(connection) == 500
    await retention.run(connection, RAW, report)
    assert seen == sorted(set(seen))
    assert seen[3] == 8
    assert await count(connection) == 500
    assert await connection.fetchval(f"SELECT count(raw) FROM {cold.name}") == 0


@pytest.mark.parametrize(
    "change", ["DELETE FROM {name} WHERE ctid = '(0,1)'", "UPDATE {name} SET brand = 'x' WHERE ctid = '(0,1)'"]
)
async def test_a_change_during_a_rewrite_is_not_lost(
    connection: asyncpg.Connection, other: asyncpg.Connection, change: str
) -> None:
    """where somebody changes or deletes an event of a partition that is being rewritten, the rewrite begins anew."""
    cold = await old_partition(connection, 100, 50)

    async def report(step: Done | Progress) -> None:
        if isinstance(step, Progress) and step.part == "raw":
            await other.execute(change.format(name=cold.name))

    with pytest.raises(Busy, match="were changed"):
        await retention.run(connection, RAW, report)
    left = await connection.fetch("SELECT id, brand FROM events ORDER BY id")
    assert len(left) == 49 or sum(row["brand"] == "x" for row in left) == 1
    await run(connection, RAW)
    assert await connection.fetch("SELECT id, brand FROM events ORDER BY id") == left
    assert await connection.fetchval("SELECT count(raw) FROM events") == 0


@pytest.mark.usefixtures("impatient")
async def test_an_open_select_delays_a_swap_and_nobody_else(
    connection: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    """while a SELECT is open the rewritten partition waits beside; the next run only swaps it."""
    await old_partition(connection, 100, 50)
    async with other.transaction():
        await count(other)
        with pytest.raises(Busy, match="raw is left in for now"):
            await run(connection, RAW)
        assert await connection.fetchval("SELECT count(raw) FROM events") == 50
    (done,) = await run(connection, RAW)
    assert done.rows == 50
    assert await connection.fetchval("SELECT count(raw) FROM events") == 0


async def test_a_rule_that_was_taken_back_leaves_no_copy(
    connection: asyncpg.Connection, other: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """what was copied for a rule that is gone, or for a partition that is dropped, is removed."""
    monkeypatch.setattr(bare, "BLOCKS", 1)
    await old_partition(connection, 100, 200)

    async def report(_: Done | Progress) -> None:
        raise ConnectionError

    for rules in (RetentionSettings(), EVENTS):
        with pytest.raises(ConnectionError):
            await retention.run(other, RAW, report)
        await run(connection, rules)
        assert await connection.fetchval(COPIES) == 0
    assert await count(connection) == 0


# Rows ---------------------------------------------------------------------------------------------------------------


async def test_rows_go_by_their_rules(connection: asyncpg.Connection) -> None:
    """refused requests, quarantine, dead letters, sends, ids and audit go when they are too old, and nothing else."""
    await connection.execute(
        """
        INSERT INTO event_ids SELECT gen_random_uuid(), now() - n * interval '1 day' FROM generate_series(40, 50) AS n;
        INSERT INTO refused (source, reason, detail, size, headers, body, refused_at)
        SELECT 's', 'stale', '', 1, '', '', now() - n * interval '1 day' FROM generate_series(25, 35) AS n;
        INSERT INTO quarantine (source, provider, kind, why, fingerprint, size, headers, body, accepted_at, received_at,
                                resolved_at, resolution)
        SELECT 's', 'p', 'item', '', n::text::bytea, 1, '', '', now(), now() - interval '1 year',
               CASE WHEN n > 0 THEN now() - n * interval '1 day' END, CASE WHEN n > 0 THEN 'released' END
        FROM generate_series(0, 35, 5) AS n;
        INSERT INTO dead_letters (handler, event_id, event, event_type, source, attempts, error_type, error,
                                  resolved_at, resolution)
        SELECT 'h', gen_random_uuid(), '{}', 't', 's', 1, 'E', '',
               CASE WHEN n > 0 THEN now() - n * interval '1 day' END, CASE WHEN n > 0 THEN 'discarded' END
        FROM generate_series(0, 100, 20) AS n;
        INSERT INTO sends (key, state, recipient, template, stream, handler, created_at)
        SELECT state, state, 'r', 't', 'marketing', 'h', now() - interval '3 years'
        FROM unnest('{queued,leased,sent,unknown,failed,skipped,cancelled}'::text[]) AS state;
        INSERT INTO audit_log (at, who, action, subject) VALUES (now() - interval '3 years', 'ann', 'reveal', 'x');
        """
    )
    done = {one.part: one.rows for one in await run(connection, RetentionSettings())}
    assert done == {"ids": 6, "refused": 6, "quarantine, resolved": 2, "dead letters, resolved": 1}
    assert await count(connection, "dead_letters WHERE resolved_at IS NULL") == 1
    year = timedelta(days=365)
    rules = RetentionSettings(quarantine_open=year / 2, sends=year, audit_log=year)
    done = {one.part: one.rows for one in await run(connection, rules)}
    assert done == {"quarantine, open": 1, "sends, ended": 4, "audit log": 1}
    left = {row["state"] for row in await connection.fetch("SELECT state FROM sends")}
    assert left == {"queued", "leased", "unknown"}


async def test_a_letter_that_is_being_retried_stays(connection: asyncpg.Connection) -> None:
    """a dead letter whose copy a retry still needs is kept beyond its time."""
    letter = await connection.fetchval(
        "INSERT INTO dead_letters (handler, event_id, event, event_type, source, attempts, error_type, error,"
        " resolved_at, resolution) VALUES ('h', gen_random_uuid(), '{}', 't', 's', 1, 'E', '',"
        " now() - interval '1 year', 'retried') RETURNING id"
    )
    await connection.execute(
        "INSERT INTO retries (handler, event_id, event_received_at, shard, cause, next_at, dead_letter_id)"
        " VALUES ('h', gen_random_uuid(), now(), 0, 'failed', now(), $1)",
        letter,
    )
    assert await run(connection, RetentionSettings()) == []
    await connection.execute("DELETE FROM retries")
    assert [one.part for one in await run(connection, RetentionSettings())] == ["dead letters, resolved"]


async def test_a_duplicate_is_recognized_while_ids_go(
    database: str, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    """ids younger than 45 days stay through a run, so that a provider's retry is stored once."""
    resend = play("resend", tmp_path)
    async with running(database, resend) as service:
        (post,) = resend.posts(EventType.DELIVERED, "ann@one.test")
        assert (await service.post("resend", post)).status_code == 200
        await connection.execute("UPDATE event_ids SET seen_at = now() - interval '44 days'")
        assert await run(connection, RetentionSettings()) == []
        assert (await service.post("resend", post)).status_code == 200
        assert await service.count("events") == 1


# By itself ----------------------------------------------------------------------------------------------------------


async def test_one_process_at_a_time(connection: asyncpg.Connection, other: asyncpg.Connection) -> None:
    """of two that begin at once one does the work; what was done lately is not done again."""
    await old_partition(connection, 100)
    running_, go_on = asyncio.Event(), asyncio.Event()

    async def report(_: Done | Progress) -> None:
        running_.set()
        await go_on.wait()

    first = asyncio.create_task(retention.run_alone(connection, EVENTS, report))
    await running_.wait()
    assert not await asyncio.wait_for(retention.run_alone(other, EVENTS, report), 30)
    assert await tasks.holder(other, retention.TASK) == tasks.this_process()
    go_on.set()
    assert await first
    assert not await retention.run_alone(other, EVENTS, report, every=timedelta(hours=1))
    assert await retention.run_alone(other, EVENTS, report)


async def test_a_failed_run_is_tried_again(connection: asyncpg.Connection) -> None:
    """a run that failed gives its lease back, says why, and is due again at once."""
    await old_partition(connection, 100)

    async def report(_: Done | Progress) -> None:
        raise Busy("no")

    with pytest.raises(Busy):
        await retention.run_alone(connection, EVENTS, report, every=timedelta(days=1))
    assert await connection.fetchval("SELECT error FROM tasks WHERE finished_at IS NULL") == "no"

    async def fine(_: Done | Progress) -> None:
        pass

    assert await retention.run_alone(connection, EVENTS, fine, every=timedelta(days=1))
    assert await connection.fetchval("SELECT error IS NULL FROM tasks WHERE finished_at IS NOT NULL")


async def test_maintenance_does_all_of_it(
    database: str, connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """maintenance makes partitions, drops what is too old, and logs who will hold retention back."""
    old = await old_partition(connection, 100)
    await standing_here(connection, "slow")
    await old_partition(connection, 60)
    await maintain_once(database, EVENTS)
    logged = capsys.readouterr().out + caplog.text
    assert old.name not in await names(connection)
    assert len(await list_partitions(connection)) >= 3
    assert "retention_lag:slow" in logged
    assert "retention_done" in logged


# The command line ---------------------------------------------------------------------------------------------------


async def test_the_status_says_what_would_go(connection: asyncpg.Connection, receiver: Receiver) -> None:
    """`receiver retention` shows rules, sizes, what would go, and who holds what back."""
    old = await old_partition(connection, 100)
    shown = await receiver("retention", "--json")
    assert shown.code == 0, shown.err
    rows = {row["part"]: row for row in shown.rows}
    assert (rows["events"]["rows"], rows["events"]["going_rows"], rows["events"]["keep_days"]) == (10, 10, 90)
    assert rows["events"]["going_bytes"] > 0
    assert rows["ids"]["keep_days"] == 45
    await create_cursors(connection, ["x"])
    await connection.execute("UPDATE cursors SET txid = '1', position = 0, read_from = '2001-01-01'")
    table = await receiver("retention")
    assert f"{old.name} is kept for now: handler x has not read all of it" in table.err
    assert "critical: x still needs an event received 100 days ago" in table.err
    assert "quarantine, open" in table.out
    assert "forever" in table.out
    held = {row["part"]: row for row in (await receiver("retention", "list", "--json")).rows}
    assert held["events"]["going_rows"] == 0
    assert held["events"]["held"] == [{"partition": old.name, "handler": "x", "why": "has not read all of it"}]


async def test_nothing_goes_unasked(connection: asyncpg.Connection, receiver: Receiver) -> None:
    """a dry run and a run that nobody confirms remove nothing; --yes does, and audit_log says who did it."""
    old = await old_partition(connection, 100)
    dry = await receiver("retention", "run", "--dry-run")
    assert dry.code == 0
    assert "10 rows and the raw of 0 events" in dry.err
    asked = await receiver("retention", "run")
    assert asked.code == 1
    assert "--yes" in asked.err
    assert old.name in await names(connection)
    done = await receiver("retention", "run", "--yes")
    assert done.code == 0, done.err
    assert f"rows of {old.name} removed" in done.out
    assert await count(connection) == 0
    assert await connection.fetchval("SELECT subject FROM audit_log") == f"events of {old.name}"
    again = await receiver("retention", "run", "--json")
    assert (again.code, again.rows) == (0, [])


async def test_the_forecast_follows_the_growth(connection: asyncpg.Connection) -> None:
    """growth a day is that of the last weeks; a rule bounds the size, without one it grows on."""
    for days in range(1, 21):
        await old_partition(connection, days, 100)
    rules = RetentionSettings(events=timedelta(days=10))
    events = (await forecast.parts(connection, rules))[0]
    assert events.daily_rows == pytest.approx(100, rel=0.06)
    days = (events.slack + timedelta(days=10)).days
    assert events.steady == pytest.approx(days * events.daily_bytes, abs=1)
    assert events.after(365) == events.steady
    unbounded = (await forecast.parts(connection, RetentionSettings()))[0]
    assert unbounded.steady is None
    assert unbounded.after(90) == pytest.approx(unbounded.bytes + 90 * unbounded.daily_bytes, abs=1)


async def test_a_large_partition_is_measured_by_a_sample(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """a table with many blocks is measured by some of them, and the rows are about right."""
    await old_partition(connection, 10, 20_000)
    monkeypatch.setattr(forecast, "SAMPLED", 200)
    events = (await forecast.parts(connection, RetentionSettings()))[0]
    assert events.rows == pytest.approx(20_000, rel=0.3)
    assert events.rows != 20_000
