"""A rolling upgrade: the release before works on, beside this one, while the schema changes under both."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import asyncpg

from receiver import Context, Event, handler
from receiver.event import EventType
from receiver.store import dead_letters
from receiver.store.dead_letters import DeadLetters
from receiver.store.log import END_OF_TRANSACTION
from receiver.store.partitions import ensure_partitions
from receiver.store.schema import VERSION, migrate
from tests import release_before
from tests.processes import Load, Process, says_up, site
from tests.release_before import Worker
from tests.service import play
from tests.service import running as serving
from tests.waiting import until
from tests.workers import running, true, value

ATTEMPTS = 2
DONE = "SELECT count(*) FROM effects WHERE release = $1"
ALL_DONE = """
SELECT count(*) FROM events e
WHERE NOT EXISTS (SELECT FROM effects WHERE event_id = e.id)
  AND NOT EXISTS (SELECT FROM dead_letters WHERE event_id = e.id)
"""


def fails(event: Event, attempt: int) -> bool:
    """Every fifth event always, every fifth at first."""
    return event.id.int % 5 == 0 or (event.id.int % 5 == 1 and attempt == 1)


async def handle(sql: asyncpg.Connection, event: Event, attempt: int) -> None:
    """The handler, as the release before runs it."""
    await sql.execute("INSERT INTO effects VALUES ($1, 'before')", event.id)
    if fails(event, attempt):
        raise ValueError("no")


@handler(max_attempts=ATTEMPTS, breaker=0, first_delay=0.05)
async def writer(event: Event, ctx: Context) -> None:
    """The same handler, as this release runs it."""
    await ctx.sql.execute("INSERT INTO effects VALUES ($1, 'this')", event.id)
    if fails(event, ctx.attempt):
        raise ValueError("no")


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def keep_receiving(dsn: str, stored: list[UUID], stop: asyncio.Event) -> None:
    """A web process of the release before, under load: nothing makes it wait for long, or it would raise."""
    async with connected(dsn) as connection:
        while not stop.is_set():
            stored += await release_before.receive(connection, 5)
            await asyncio.sleep(0.02)


async def test_the_release_before_works_on(database: str, tmp_path: Path) -> None:
    """schema 1 with data is migrated under the release before, which goes on; both work side by side, then this alone:
    every event is stored, handled once or given up on once, and what the old one left behind can be retried
    """
    stored: list[UUID] = []
    no_more, sendgrid = asyncio.Event(), play("sendgrid", tmp_path)
    async with connected(database) as sql, connected(database) as workers:
        await release_before.make_schema(sql)
        await ensure_partitions(sql)
        await sql.execute("CREATE TABLE effects (event_id uuid, release text)")
        old = Worker(workers, "writer", handle, max_attempts=ATTEMPTS)
        working = asyncio.create_task(old.run())
        await value(sql, "SELECT count(*) FROM cursors", 64)
        receiving = asyncio.create_task(keep_receiving(database, stored, no_more))

        async def done(release: str, more: int) -> None:
            so_far = await sql.fetchval(DONE, release)

            async def enough() -> bool:
                for task in (working, receiving):
                    assert not task.done() or (task is working and old.stop.is_set()), task.exception()
                return bool(await sql.fetchval(DONE, release) >= so_far + more)

            await until(enough, within=60)

        await done("before", 60)
        await value(sql, "SELECT count(*) > 0 FROM dead_letters", expected=True)
        assert await migrate(database) == (release_before.VERSION, VERSION)
        oldest = await sql.fetchval(release_before.OLDEST)
        assert oldest <= release_before.VERSION  # else its next start would refuse
        await sql.execute(release_before.CREATE, ["another"], END_OF_TRANSACTION, 1, 64)
        await done("before", 60)
        async with running(database, writer), serving(database, sendgrid) as web:
            for number in range(20):
                (post,) = sendgrid.posts(EventType.DELIVERED, f"u{number}@one.test", run=f"n{number}")
                assert (await web.post("sendgrid", post)).status_code == 200
            await done("this", 30)
            await done("before", 30)
            old.stop.set()
            await working
            await done("this", 60)
            no_more.set()
            await receiving
            await value(sql, ALL_DONE, 0)
            await value(sql, "SELECT count(*) FROM retries", 0)
        events = {row["id"]: row["id"].int % 5 == 0 for row in await sql.fetch("SELECT id FROM events")}
        assert len(events) == len(stored) + 20
        assert events.keys() >= set(stored)
        good = [id_ for id_, bad in events.items() if not bad]
        assert sorted(row[0] for row in await sql.fetch("SELECT event_id FROM effects")) == sorted(good)
        bad = sorted(id_ for id_, bad in events.items() if bad)
        assert sorted(row[0] for row in await sql.fetch("SELECT event_id FROM dead_letters")) == bad
        await release_before.retry_letter(sql, await sql.fetchval("SELECT max(id) FROM dead_letters"))
        assert await dead_letters.retry(sql, DeadLetters()) == len(bad) - 1
        assert await sql.fetchval("SELECT count(*) FROM retries") == len(bad)


async def test_a_web_process_is_replaced_across_the_migration(database: str, tmp_path: Path) -> None:
    """under load the database of a web process is migrated, another one starts beside it on the same port, and it ends:
    no answer but success, and everything is stored

    There is no earlier release here. It is this one, told that an earlier schema is its own; it can receive with that.
    """
    earlier, postmark = 3, play("postmark", tmp_path)
    posts = (postmark.posts(EventType.DELIVERED, f"u{n}@one.test", run=f"n{n}")[0] for n in itertools.count())
    async with connected(database) as sql, site(tmp_path, database, postmark) as place:
        await release_before.make_schema(sql, earlier)
        await ensure_partitions(sql)

        async def started(*program: str) -> Process:
            made = place.process("serve", "--no-dispatch", program=program, RECEIVER_REUSE_PORT="true")
            await made.start()
            await until(lambda: says_up(made), within=60)
            return made

        old = await started("tests.release_before", str(earlier))
        load = Load(f"{place.url}/webhooks/postmark", posts)
        sending = asyncio.create_task(load.run(clients=3))

        async def more() -> None:
            enough = load.succeeded + 50
            await true(lambda: load.succeeded >= enough or bool(load.failed))

        await more()
        assert await migrate(database) == (earlier, VERSION)
        await more()
        await started("receiver")
        await more()
        assert await old.end(signal.SIGTERM) == 0
        await more()
        load.stop()
        await sending
        assert set(load.statuses) == {200}
        assert load.failed == 0
        assert await sql.fetchval("SELECT count(*) FROM events") == load.succeeded
