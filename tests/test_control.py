"""Controlling handlers from the command line while workers run them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from receiver import Context, Event, Handler, handler
from receiver.store.failures import bury, retry_later
from receiver.store.log import find_event
from receiver.store.replays import Accepts, Selection, put_events, start_replay
from tests.cli import Receiver
from tests.log_events import store
from tests.waiting import until
from tests.workers import prepared, running, value

EFFECT = "INSERT INTO effects (event_id, replaying) VALUES ($1, $2)"
COUNT = "SELECT count(*) FROM effects"
HELD = "SELECT count(*) FROM cursors WHERE owner IS NOT NULL"


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    await connection.execute("CREATE TABLE effects (event_id uuid, replaying boolean)")
    yield connection
    await connection.close()


@handler()
async def writer(event: Event, ctx: Context) -> None:
    """Write one row for each event."""
    await ctx.sql.execute(EFFECT, event.id, ctx.replaying)


class Slow:
    """A handler that writes and then waits, in its first call, until it is let go."""

    def __init__(self) -> None:
        self.waiting, self.release = asyncio.Event(), asyncio.Event()

    @property
    def handler(self) -> Handler:
        @handler(name="writer")
        async def write(event: Event, ctx: Context) -> None:
            await ctx.sql.execute(EFFECT, event.id, ctx.replaying)
            if not self.waiting.is_set():
                self.waiting.set()
                await self.release.wait()

        return write


async def effects(sql: asyncpg.Connection, *, replaying: bool = False) -> Counter[UUID]:
    return Counter(row[0] for row in await sql.fetch("SELECT event_id FROM effects WHERE replaying = $1", replaying))


async def state(receiver: Receiver, name: str = "writer") -> dict[str, object]:
    (row,) = [row for row in (await receiver("handlers", "--json")).rows if row["handler"] == name]
    return row


async def audited(sql: asyncpg.Connection) -> list[tuple[str, str]]:
    return [tuple(row) for row in await sql.fetch("SELECT action, subject FROM audit_log ORDER BY id")]


async def test_pause_and_resume(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """a paused handler's events and retries wait, in every worker, and it goes on where it stood"""
    await prepared(sql, [writer])
    async with running(database, writer), running(database, writer):
        ids = await store(sql, 20)
        await value(sql, COUNT, 20)
        assert (await receiver("handlers", "pause", "writer", "--dry-run")).code == 0
        assert (await state(receiver))["state"] == "running"
        paused = await receiver("handlers", "pause", "writer", "--reason", "the shop is down")
        assert (paused.code, "is paused" in paused.out) == (0, True)
        await sql.execute(
            "INSERT INTO retries (handler, event_id, event_received_at, shard, cause, next_at) "
            "SELECT 'writer', id, received_at, shard, 'replay', now() FROM events LIMIT 5"
        )
        more = await store(sql, 30)
        async with running(database, writer):  # one that starts meanwhile obeys too
            await value(sql, "SELECT count(*) FROM workers WHERE expires_at > clock_timestamp()", 3)
            shown = await state(receiver)
            assert [shown[key] for key in ("state", "paused_because", "lag_events", "retries_due")] == [
                *("paused", "the shop is down", 30, 5)
            ]
            assert "the shop is down" in (await receiver("handlers")).out
            assert await sql.fetchval(COUNT) == 20
        assert (await receiver("handlers", "resume", "writer")).code == 0
        await value(sql, COUNT, 55)
        assert await effects(sql) == Counter(ids + more)
        assert (await state(receiver))["state"] == "running"
    assert await audited(sql) == [("pause", "handler writer: the shop is down"), ("resume", "handler writer")]


async def test_what_changes_nothing_is_not_audited(sql: asyncpg.Connection, receiver: Receiver) -> None:
    """a handler that is paused twice, or resumed twice, has one row in the audit log for each change"""
    await prepared(sql, [writer])
    assert "was not paused" in (await receiver("handlers", "resume", "writer")).out
    assert await audited(sql) == []
    await receiver("handlers", "pause", "writer", "--reason", "first")
    assert "was paused before" in (await receiver("handlers", "pause", "writer", "--reason", "second")).err
    assert await audited(sql) == [("pause", "handler writer: first")]


