"""What a retried dead letter hands to its handler, and what is kept of it then."""

from __future__ import annotations

import asyncpg

from receiver import Context, Event, handler
from tests.aged import RAW, aged_database, old_partition, run
from tests.cli import Receiver
from tests.log_events import store
from tests.workers import prepared, running, value


async def test_a_retried_letter_outlives_its_partition(
    database: str, sql: asyncpg.Connection, receiver: Receiver
) -> None:
    """a dead letter whose event was dropped with its partition is retried, and the handler gets the whole event"""
    got: list[Event] = []

    @handler(max_attempts=1)
    async def late(event: Event, _ctx: Context) -> None:
        if not broken:
            got.append(event)
            return
        raise RuntimeError("not yet")

    broken = True
    await prepared(sql, [late])
    (id_,) = await store(sql, recipient="ann@example.com", metadata='{"a": [1]}', raw='{"r": "é"}', tags=["x"])
    async with running(database, late):
        await value(sql, "SELECT count(*) FROM dead_letters", 1)
        partition = await sql.fetchval("SELECT tableoid::regclass::text FROM events")
        await sql.execute(f"DROP TABLE {partition}")
        assert await sql.fetchval("SELECT count(*) FROM events") == 0
        broken = False
        assert (await receiver("dead-letters", "retry", "--handler", "late", "--yes")).code == 0
        await value(sql, "SELECT count(*) FROM retries", 0)
    (event,) = got
    assert (event.id, event.recipient, event.tags) == (id_, "ann@example.com", ["x"])
    assert (event.metadata, event.raw_object()) == ({"a": [1]}, {"r": "é"})
    assert await sql.fetchval("SELECT count(*) FROM attempts") == 0


async def test_a_retried_letter_has_its_raw(database: str, receiver: Receiver) -> None:
    """a letter whose event is in the log without `raw` by now is retried with that of its copy, but for an erased one

    All else is as the log has it, where it may have been read again since.
    """
    got: list[Event] = []

    @handler(max_attempts=1)
    async def late(event: Event, _ctx: Context) -> None:
        if broken:
            raise RuntimeError("not yet")
        got.append(event)

    broken = True
    async with aged_database(database) as sql:
        await prepared(sql, [late])
        await sql.execute("UPDATE cursors SET read_from = '2001-01-01'")
        await old_partition(sql, 100, 2, raw='{"r": "é"}', subject=lambda n: f"{n}")
        async with running(database, late):
            await value(sql, "SELECT count(*) FROM dead_letters", 2)
        (done,) = await run(sql, RAW)
        assert (done.rows, done.held) == (2, ())
        await sql.execute("UPDATE events SET topic = 'read again'")
        await sql.execute("UPDATE events SET attribution = 'erased' WHERE subject = '1'")
        broken = False
        async with running(database, late):
            assert (await receiver("dead-letters", "retry", "--all", "--yes")).code == 0
            await value(sql, "SELECT count(*) FROM retries", 0)
    seen = {event.subject: (event.raw_object(), event.topic) for event in got}
    assert seen == {"0": ({"r": "é"}, "read again"), "1": (None, "read again")}


async def test_a_handled_event_leaves_other_letters_their_attempts(
    database: str, sql: asyncpg.Connection, receiver: Receiver
) -> None:
    """a replay that handles the event of an open dead letter leaves the letter its attempts; a retry of it does not"""

    @handler(max_attempts=2)
    async def moody(_event: Event, _ctx: Context) -> None:
        if broken:
            raise RuntimeError("not yet")

    async def attempts() -> int:
        return len((await receiver("dead-letters", "show", "1", "--json")).rows[0]["history"])

    broken = True
    await prepared(sql, [moody])
    (id_,) = await store(sql)
    async with running(database, moody):
        await value(sql, "SELECT count(*) FROM attempts", 1)
        await sql.execute("UPDATE retries SET next_at = now()")
        await value(sql, "SELECT count(*) FROM dead_letters", 1)
        assert await attempts() == 2
        broken = False
        replayed = await receiver("replay", "--handler", "moody", "--event", str(id_), "--yes")
        assert replayed.code == 0, replayed.err
        await value(sql, "SELECT count(*) FROM retries", 0)
        assert await attempts() == 2
        assert (await receiver("dead-letters", "retry", "1", "--yes")).code == 0
        await value(sql, "SELECT count(*) FROM retries", 0)
        assert await attempts() == 0
