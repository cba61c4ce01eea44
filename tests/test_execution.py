"""How handlers are executed: several batches at once, in threads, within their time."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import asyncpg
import pytest
from structlog.testing import capture_logs

from receiver import Context, Event, GiveUp, Outcome, Suppression, SyncContext, handler
from receiver.testing import Trial
from receiver.testing import event as make_event
from tests.log_events import store
from tests.workers import prepared, running, start, true, value

COUNT = "SELECT count(*) FROM effects WHERE handler = $1"
EFFECT = "INSERT INTO effects (handler, event_id) VALUES ($1, $2)"


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database that also has a table for what handlers do."""
    connection = await asyncpg.connect(database)
    await connection.execute("CREATE TABLE effects (handler text, event_id uuid)")
    yield connection
    await connection.close()


async def test_concurrency(database: str, sql: asyncpg.Connection) -> None:
    """as many batches run at the same time as the handler allows, each in a transaction of its own"""
    together = asyncio.Barrier(4)
    transactions: set[int] = set()

    @handler(concurrency=4)
    async def meets(event: Event, ctx: Context) -> None:
        transactions.add(await ctx.sql.fetchval("SELECT pg_current_xact_id()::text::bigint"))
        await together.wait()
        await ctx.sql.execute(EFFECT, "meets", event.id)

    await prepared(sql, [meets])
    await store(sql, 8, shard=lambda n: n % 4)
    async with running(database, meets):
        await value(sql, COUNT, 8, "meets")
    assert len(transactions) >= 4


async def test_concurrency_keeps_a_shard_together(database: str, sql: asyncpg.Connection) -> None:
    """at most `concurrency` calls run at once, never two of one shard, and everything is done once and in order"""
    now: Counter[int] = Counter()
    most: list[tuple[int, int]] = []
    seen: dict[int, list[str]] = {}

    @handler(concurrency=3, batch_size=5)
    async def wide(event: Event, ctx: Context) -> None:
        now[event.shard] += 1
        most.append((now.total(), now[event.shard]))
        await ctx.sql.execute(EFFECT, "wide", event.id)
        seen.setdefault(event.shard, []).append(event.subject or "")
        now[event.shard] -= 1

    await prepared(sql, [wide])
    async with running(database, wide):
        for start in range(0, 400, 40):
            await store(sql, 40, shard=lambda n: n % 20, subject=lambda n, start=start: f"{start + n:04}")
        await value(sql, COUNT, 400, "wide")
    assert max(total for total, _ in most) == 3
    assert max(of_shard for _, of_shard in most) == 1
    assert all(subjects == sorted(subjects) for subjects in seen.values())
    assert await sql.fetchval("SELECT count(DISTINCT event_id) FROM effects") == 400


async def test_a_slow_event_holds_up_its_part_alone(database: str, sql: asyncpg.Connection) -> None:
    """while one batch of a concurrent handler hangs, events of other shards go on, new ones too"""
    started, release = asyncio.Event(), asyncio.Event()

    @handler(concurrency=2, timeout=60)
    async def uneven(event: Event, ctx: Context) -> None:
        if event.subject == "slow":
            started.set()
            await release.wait()
        await ctx.sql.execute(EFFECT, "uneven", event.id)

    await prepared(sql, [uneven])
    async with running(database, uneven):
        await store(sql, shard=1, subject="slow")
        await asyncio.wait_for(started.wait(), 30)
        for done in (30, 60):
            await store(sql, 30, shard=lambda n: 2 + n)
            await value(sql, COUNT, done, "uneven")
        await store(sql, 5, shard=1)
        release.set()
        await value(sql, COUNT, 66, "uneven")


