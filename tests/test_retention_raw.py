"""Cold partitions are rewritten without raw, and nothing else of them changes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from receiver.retention_settings import RetentionSettings
from receiver.store import bare, retention
from receiver.store.log import Cursor, create_cursors, read_pages
from receiver.store.queries import show_event
from receiver.store.steps import Done, Progress, Unfinished
from tests.aged import (
    EVENTS,
    RAW,
    aged_database,
    ago,
    connected,
    count,
    make_impatient,
    old_partition,
    run,
    settled,
)

COPIES = "SELECT count(*) FROM pg_class WHERE relname LIKE 'events_bare%' AND relkind = 'r'"


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    async with aged_database(database) as made:
        yield made


@pytest.fixture
async def other(database: str) -> AsyncIterator[asyncpg.Connection]:
    """Another one's connection."""
    async with connected(database) as made:
        yield made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention gives up on a lock after two short attempts."""
    make_impatient(monkeypatch)


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

    with pytest.raises(Unfinished, match="were changed"):
        await retention.run(connection, RAW, report)
    left = await connection.fetch("SELECT id, brand FROM events ORDER BY id")
    assert len(left) == 49 or sum(row["brand"] == "x" for row in left) == 1
    await settled(connection)
    await run(connection, RAW)
    assert await connection.fetch("SELECT id, brand FROM events ORDER BY id") == left
    assert await connection.fetchval("SELECT count(raw) FROM events") == 0


async def test_a_change_begun_before_a_rewrite_is_not_lost(
    connection: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    """a change whose transaction began before the rewrite, and that commits while it goes on, makes it begin anew."""
    cold = await old_partition(connection, 100, 50)
    erasing = other.transaction()
    await erasing.start()
    await other.fetchval("SELECT pg_current_xact_id()")

    async def report(step: Done | Progress) -> None:
        if isinstance(step, Progress) and step.part == "raw":
            await other.execute(f"UPDATE {cold.name} SET recipient = NULL")
            await erasing.commit()

    with pytest.raises(Unfinished, match="were changed"):
        await retention.run(connection, RAW, report)
    await settled(connection)
    await run(connection, RAW)
    assert await count(connection, f"{cold.name} WHERE raw IS NULL AND recipient IS NULL") == 50


@pytest.mark.usefixtures("impatient")
async def test_an_open_select_delays_a_swap_and_nobody_else(
    connection: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    """while a SELECT is open the rewritten partition waits beside; the next run only swaps it."""
    await old_partition(connection, 100, 50)
    async with other.transaction():
        await count(other)
        with pytest.raises(Unfinished, match="events is waited for"):
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
