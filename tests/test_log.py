"""The log's cursors against real concurrency: nothing lost, nothing repeated, nothing stalled."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from receiver.dispatch.reader import server_settings
from receiver.errors import SchemaError
from receiver.event import SHARDS, Actor, BounceCategory, EventType
from receiver.store import log
from receiver.store.log import Cursor, check_generation, create_cursors, generation, read_pages
from receiver.store.sql import Sql
from receiver.store.standing import standings
from tests.log_events import store, write_transactions
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_LOAD = "SELECT shard, gen, txid, position, pending, read_from FROM cursors WHERE handler = $1"


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def xid(connection: asyncpg.Connection) -> int:
    """The connection's transaction."""
    found: int = await connection.fetchval("SELECT pg_current_xact_id()")
    return found


class LogReader:
    """The smallest reader: all shards in memory, as a worker keeps them."""

    def __init__(self, connection: Sql) -> None:
        self.connection = connection
        self.cursors: dict[int, Cursor] = {}
        self.seen: Counter[UUID] = Counter()
        self.gen = 0

    async def start(self, handler: str = "reader") -> LogReader:
        await create_cursors(self.connection, [handler])
        self.gen = await generation(self.connection)
        for shard, gen, txid, position, pending, read_from in await self.connection.fetch(_LOAD, handler):
            self.cursors[shard] = Cursor(gen, txid, position, tuple(pending), read_from)
        return self

    async def step(self, *, limit: int = 10, cut: random.Random | None = None) -> int:
        """Read once and take what came, or only a random part of each page; returns how many events."""
        pages = await read_pages(self.connection, list(self.cursors.items()), limit=limit, gen=self.gen)
        taken = 0
        for page in pages:
            count = cut.randint(page.late, len(page.events)) if cut else len(page.events)
            self.seen.update(event.id for event in page.events[:count])
            self.cursors[page.shard] = page.after(count)
            taken += count
        return taken

    async def drain(self) -> None:
        while await self.step(limit=1000):
            pass


async def test_new_cursors_stand_at_the_end(database: str) -> None:
    """a new handler sees what commits after its cursors were made, even if it began before, and nothing older"""
    async with connected(database) as writer, connected(database) as other, connected(database) as reading:
        await store(writer, 5)
        under_way, aborted = writer.transaction(), other.transaction()
        await under_way.start()
        before = await store(writer, 3)
        await aborted.start()
        await store(other, 2)
        await store(reading, 1)
        reader = await LogReader(reading).start()
        running = {await xid(writer), await xid(other)}
        assert all(running <= set(cursor.pending) for cursor in reader.cursors.values())
        await reader.drain()
        assert not reader.seen
        await under_way.commit()
        await aborted.rollback()
        after = await store(other, 4)
        await reader.drain()
        assert reader.seen == Counter(before + after)


async def test_late_rows(database: str) -> None:
    """events of a transaction that commits after later ones were read arrive late, once, and pending then empties"""
    async with connected(database) as slow, connected(database) as fast, connected(database) as reading:
        reader = await LogReader(reading).start()
        transaction = slow.transaction()
        await transaction.start()
        early = await store(slow, 3, shard=7)
        later = await store(fast, 3, shard=7)
        await reader.drain()
        assert reader.seen == Counter(later)
        running = await xid(slow)
        assert running in reader.cursors[7].pending
        await transaction.commit()
        await reader.step()
        assert reader.seen == Counter(early + later)
        await reader.step()
        assert running not in reader.cursors[7].pending
        await reader.drain()
        assert reader.seen == Counter(early + later)


async def test_a_long_foreign_transaction_stalls_nothing(database: str) -> None:
    """events are read at once while another transaction that wrote something stays open"""
    async with connected(database) as foreign, connected(database) as writer, connected(database) as reading:
        transaction = foreign.transaction()
        await transaction.start()
        await foreign.execute("INSERT INTO audit_log (who, action, subject) VALUES ('a', 'b', 'c')")
        reader = await LogReader(reading).start()
        for _ in range(5):
            ids = await store(writer, 10)
            await reader.step(limit=100)
            assert all(reader.seen[id_] == 1 for id_ in ids)
        await transaction.rollback()
        await reader.drain()
        assert set(reader.seen.values()) == {1}


