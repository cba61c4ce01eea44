"""Which clock decides: leases, due times and retention go by Postgres's, so that a jump of ours changes nothing.

And what a jump of Postgres's does, and a zone in which clocks change.
"""

from __future__ import annotations

import ast
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import asyncpg
import httpx
import pytest

import receiver as package
from receiver import Context, Event, handler
from receiver.alert_settings import AlertSettings
from receiver.event import EventType
from receiver.maintenance import maintain_once
from receiver.retention_settings import RetentionSettings
from receiver.store.needs import warnings
from receiver.store.partitions import Span, list_partitions
from tests.aged import partition_of
from tests.cli import Receiver
from tests.clocks import ZONE, ServerClock
from tests.log_events import store
from tests.processes import site
from tests.service import Played, play
from tests.service import running as serving
from tests.workers import prepared, running, start, value

ROOT: Final = Path(package.__file__).parent
ROOMS: Final = ("dispatch", "store", "ingest", "watching", "maintenance.py")

# Where the wall clock of this machine is asked, how often, and what for.
ALLOWED: Final = {
    "dispatch/calling.py": 1,  # `ctx.now`, for handlers
    "dispatch/worker.py": 1,  # from when on a new handler asks for history, given as a length of time
    "store/event_pages.py": 1,  # the end of a page of the API that names none
    "store/queries.py": 1,  # the end of a listing that names none
    "watching/notices.py": 2,  # the time in a signature, which its receiver compares with its own; a name for a trial
}