async def test_pausing_waits_for_the_batch_in_hand(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """a batch that is under way is committed before `pause` returns, and none begins after it"""
    slow = Slow()
    await prepared(sql, [writer])
    async with running(database, slow.handler):
        await value(sql, HELD, 64)
        (first,) = await store(sql, 1)
        await asyncio.wait_for(slow.waiting.wait(), 30)
        pausing = asyncio.ensure_future(receiver("handlers", "pause", "writer", "--wait", "60"))
        await value(sql, "SELECT state FROM handlers", "paused")
        beat = await sql.fetchval("SELECT expires_at FROM workers")
        await value(sql, "SELECT expires_at > $1 FROM workers", True, beat)
        assert (pausing.done(), await sql.fetchval(f"{HELD} AND lease_until > clock_timestamp()")) == (False, 64)
        slow.release.set()
        assert (await pausing).code == 0
        assert await effects(sql) == Counter([first])
        await store(sql, 5)
        assert await sql.fetchval(HELD) == 0
    assert await effects(sql) == Counter([first])


async def test_pausing_at_once(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """with no time to wait a batch under way is undone, and done again after the handler is resumed"""
    slow = Slow()
    await prepared(sql, [writer])
    async with running(database, slow.handler):
        (first,) = await store(sql, 1, shard=3)
        await asyncio.wait_for(slow.waiting.wait(), 30)
        assert (await receiver("handlers", "pause", "writer", "--wait", "0")).code == 0
        slow.release.set()
        second = await store(sql, 1, shard=4)
        assert await sql.fetchval(HELD) == 0
        assert await sql.fetchval(COUNT) == 0
        await receiver("handlers", "resume", "writer")
        await value(sql, COUNT, 2)
    assert await effects(sql) == Counter([first, *second])


async def test_pausing_while_a_retry_is_in_hand(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """a retry under way when its handler is paused is undone, and done again after the handler is resumed"""
    slow = Slow()
    ids = await store(sql, 1)
    await prepared(sql, [writer])
    await sql.execute(
        "INSERT INTO retries (handler, event_id, event_received_at, shard, cause, attempt, next_at) "
        "SELECT 'writer', id, received_at, shard, 'failed', 1, now() FROM events"
    )
    async with running(database, slow.handler):
        await asyncio.wait_for(slow.waiting.wait(), 30)
        assert (await receiver("handlers", "pause", "writer")).code == 0
        slow.release.set()
        await value(sql, "SELECT count(*) FROM (SELECT FROM retries FOR UPDATE SKIP LOCKED) AS free", 1)
        assert await sql.fetchval(COUNT) == 0
        assert await sql.fetchval("SELECT attempt FROM retries") == 1
        await receiver("handlers", "resume", "writer")
        await value(sql, COUNT, 1)
    assert await effects(sql) == Counter(ids)


async def test_skip_to_now(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """events before it are never seen, not even those of a batch in hand; a transaction under way is not skipped"""
    slow, other = Slow(), await asyncpg.connect(database)
    await prepared(sql, [writer])
    async with running(database, slow.handler):
        await store(sql, 50)
        await asyncio.wait_for(slow.waiting.wait(), 30)
        under_way = other.transaction()
        await under_way.start()
        late = await store(other, 3)
        assert "50 unread" in (await receiver("handlers", "skip-to", "writer", "now", "--dry-run")).out
        asked = await receiver("handlers", "skip-to", "writer", "now")
        assert (asked.code, "--yes" in asked.err) == (1, True)
        assert (await receiver("handlers", "skip-to", "writer", "now", "--yes")).code == 0
        slow.release.set()
        new = await store(sql, 10)
        await under_way.commit()
        await value(sql, COUNT, 13)
        assert (await state(receiver))["lag_events"] == 0
    await other.close()
    assert await effects(sql) == Counter(new + late)
    assert [action for action, _ in await audited(sql)] == ["skip"]


async def test_skip_to_a_time(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """what was received at or after the time is left, what lies more than an hour before it is skipped"""
    await prepared(sql, [writer])
    await sql.execute("CREATE TABLE events_old PARTITION OF events FOR VALUES FROM ('2020-01-01') TO ('2020-02-01')")
    await sql.execute("UPDATE cursors SET read_from = '2020-01-01'")
    at = datetime(2020, 1, 9, tzinfo=UTC)
    old = [at - timedelta(minutes=minutes) for minutes in (100, 95, 90)]
    new = [at + timedelta(minutes=minutes) for minutes in (0, 1, 30)]
    for received_at in [*old, *new]:
        await store(sql, 4, received_at=received_at, shard=lambda n: n)
    skipped = await receiver("handlers", "skip-to", "writer", at.isoformat(), "--yes")
    assert (skipped.code, "12 unread" in skipped.out) == (0, True)
    async with running(database, writer):
        await value(sql, COUNT, 12)
    left = await sql.fetch("SELECT id FROM events WHERE received_at >= $1", at)
    assert await effects(sql) == Counter(row[0] for row in left)
    assert (await receiver("handlers", "skip-to", "writer", "2100-01-01", "--yes")).code == 1


async def test_rewind(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """a rewind gives the events again, as a replay, beside new ones, and is gone when done; then with side effects"""
    ids = await store(sql, 3)
    await prepared(sql, [writer])
    ids = await store(sql, 40)
    async with running(database, writer):
        await value(sql, COUNT, 40)
        tried = await receiver("handlers", "rewind", "writer", "--since", "1h", "--dry-run")
        assert "43 events" in tried.out
        assert (await receiver("handlers", "rewind", "writer", "--since", "1h")).code == 1
        assert await sql.fetchval("SELECT count(*) FROM lanes") == 0
        begun = await receiver("handlers", "rewind", "writer", "--since", "1h", "--rate", "60/min", "--yes")
        assert (begun.code, begun.err, "at most 1 a second" in begun.out) == (0, "", True)
        twice = await receiver("handlers", "rewind", "writer", "--since", "1h", "--yes")
        assert (twice.code, "cancel" in twice.err) == (1, True)
        shown = await state(receiver)
        assert (shown["lane"], shown["lane_total"]) == ("rewind", 43)
        assert "% of 43" in (await receiver("handlers")).out
        new = await store(sql, 10)
        await value(sql, "SELECT count(*) FROM effects WHERE NOT replaying", 50)
        assert (await receiver("handlers", "cancel", "writer", "--yes")).code == 0
        assert len(await effects(sql, replaying=True)) < 43
        await sql.execute("TRUNCATE effects")
        rewound = await receiver("handlers", "rewind", "writer", "--since", "1h", "--with-side-effects", "--yes")
        assert rewound.code == 0
        await value(sql, COUNT, 53)
        await value(sql, "SELECT count(*) FROM lanes", 0)
    every = await sql.fetch("SELECT id FROM events")
    assert await effects(sql) == Counter(row[0] for row in every)
    assert set(ids + new) < {row[0] for row in every}
    assert [action for action, _ in await audited(sql)] == ["rewind", "cancel", "rewind"]


async def test_backfill(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """a backfill gives what came before the handler, and nothing that it has read itself"""
    old = await store(sql, 30)
    await prepared(sql, [writer])
    new = await store(sql, 20)
    async with running(database, writer):
        await value(sql, COUNT, 20)
        filled = await receiver("handlers", "backfill", "writer", "--since", "beginning", "--yes")
        assert (filled.code, "30 events" in filled.out) == (0, True)
        await value(sql, COUNT, 50)
        await value(sql, "SELECT count(*) FROM lanes", 0)
    assert await effects(sql) == Counter(new)
    assert await effects(sql, replaying=True) == Counter(old)
    await sql.execute("DELETE FROM handlers")  # as for a handler of the release before
    refused = await receiver("handlers", "backfill", "writer", "--since", "1h", "--yes")
    assert (refused.code, "rewind" in refused.err) == (1, True)


async def test_old_events_that_nobody_would_take(sql: asyncpg.Connection, receiver: Receiver) -> None:
    """where nobody runs a handler, a rewind says so before it is begun, and that it waits"""
    await store(sql, 2)
    await prepared(sql, [writer])
    for flag in ("--dry-run", "--yes"):
        ended = await receiver("handlers", "rewind", "writer", "--since", "1h", flag)
        assert (ended.code, "begun" in ended.out) == (0, False)
        assert "no worker runs it now (start a worker that has it). They wait for that" in ended.err


async def test_a_paused_handlers_lane_stands_still(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """pausing a handler stops its rewind, a rewind of a paused one waits, and both go on when it is resumed"""
    await prepared(sql, [writer])
    ids = await store(sql, 30)
    async with running(database, writer):
        await value(sql, COUNT, 30)
        await receiver("handlers", "pause", "writer")
        waits = await receiver("handlers", "rewind", "writer", "--since", "1h", "--yes")
        assert (waits.code, "rewind is there, and waits" in waits.out) == (0, True)
        assert "gets nothing at present: it is paused (`receiver handlers resume writer`" in waits.err
        beats = await sql.fetchval("SELECT max(expires_at) FROM workers")
        await value(sql, "SELECT max(expires_at) > $1 FROM workers", True, beats)
        assert await sql.fetchval(HELD) == 0
        assert await sql.fetchval(COUNT) == 30
        await receiver("handlers", "resume", "writer")
        await value(sql, COUNT, 60)
    assert await effects(sql, replaying=True) == Counter(ids)


async def test_remove(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """a handler that no worker runs is kept and shown, and removed when someone says so; its dead letters stay"""

    @handler()
    async def other(_event: Event, _ctx: Context) -> None:
        """Do nothing."""

    (id_,) = await store(sql, 1)
    await prepared(sql, [writer])
    async with running(database, writer):
        await value(sql, HELD, 64)
        refused = await receiver("handlers", "remove", "writer", "--yes")
        assert (refused.code, "is run by" in refused.err) == (1, True)
    assert (await state(receiver))["state"] == "idle"
    event = await find_event(sql, id_, await sql.fetchval("SELECT received_at FROM events"))
    assert event is not None
    await bury(sql, "writer", event, attempts=1, error_type="GiveUp", error="no", traceback=None)
    await sql.execute(
        "INSERT INTO retries (handler, event_id, event_received_at, shard, cause, next_at) "
        "VALUES ('writer', $1, now(), 0, 'failed', 'infinity')",
        uuid4(),
    )
    async with running(database, other):
        await value(sql, HELD, 64)
        assert (await state(receiver))["state"] == "removed"
        assert "no running worker has it" in (await receiver("handlers")).out
        tried = await receiver("handlers", "remove", "writer", "--dry-run")
        assert "64 cursors" in tried.out
        assert "1 retries" in tried.out
        assert "1 dead letters stay" in tried.out
        assert (await receiver("handlers", "remove", "writer", "--yes")).code == 0
        assert [row["handler"] for row in (await receiver("handlers", "--json")).rows] == ["other"]
    assert await sql.fetchval("SELECT count(*) FROM retries") == 0
    assert await sql.fetchval("SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL") == 1
    unknown = await receiver("handlers", "pause", "writer")
    assert (unknown.code, "there are: other" in unknown.err) == (1, True)
    await prepared(sql, [writer])
    assert (await receiver("handlers", "remove", "writer", "--dead-letters", "--yes")).code == 0
    assert await sql.fetchval("SELECT reason FROM dead_letters") == "the handler was removed"


async def test_removing_leaves_nothing_behind(sql: asyncpg.Connection, receiver: Receiver) -> None:
    """with a handler go the attempts at events that waited, and its replays end; a dead letter keeps its attempts"""
    waiting, given_up = await store(sql, 2)
    await prepared(sql, [writer])
    for id_ in (waiting, given_up):
        event = await find_event(sql, id_, await sql.fetchval("SELECT received_at FROM events WHERE id = $1", id_))
        assert event is not None
        await retry_later(sql, "writer", event, cause="failed", attempts=1, delay=60, error_type="E", error="no")
        if id_ == given_up:
            await bury(sql, "writer", event, attempts=2, error_type="E", error="no", traceback=None)
    replay_id = await start_replay(sql, "writer", Selection(), Accepts(), side_effects=False, events=2, by="ann")
    assert (await receiver("handlers", "remove", "writer", "--yes")).code == 0
    assert {row[0] for row in await sql.fetch("SELECT event_id FROM attempts")} == {given_up}
    (replay,) = (await receiver("replay", "list", "--json")).rows
    assert (replay["id"], replay["state"]) == (replay_id, "cancelled")


async def test_what_went_with_its_handler_was_not_handled(sql: asyncpg.Connection, receiver: Receiver) -> None:
    """a replay that had put all its events is told as cancelled when its handler is removed, by what of it was done"""
    await store(sql, 5)
    await prepared(sql, [writer])
    of = Selection(sources=["test"])
    for done in (5, 2):
        id_ = await start_replay(sql, "writer", of, Accepts(), side_effects=False, events=5, by="ann")
        assert await put_events(sql, id_, limit=20) == 5
        await sql.execute(
            "DELETE FROM retries WHERE event_id IN (SELECT event_id FROM retries LIMIT $1)", done
        )  # as handled
    assert (await receiver("handlers", "remove", "writer", "--yes")).code == 0
    replays = (await receiver("replay", "list", "--json")).rows
    assert [(one["state"], one["handled"], one["taken_back"]) for one in replays] == [
        ("cancelled", 2, 3),
        ("done", 5, None),
    ]


async def test_lag_is_since_something_was_due(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """lag is the age of the oldest unread event or due retry, and 0 when there is none, however old the last event"""
    await prepared(sql, [writer])
    await sql.execute("UPDATE cursors SET read_from = now() - interval '2 hours'")
    other = await asyncpg.connect(database)
    under_way = other.transaction()
    await under_way.start()
    await store(other, 1, received_at=datetime.now(UTC) - timedelta(minutes=50))
    await store(sql, 2, received_at=datetime.now(UTC) - timedelta(minutes=10))
    shown = await state(receiver)
    assert (shown["lag_events"], 600 <= float(str(shown["lag_seconds"])) < 900) == (2, True)
    async with running(database, writer):
        await value(sql, COUNT, 2)
        shown = await state(receiver)
        assert [shown[key] for key in ("lag_events", "lag_seconds", "state")] == [0, 0.0, "running"]
        assert float(str(shown["rate"])) > 0
    await under_way.commit()  # its event is late: before the cursor, and unread
    await other.close()
    shown = await state(receiver)
    assert (shown["lag_events"], 3000 <= float(str(shown["lag_seconds"])) < 3300) == (1, True)
    async with running(database, writer):
        await value(sql, COUNT, 3)
    await sql.execute(
        "INSERT INTO retries (handler, event_id, event_received_at, shard, cause, next_at) VALUES "
        "('writer', gen_random_uuid(), now() - interval '9 h', 1, 'failed', now() - interval '20 s'), "
        "('writer', gen_random_uuid(), now() - interval '9 h', 1, 'asked', now() + interval '1 h')"
    )
    shown = await state(receiver)
    assert (shown["lag_events"], 20 <= float(str(shown["lag_seconds"])) < 200) == (0, True)
    assert [shown[key] for key in ("retries", "failing", "retries_due")] == [2, 1, 1]


async def test_a_long_backlog(sql: asyncpg.Connection, receiver: Receiver) -> None:
    """of a shard a thousand unread events are counted, and it is said that there may be more; `remove` counts all"""
    await prepared(sql, [writer])
    await store(sql, 999, shard=3)
    assert (await state(receiver))["lag_at_least"] is False
    await store(sql, 6, shard=3)
    await store(sql, 2, shard=4)
    shown = await state(receiver)
    assert (shown["lag_events"], shown["lag_at_least"]) == (1002, True)
    assert "1,002+" in (await receiver("handlers")).out
    assert "1,007 unread" in (await receiver("handlers", "remove", "writer", "--dry-run")).out


async def test_an_open_breaker_is_shown(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """the list says since when a breaker is open, and the error that opened it"""
    await prepared(sql, [writer])
    async with running(database, writer):
        await value(sql, HELD, 64)
        await sql.execute(
            "UPDATE handlers SET breaker_since = now(), breaker_error = 'KeyError: plan', "
            "breaker_probe_at = now() + interval '1 hour' WHERE name = 'writer'"
        )
        shown = await state(receiver)
        assert (shown["state"], shown["breaker_error"]) == ("broken", "KeyError: plan")
        assert "breaker open since" in (await receiver("handlers")).out


# What the release before this one says to the database, word for word.
OLD_CREATE = """
INSERT INTO cursors (handler, shard, gen, txid, position, pending, read_from)
SELECT handler, shard, $3, (pg_snapshot_xmax(pg_current_snapshot())::text::numeric - 1)::text::xid8, $2,
       ARRAY(SELECT pg_snapshot_xip(pg_current_snapshot())), now()
FROM unnest($1::text[]) AS handler, generate_series(0, $4::int - 1) AS shard
ORDER BY handler, shard
ON CONFLICT DO NOTHING
"""
OLD_TAKE = """
WITH free AS MATERIALIZED (
    SELECT shard FROM cursors
    WHERE handler = $1 AND (lease_until < clock_timestamp() OR (owner = $2 AND NOT shard = ANY ($4::int2[])))
    ORDER BY shard LIMIT $5 FOR UPDATE SKIP LOCKED
)
UPDATE cursors SET owner = $2, epoch = cursors.epoch + 1, lease_until = clock_timestamp() + $3 * interval '1 second'
FROM free WHERE cursors.handler = $1 AND cursors.shard = free.shard
RETURNING cursors.shard, cursors.epoch
"""
OLD_ACK = """
UPDATE cursors SET position = position, updated_at = clock_timestamp()
FROM unnest($3::int2[], $4::bigint[]) AS u (shard, epoch)
WHERE cursors.handler = $1 AND cursors.owner = $2 AND cursors.shard = u.shard AND cursors.epoch = u.epoch
RETURNING cursors.shard
"""


async def test_the_release_before_obeys(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """a worker of the release before works beside this one; a handler that is paused or moved is out of its hands"""
    owner = uuid4()

    async def take() -> list[asyncpg.Record]:
        return await sql.fetch(OLD_TAKE, "writer", owner, 60.0, [], 64)

    async def ack(held: list[asyncpg.Record]) -> int:
        shards, epochs = [row["shard"] for row in held], [row["epoch"] for row in held]
        return len(await sql.fetch(OLD_ACK, "writer", owner, shards, epochs))

    await sql.execute(OLD_CREATE, ["writer"], 2**63 - 1, 1, 64)
    await sql.execute(OLD_CREATE, ["writer"], 2**63 - 1, 1, 64)
    held = await take()
    assert (len(held), await ack(held)) == (64, 64)
    await store(sql, 5)
    assert (await receiver("handlers", "skip-to", "writer", "now", "--yes")).code == 0
    assert await ack(held) == 0
    held = await take()
    assert (await receiver("handlers", "pause", "writer", "--wait", "0")).code == 0
    assert (await ack(held), await take()) == (0, [])
    assert (await receiver("handlers", "resume", "writer")).code == 0
    assert len(await take()) == 64
    await sql.execute("UPDATE cursors SET owner = NULL, lease_until = '-infinity'")
    async with running(database, writer):
        ids = await store(sql, 5)
        await value(sql, COUNT, 5)
    assert await effects(sql) == Counter(ids)


async def test_changes_meet_busy_workers(database: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """pausing, resuming and rewinding again and again under load loses and repeats nothing of the new events"""
    await prepared(sql, [writer])
    ids: list[UUID] = []
    async with running(database, writer, batch=50), running(database, writer, batch=50):
        for _ in range(4):
            ids += await store(sql, 200)
            assert (await receiver("handlers", "pause", "writer", "--wait", "0")).code == 0
            await receiver("handlers", "rewind", "writer", "--since", "1h", "--rate", "50", "--yes")
            assert (await receiver("handlers", "resume", "writer")).code == 0

        async def all_new() -> bool:
            return len(await effects(sql)) >= len(ids)

        await until(all_new)
    assert await effects(sql) == Counter(ids)