async def _read(dsn: str, seed: int, done: asyncio.Event) -> Counter[UUID]:
    """Reads with random limits, stops at random places, and sometimes starts again from what it had stored."""
    chance = random.Random(seed)
    async with connected(dsn) as connection:
        reader = await LogReader(connection).start(f"reader {seed}")
        while not done.is_set():
            await reader.step(limit=chance.randint(1, 30), cut=chance)
            await asyncio.sleep(0)
        await reader.drain()
        return reader.seen


@pytest.mark.parametrize("seed", range(4))
async def test_concurrent_writers_and_readers(database: str, seed: int) -> None:
    """writers that commit in another order than they drew positions, or roll back, lose and repeat nothing"""
    async with connected(database) as connection:
        for reader in range(3):
            await create_cursors(connection, [f"reader {seed * 10 + reader}"])
    done, committed = asyncio.Event(), []  # type: asyncio.Event, list[UUID]
    readers = [asyncio.create_task(_read(database, seed * 10 + n, done)) for n in range(3)]
    await asyncio.gather(*(write_transactions(database, seed * 100 + n, committed) for n in range(8)))
    done.set()
    for seen in await asyncio.gather(*readers):
        assert seen == Counter(committed)


# Which writer does what next: write in its transaction (beginning it), commit it, roll it back; or the reader reads.
_STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "write", "commit", "rollback", "read", "cut"]), st.integers(0, 3)),
    min_size=1,
    max_size=40,
)


async def test_any_order_of_commits(database: str) -> None:
    """whatever the order in which transactions write, end and are read: each committed event is read exactly once"""
    async with asyncpg.create_pool(database, min_size=6, max_size=6) as pool:
        loop = asyncio.get_running_loop()
        case = 0

        async def play(steps: list[tuple[str, int]]) -> None:
            nonlocal case
            case += 1
            async with pool.acquire() as reading:
                reader = await LogReader(reading).start(f"case {case}")
                assert await _play(pool, reader, steps) == reader.seen

        @hypothesis_settings(max_examples=60, deadline=None)
        @given(_STEPS)
        def run(steps: list[tuple[str, int]]) -> None:
            asyncio.run_coroutine_threadsafe(play(steps), loop).result(60)

        await asyncio.to_thread(run)


async def _play(pool: asyncpg.Pool, reader: LogReader, steps: list[tuple[str, int]]) -> Counter[UUID]:
    chance = random.Random(len(steps))
    committed: Counter[UUID] = Counter()
    connections = [await pool.acquire() for _ in range(4)]
    open_: dict[int, tuple[asyncpg.transaction.Transaction, list[UUID]]] = {}

    async def end(n: int, *, commit: bool) -> None:
        if n in open_:
            transaction, ids = open_.pop(n)
            await (transaction.commit() if commit else transaction.rollback())
            committed.update(ids if commit else ())

    for what, n in steps:
        if what == "write":
            if n not in open_:
                open_[n] = (connections[n].transaction(), [])
                await open_[n][0].start()
            open_[n][1].extend(await store(connections[n], 2, shard=chance.randint(0, 2)))
        elif what in ("commit", "rollback"):
            await end(n, commit=what == "commit")
        else:
            await reader.step(limit=n + 1, cut=chance if what == "cut" else None)
    for n in range(4):
        await end(n, commit=n % 2 == 0)
        await reader.step(limit=2)
        await pool.release(connections[n])
    await reader.drain()
    return committed


async def test_the_read_is_a_walk_along_the_index(database: str) -> None:
    """reading uses the log's index in every partition and neither scans nor sorts, whatever the statistics say"""
    connection = await asyncpg.connect(database, server_settings=server_settings())
    try:
        parameters = "'{1}', '{1}', '{5}', '{0}', ARRAY['{4}'], now() - interval '1 hour', 10"
        types = "int2[], int2[], xid8[], int8[], text[], timestamptz, bigint"
        await connection.execute(f"PREPARE read ({types}) AS {log._READ}")
        plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE read ({parameters})"))
    finally:
        await connection.close()
    assert "Index Scan using events_" in plan
    assert "Seq Scan" not in plan
    assert "Sort" not in plan.replace("Sort Key", "")
    assert "Hash" not in plan