async def test_a_handler_that_hangs(database: str, sql: asyncpg.Connection) -> None:
    """a call that hangs is cancelled at its time limit, what it wrote is undone, and its event is tried again"""
    attempts: list[int] = []

    @handler(timeout=0.3, first_delay=0.01)
    async def hangs(event: Event, ctx: Context) -> None:
        await ctx.sql.execute(EFFECT, "hangs", event.id)
        if event.subject == "slow":
            attempts.append(ctx.attempt)
            if ctx.attempt < 3:
                await asyncio.Event().wait()

    await prepared(sql, [hangs])
    await store(sql, 5, subject=lambda n: "slow" if n == 2 else None)
    async with running(database, hangs):
        await value(sql, COUNT, 5, "hangs")
        await value(sql, "SELECT count(*) FROM retries", 0)
    assert attempts[-3:] == [1, 2, 3]
    assert await sql.fetchval("SELECT count(DISTINCT event_id) FROM effects") == 5


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_handler_that_hangs_at_the_stop(database: str, sql: asyncpg.Connection, concurrency: int) -> None:
    """a call that outlasts the time for a stop is cut off: what it wrote is undone, its event is the next worker's"""
    hanging, hang = asyncio.Event(), True

    @handler(concurrency=concurrency, timeout=600)
    async def hangs(event: Event, ctx: Context) -> None:
        await ctx.sql.execute(EFFECT, "hangs", event.id)
        if hang:
            hanging.set()
            await asyncio.Event().wait()

    await prepared(sql, [hangs])
    ids = await store(sql, 10)
    worker = start(database, hangs, grace=1.0, lease=600.0)
    await asyncio.wait_for(hanging.wait(), 30)
    await asyncio.wait_for(worker.stop(), 60)
    assert await sql.fetchval(COUNT, "hangs") == 0
    hang = False
    async with running(database, hangs):  # the leases were let go
        await value(sql, COUNT, 10, "hangs")
    assert Counter(row[0] for row in await sql.fetch("SELECT event_id FROM effects")) == Counter(ids)


async def test_a_handler_that_ignores_its_cancellation(database: str, sql: asyncpg.Connection) -> None:
    """it is named once and let go of, its event fails, and what it does afterwards changes nothing"""
    release, errors = asyncio.Event(), []

    @handler(timeout=0.3, max_attempts=1)
    async def stubborn(event: Event, ctx: Context) -> None:
        await ctx.sql.execute(EFFECT, "stubborn", event.id)
        if event.subject == "slow":
            with suppress(RuntimeError):
                async with ctx.sql.savepoint():
                    while not release.is_set():
                        with suppress(asyncio.CancelledError):
                            await release.wait()
            try:
                await ctx.sql.execute(EFFECT, "stubborn", event.id)
            except RuntimeError as error:
                errors.append(str(error))

    await prepared(sql, [stubborn])
    await store(sql, 5, shard=3, subject=lambda n: "slow" if n == 2 else None)
    try:
        with capture_logs() as lines:
            async with running(database, stubborn):
                await value(
                    sql, "SELECT error FROM dead_letters", "took too long, and goes on although it was cancelled"
                )
                await value(sql, COUNT, 4, "stubborn")
                release.set()
                await true(lambda: len(errors) == 2)  # together, and alone
                await store(sql, 5, shard=3)
                await value(sql, COUNT, 9, "stubborn")
    finally:
        release.set()
    assert all("longer than its timeout" in error for error in errors)
    named = [line["handler"] for line in lines if line["event"] == "handler_ignores_cancellation"]
    assert named == ["stubborn"]


async def test_a_stop_does_not_wait_for_one_that_ignores_it(database: str, sql: asyncpg.Connection) -> None:
    """a worker ends although a call goes on, what it wrote is undone, and its event is the next worker's"""
    hanging, release = asyncio.Event(), asyncio.Event()

    @handler(timeout=600)
    async def stubborn(event: Event, ctx: Context) -> None:
        await ctx.sql.execute(EFFECT, "stubborn", event.id)
        hanging.set()
        while not release.is_set():
            with suppress(asyncio.CancelledError):
                await release.wait()

    await prepared(sql, [stubborn])
    await store(sql, 1)
    worker = start(database, stubborn, grace=0.5, lease=600.0)
    try:
        await asyncio.wait_for(hanging.wait(), 30)
        stopping = asyncio.ensure_future(worker.stop())
        await true(stopping.done)
        await stopping
        assert len(asyncio.all_tasks()) == 1  # so the end of the loop waits for nothing either
        assert await sql.fetchval(COUNT, "stubborn") == 0
    finally:
        release.set()
    async with running(database, stubborn):  # the leases were let go
        await value(sql, COUNT, 1, "stubborn")