def wall_clocks(source: str) -> int:
    """How many calls in a module ask for the time of day."""
    asked = ("datetime.now", "datetime.utcnow", "datetime.today", "date.today", "time.time", "time.time_ns")
    calls = (node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return sum(ast.unparse(call) in asked for call in calls)


def test_no_lease_and_no_due_time_depends_on_this_machines_clock() -> None:
    """what is stored, read, leased, retried and removed asks the wall clock in the few known places alone"""
    files = [
        file for room in ROOMS for file in ([ROOT / room] if room.endswith(".py") else (ROOT / room).rglob("*.py"))
    ]
    found = Counter({str(file.relative_to(ROOT)): wall_clocks(file.read_text()) for file in files})
    assert dict(+found) == ALLOWED
    assert wall_clocks("from datetime import datetime\nx = datetime.now(UTC)\ny = time.time()") == 2


def test_leases_go_by_the_clock_and_not_by_the_start_of_a_transaction() -> None:
    """a transaction that began long ago, as behind a slow pooler, sees what time it is when it takes a lease"""
    for name in ("leases.py", "tasks.py"):
        text = (ROOT / "store" / name).read_text()
        assert "clock_timestamp()" in text
        assert not re.search(r"(?i)\b(now\(\)|current_timestamp|transaction_timestamp|statement_timestamp)", text)


# Zones and jumps -----------------------------------------------------------------------------------------------------

HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
LEASE: Final = timedelta(seconds=2)  # of the workers that tests start
CHANGES: Final = (datetime(2027, 3, 28, 1, tzinfo=UTC), datetime(2027, 10, 31, 1, tzinfo=UTC))
COUNT: Final = "SELECT count(*) FROM effects WHERE handler = $1"
TWICE: Final = "SELECT count(*) - count(DISTINCT (handler, event_id)) FROM effects"
EPOCHS: Final = "SELECT sum(epoch)::int FROM cursors"


@pytest.fixture
async def clock(database: str) -> AsyncIterator[ServerClock]:
    """The database's own; the database, and this process, are in a zone whose clocks change."""
    made = ServerClock(database)
    await made.begin()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", ZONE)
        time.tzset()
        yield made
    time.tzset()


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    await connection.execute("CREATE TABLE effects (handler text, event_id uuid)")
    yield connection
    await connection.close()


@handler(batch=True)
async def writer(events: Sequence[Event], ctx: Context) -> None:
    await ctx.sql.execute("INSERT INTO effects SELECT 'writer', unnest($1::uuid[])", [event.id for event in events])


@handler(first_delay=0.05, breaker=0)
async def second(event: Event, ctx: Context) -> None:
    await ctx.sql.execute("INSERT INTO effects VALUES ('second', $1)", event.id)
    if ctx.attempt == 1:
        raise ValueError("the first time")


@pytest.mark.parametrize("change", CHANGES)
async def test_days_are_of_24_hours(
    database: str, sql: asyncpg.Connection, clock: ServerClock, change: datetime
) -> None:
    """in a zone whose clocks change, partitions are days of UTC, and rows and events go when they are of age"""
    today, noon = change.replace(hour=0), change.replace(hour=12)
    for one in await list_partitions(sql):
        await sql.execute(f"DROP TABLE {one.name}")
    old = await partition_of(sql, "events_old", Span(today - 2 * DAY, today - DAY))
    await sql.executemany(
        "INSERT INTO refused (source, reason, detail, size, headers, body, refused_at)"
        " VALUES ('s', 'stale', '', 1, '', '', $1)",
        [(noon + timedelta(minutes=minutes) - DAY,) for minutes in (-90, -30, -1, 2, 30, 90)],
    )
    rules = RetentionSettings(partitions="day", events=1.5 * DAY, refused=DAY)
    await clock.set(noon - timedelta(minutes=1))
    await maintain_once(database, rules)
    days = [Span(today + n * DAY, today + (n + 1) * DAY) for n in range(8)]
    assert [one.span for one in await list_partitions(sql)] == [old.span, *days]
    await sql.execute("DELETE FROM tasks")
    await clock.set(noon)
    await maintain_once(database, rules)
    assert [one.span for one in await list_partitions(sql)] == days
    kept = await sql.fetch("SELECT refused_at FROM refused ORDER BY 1")
    assert [row[0] - noon + DAY for row in kept] == [timedelta(minutes=minutes) for minutes in (2, 30, 90)]


REFUSED: Final = "SELECT count(*) FROM refused"


async def test_retention_does_not_follow_a_jump_at_once(
    database: str, clock: ServerClock, sql: asyncpg.Connection, receiver: Receiver
) -> None:
    """after a jump ahead retention waits for a day, says so, and goes on whether or not anybody has heard it; where the
    clock is set right before that nothing is lost; by hand it does not wait
    """
    rules = RetentionSettings()
    refuse = (
        "INSERT INTO refused (source, reason, detail, size, headers, body, refused_at)"
        " VALUES ('s', 'stale', '', 1, '', '', public.now())"
    )

    async def looked(hours: float) -> None:
        await clock.jump(hours * HOUR)
        await maintain_once(database, rules)

    async def said() -> list[str]:
        return [one.text for one in await warnings(sql, rules) if one.key == "retention_clock"]

    await looked(0)
    await sql.execute(refuse)
    for hours in (60 * 24, 1, 12):
        await looked(hours)
        assert "Retention waits until" in (await said())[0]
    assert "Retention waits until" in (await receiver("retention", "run", "--dry-run")).err
    await looked(-60 * 24 - 13)
    assert (await sql.fetchval(REFUSED), await said()) == (1, [])
    await looked(60 * 24)
    assert (await sql.fetchval(REFUSED), len(await said())) == (1, 1)
    await looked(7 * 24)  # whoever starts it once a week
    assert (await sql.fetchval(REFUSED), await said()) == (0, [])
    await sql.execute(refuse)
    await looked(60 * 24)
    assert (await sql.fetchval(REFUSED), len(await said())) == (1, 1)
    assert (await receiver("retention", "run", "--yes")).code == 0
    assert await sql.fetchval(REFUSED) == 0


@pytest.mark.parametrize("change", CHANGES)
async def test_the_servers_clock_jumps(
    database: str, sql: asyncpg.Connection, clock: ServerClock, change: datetime
) -> None:
    """over a change of summer time no shard changes hands; a jump ahead ends leases and one back prolongs them, and
    whatever the clock does every event is handled, retries included, and its effect is there once
    """
    await clock.set(change - timedelta(minutes=1))
    await maintain_once(database, RetentionSettings())
    await prepared(sql, [writer, second])
    stored = 0

    async def handled(events: int) -> None:
        nonlocal stored
        stored += len(await store(sql, events))
        for one in (writer, second):
            await value(sql, COUNT, stored, one.name)

    async with running(database, writer, second):
        await clock.set(change - timedelta(seconds=1))
        await handled(50)
        await value(sql, "SELECT public.now() > $1 AND min(lease_until) > $1 FROM cursors", True, change + LEASE)
        await handled(50)
        taken = await sql.fetchval(EPOCHS)
        assert taken == 2 * 64
        async with running(database, writer, second):
            await value(sql, f"{EPOCHS} WHERE owner IS NOT NULL", taken + 64)
            for _ in range(20):  # whoever holds a lease that has ended may be the first to come, and then it keeps it
                await clock.jump(2 * HOUR)
                await handled(50)
                await value(sql, "SELECT min(lease_until) > public.now() FROM cursors", True)
                if await sql.fetchval(EPOCHS) > taken + 64:
                    break
            else:
                pytest.fail("no jump has ended a lease")
            await clock.jump(-2 * HOUR)
            await handled(50)
    assert await sql.fetchval(TWICE) == 0


@pytest.mark.parametrize("before", [0, 2000])
async def test_nobody_reads_while_the_servers_clock_is_back(
    database: str, clock: ServerClock, sql: asyncpg.Connection, before: int
) -> None:
    """what is stored while the server's clock is hours back is not passed by, also where a handler was not there, and
    has pages to read of the time before
    """
    await clock.set(CHANGES[0])
    await maintain_once(database, RetentionSettings())
    await prepared(sql, [writer])
    async with running(database, writer):
        await store(sql, 10)
        await value(sql, COUNT, 10, "writer")
    await store(sql, before)
    await clock.jump(-3 * HOUR)
    await store(sql, 2000)
    await maintain_once(database, RetentionSettings())
    await clock.jump(3 * HOUR)
    async with running(database, writer):
        await store(sql, 10)
        await value(sql, COUNT, before + 2020, "writer")
    assert await sql.fetchval(TWICE) == 0


async def test_a_worker_is_killed_and_the_servers_clock_goes_back(
    database: str, sql: asyncpg.Connection, clock: ServerClock
) -> None:
    """the shards of a killed worker wait for as long as the clock has gone back, and others' do not"""
    await prepared(sql, [writer, second])
    killed = start(database, writer)
    await value(sql, "SELECT count(owner) FROM cursors", 64)
    await clock.jump(-HOUR / 2)
    await killed.kill()
    async with running(database, writer, second):
        await store(sql, 20)
        await value(sql, COUNT, 20, "second")
        assert await sql.fetchval(COUNT, "writer") == 0
        await clock.jump(HOUR / 2)
        await value(sql, COUNT, 20, "writer")


async def post(url: str, played: Played, *, run: str) -> int:
    """One event; the status of the answer."""
    (one,) = played.posts(EventType.DELIVERED, "ann@one.test", run=run)
    async with httpx.AsyncClient(base_url=url) as client:
        answer = await client.post(f"/webhooks/{played.source.name}", content=one.body, headers=dict(one.headers))
    return answer.status_code


HANDLER: Final = """
from receiver import Context, Event, handler


@handler(first_delay=0.05, breaker=0)
async def second(event: Event, ctx: Context) -> None:
    await ctx.sql.execute("INSERT INTO effects VALUES ('second', $1)", event.id)
    if ctx.attempt == 1:
        raise ValueError("the first time")
"""


@pytest.mark.usefixtures("clock")
async def test_our_own_clock_jumps(database: str, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """a day ahead and then a day back, in a zone whose clocks change, a process that serves keeps its leases, handles
    and tries again, and stores under the server's time; what is signed with a time it takes for too old or too new
    """
    postmark, resend, shift = play("postmark", tmp_path), play("resend", tmp_path), tmp_path / "ahead"
    shift.write_text("0")
    async with site(tmp_path, database, postmark, resend) as running:
        (running.directory / "handlers" / "second.py").write_text(HANDLER)
        web = running.process("serve", program=("tests.shifted", str(shift)), TZ=ZONE)
        await web.start()
        await running.serving(web)
        await value(sql, "SELECT count(owner) FROM cursors", 64)
        began, epochs = await sql.fetchval("SELECT public.now()"), await sql.fetchval(EPOCHS)
        for ahead in (0, 86_400, -86_400):
            shift.write_text(str(ahead))
            assert await post(running.url, postmark, run=str(ahead)) == 200
            assert await post(running.url, resend, run=str(ahead)) == (401 if ahead else 200)
        taken = await sql.fetchval("SELECT max(lease_until) FROM cursors")
        await value(sql, "SELECT min(lease_until) > $1 FROM cursors", True, taken)
        await value(sql, COUNT, 4, "second")
        assert await sql.fetchval(EPOCHS) == epochs
    times = await sql.fetchrow(
        "SELECT min(received_at), max(received_at), public.now(), count(accepted_at) FROM events"
    )
    assert times is not None
    assert began <= times[0] <= times[1] <= times[2]
    assert times[3] == 0
    assert [row[0] for row in await sql.fetch("SELECT kind FROM quarantine")] == ["stale", "stale"]


async def test_a_jump_is_no_silence(database: str, sql: asyncpg.Connection, clock: ServerClock, tmp_path: Path) -> None:
    """a source is not taken for silent because the server's clock has jumped ahead, but because time has passed"""
    postmark = play("postmark", tmp_path, expect_every="15m")
    seen, silent = "SELECT max(seen_at) FROM source_activity", "SELECT count(*) FROM alerts WHERE kind = 'silence'"
    async with serving(database, postmark, alerts=AlertSettings(), watch_every=0.02) as service:
        assert await post(service.url, postmark, run="r") == 200
        await value(sql, "SELECT count(last_event_at) FROM source_activity", 1)
        for minutes in (120, *[1] * 17):
            assert await sql.fetchval(silent) == 0
            await clock.jump(timedelta(minutes=minutes))
            for _ in range(3):  # looks that have begun and ended since
                await value(sql, f"SELECT ({seen}) > $1", True, await sql.fetchval(seen))
            if minutes == 1 and await sql.fetchval(silent):
                break
        else:
            pytest.fail("the silence was not noticed")