async def test_reading_prunes_partitions(database: str) -> None:
    """partitions that ended more than an hour before the cursor's bound are not touched"""
    async with connected(database) as connection:
        await connection.execute(
            "CREATE TABLE events_old PARTITION OF events FOR VALUES FROM ('2020-01-01') TO ('2020-02-01')"
        )
        plan = await connection.fetch(
            f"EXPLAIN (ANALYZE, COSTS off) {log._READ}".replace("$1", "'{1}'")
            .replace("$2", "'{1}'")
            .replace("$3", "'{5}'")
            .replace("$4", "'{0}'")
            .replace("$5", "ARRAY['{4}']")
            .replace("$6", "now() - interval '1 hour'")
            .replace("$7", "10")
        )
    assert "events_old" not in "\n".join(row[0] for row in plan)


async def test_events_keep_their_values(database: str) -> None:
    """a row of every kind of column comes back as the event that it is"""
    async with connected(database) as connection:
        reader = await LogReader(connection).start()
        (id_,) = await store(
            connection,
            type="bounced",
            bounce_category="hard",
            actor="human",
            actor_reasons=["provider"],
            client_ip="2001:db8::1",
            sending_ip="192.0.2.7",
            tags=["a", "b"],
            metadata='{"order": 12, "huge": 1e400}',
            smtp_code=550,
            is_test=True,
            raw='{"x": [1, 2]}',
        )
        pages = await read_pages(connection, list(reader.cursors.items()), limit=10, gen=reader.gen)
    (event,) = [event for page in pages for event in page.events]
    assert (event.id, event.type, event.bounce_category) == (id_, EventType.BOUNCED, BounceCategory.HARD)
    assert (event.actor, event.actor_reasons) == (Actor.HUMAN, ["provider"])
    assert (event.client_ip, event.sending_ip) == ("2001:db8::1", "192.0.2.7")
    assert (event.tags, event.metadata["order"], event.smtp_code) == (["a", "b"], 12, 550)
    assert event.is_test
    assert event.raw_object() == {"x": [1, 2]}
    assert event.received_at.utcoffset() is not None


async def test_ids_that_went_backwards(database: str) -> None:
    """a log from another server, whose transaction ids lie ahead, is refused until a new generation is begun"""
    async with connected(database) as connection:
        reader = await LogReader(connection).start()
        await check_generation(connection)
        (old,) = await store(connection, txid=10**12)
        with pytest.raises(SchemaError, match="receiver cursors rebase"):
            await check_generation(connection)
        await connection.execute("ALTER TABLE events ALTER COLUMN gen SET DEFAULT 2")
        await check_generation(connection)
        (new,) = await store(connection)
        await reader.drain()
        assert reader.seen == Counter([old, new])


async def test_states(database: str) -> None:
    """the state of a handler counts what it has not read, what is due and what is dead"""
    async with connected(database) as connection:
        await create_cursors(connection, ["one", "two"])
        await store(connection, 7)
        await connection.execute(
            "INSERT INTO retries (handler, event_id, event_received_at, shard, cause, next_at) VALUES "
            "('one', gen_random_uuid(), now(), 1, 'failed', now() - interval '1 s'), "
            "('one', gen_random_uuid(), now(), 1, 'failed', now() + interval '1 h')"
        )

        async def lagging() -> bool:
            return all(state.lag_seconds > 0 for state in await standings(connection))

        await until(lagging)
        one, two = await standings(connection)
    assert (one.handler, one.shards, one.leased, one.owners) == ("one", SHARDS, 0, [])
    assert (one.lag_events, one.retries, one.retries_due) == (7, 2, 1)
    assert (two.lag_events, two.retries) == (7, 0)