LET_GO = """
import asyncio, structlog
from receiver.dispatch.limit import Ignored, Leftovers, Limit

async def stubborn(limit):
    with limit.one():
        while True:
            try:
                await asyncio.sleep(60)
            except:
                pass

async def main():
    limit = Limit(0.1, lambda: None, Leftovers(structlog.get_logger()))
    try:
        await limit.run(stubborn(limit))
    except Ignored:
        print("let go")

asyncio.run(main())
"""


async def test_a_process_ends_in_spite_of_one_that_ignores_it() -> None:
    """neither the end of the loop nor that of the interpreter waits for a call that cannot be ended"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", LET_GO, stdout=asyncio.subprocess.PIPE)
    try:
        out, _ = await asyncio.wait_for(process.communicate(), 60)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    assert process.returncode == 0
    assert b"let go" in out


async def test_def_handlers(database: str, sql: asyncpg.Connection) -> None:
    """a `def` handler runs in a thread, and what its ctx does is in the transaction that moves the cursor"""
    names: set[str] = set()

    @handler()
    def plain(event: Event, ctx: SyncContext) -> Outcome | None:
        names.add(threading.current_thread().name)
        ctx.sql.execute(EFFECT, "plain", event.id)
        with suppress(asyncpg.DivisionByZeroError), ctx.sql.savepoint():
            ctx.sql.execute(EFFECT, "undone", event.id)
            ctx.sql.fetchval("SELECT 1 / 0")
        with ctx.sql.savepoint():
            ctx.sql.execute(EFFECT, "kept", event.id)
        assert ctx.event is not None
        ctx.send(template="tips", topic="news", to="ann@example.com", key=f"tips:{ctx.event.id}")
        if event.subject == "bad":
            raise ValueError("cannot do this one")
        return GiveUp("hopeless") if event.subject == "hopeless" else None

    @handler(batch=True, batch_size=10)
    def many(events: Sequence[Event], ctx: SyncContext) -> None:
        ctx.contacts.record(events)
        ctx.contacts.suppress_many(Suppression.of(event, "complaint", "marketing") for event in events)
        for event in events:
            ctx.sql.execute(EFFECT, "many", event.id)

    words = {3: "bad", 7: "hopeless"}
    await prepared(sql, [plain, many])
    await store(sql, 20, subject=words.get)
    async with running(database, plain, many):
        await value(sql, COUNT, 18, "plain")
        await value(sql, COUNT, 20, "many")
        await value(sql, "SELECT error FROM retries", "ValueError: cannot do this one")
        await value(sql, "SELECT error FROM dead_letters", "hopeless")
    assert await sql.fetchval(COUNT, "kept") == 18
    assert await sql.fetchval(COUNT, "undone") == 0
    assert await sql.fetchval("SELECT count(*) FROM sends") == 18
    assert await sql.fetchval("SELECT count(*) FROM suppressions WHERE active") == 20
    assert threading.main_thread().name not in names
    assert all(name.startswith("plain ") for name in names)


async def test_a_def_handler_leaves_the_loop_free(database: str, sql: asyncpg.Connection) -> None:
    """a `def` handler that waits in its thread delays no other handler"""
    release = threading.Event()

    @handler(timeout=60)
    def waits(event: Event, ctx: SyncContext) -> None:
        release.wait()
        ctx.sql.execute(EFFECT, "waits", event.id)

    @handler()
    async def quick(event: Event, ctx: Context) -> None:
        await ctx.sql.execute(EFFECT, "quick", event.id)

    await prepared(sql, [waits, quick])
    await store(sql, 10)
    async with running(database, waits, quick):
        try:
            await value(sql, COUNT, 10, "quick")
            assert await sql.fetchval(COUNT, "waits") == 0
        finally:
            release.set()
        await value(sql, COUNT, 10, "waits")


async def test_a_thread_that_is_late(database: str, sql: asyncpg.Connection) -> None:
    """a `def` call over its time is rolled back and retried; its thread, whenever it ends, changes nothing any more"""
    release, ended = threading.Event(), threading.Event()
    errors: list[Exception] = []

    def goes_on(event: Event, ctx: SyncContext) -> None:
        release.wait()
        for statement in (EFFECT, EFFECT):
            try:
                ctx.sql.execute(statement, "late", event.id)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at below
                errors.append(error)

    @handler(timeout=0.5)
    def late(event: Event, ctx: SyncContext) -> None:
        ctx.sql.execute(EFFECT, "late", event.id)
        if event.subject == "slow" and ctx.attempt == 1:
            goes_on(event, ctx)
            ended.set()

    await prepared(sql, [late])
    await store(sql, 5, subject=lambda n: "slow" if n == 2 else None)
    async with running(database, late):
        await value(sql, COUNT, 4, "late")
        await value(sql, "SELECT error FROM retries", "TimeoutError: took too long")
        release.set()
        await true(ended.is_set)
        await sql.execute("UPDATE retries SET next_at = now()")
        await value(sql, COUNT, 5, "late")
    assert {type(error) for error in errors} == {RuntimeError}
    assert "longer than its timeout" in str(errors[0])
    assert await sql.fetchval("SELECT count(DISTINCT event_id) FROM effects") == 5


async def test_a_late_statement_is_cancelled(database: str, sql: asyncpg.Connection) -> None:
    """a `def` handler whose statement takes too long is told where it hung; the next events go on at once"""

    @handler(timeout=0.5, max_attempts=1)
    def sleeps(event: Event, ctx: SyncContext) -> None:
        ctx.sql.execute(EFFECT, "sleeps", event.id)
        if event.subject == "slow":
            ctx.sql.execute("SELECT pg_sleep(600)")

    await prepared(sql, [sleeps])
    await store(sql, 5, subject=lambda n: "slow" if n == 2 else None)
    async with running(database, sleeps):
        await value(sql, COUNT, 4, "sleeps")
        await value(sql, "SELECT error FROM dead_letters", "took too long")
    traceback = await sql.fetchval("SELECT traceback FROM dead_letters")
    assert "The thread goes on" in traceback
    assert 'ctx.sql.execute("SELECT pg_sleep(600)")' in traceback


@pytest.mark.parametrize("way", ["sleep", "compute", "task"])
async def test_a_handler_that_blocks_the_loop(database: str, sql: asyncpg.Connection, way: str) -> None:
    """what blocks the event loop is named, with the place where it does, and without addresses"""
    told = threading.Event()

    async def blocks() -> None:
        if way == "compute":
            while not told.is_set():
                pass
        told.wait(60)  # as time.sleep would, for ann.secret@example.com

    @handler()
    async def culprit(event: Event, ctx: Context) -> None:
        await (asyncio.create_task(blocks()) if way == "task" else blocks())
        await ctx.sql.execute(EFFECT, "culprit", event.id)

    @handler()
    def innocent(event: Event, ctx: SyncContext) -> None:
        told.wait(60)
        ctx.sql.execute(EFFECT, "innocent", event.id)

    with capture_logs() as lines:

        def release() -> None:
            while not told.wait(0.02):
                if any(line["event"] == "loop_blocked" for line in lines):
                    told.set()

        threading.Thread(target=release, daemon=True).start()
        await prepared(sql, [innocent, culprit])
        await store(sql)
        try:
            async with running(database, innocent, culprit):
                for name in ("culprit", "innocent"):
                    await value(sql, COUNT, 1, name)
                await true(lambda: "loop_free" in [line["event"] for line in lines])
        finally:
            told.set()
    (line,) = [line for line in lines if line["event"] == "loop_blocked"]
    assert line["handler"] == ("innocent or culprit" if way == "task" else "culprit")  # the file's
    assert ", in blocks" in line["stack"]
    assert ("while not told" in line["stack"] or "pass" in line["stack"]) == (way == "compute")
    assert "secret" not in line["stack"]
    assert (way == "compute") or "<address>" in line["stack"]


async def test_trying_a_def_handler(database: str) -> None:
    """a trial runs a `def` handler as it runs an async one"""

    @handler()
    def plain(event: Event, ctx: SyncContext) -> None:
        ctx.contacts.update(event.recipient or "", attempt=ctx.attempt)
        ctx.send(template="tips", topic="news", to=event.recipient or "", key=f"tips:{ctx.handler}")
        if ctx.replaying:
            raise LookupError("enough")

    async with Trial(database) as trial:
        result = await trial.run(plain, make_event("clicked"), attempt=2)
        assert result.contacts["ann@example.com"].attributes == {"attempt": 2}
        assert [send.key for send in result.sends] == ["tips:plain"]
        with pytest.raises(LookupError, match="enough"):
            await trial.run(plain, make_event("clicked"), replaying=True)
