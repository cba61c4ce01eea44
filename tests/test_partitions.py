"""Partitions of events: made ahead, found missing, attached again. What is authentic is never set aside for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import asyncpg
import pytest

from receiver.event import EventType
from receiver.store.partitions import Interval, ensure_partitions, list_partitions
from tests.service import Running, play, running
from tests.waiting import until


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def current(connection: asyncpg.Connection) -> str:
    """The partition that takes events now."""
    now = await connection.fetchval("SELECT now()")
    return next(one.name for one in await list_partitions(connection) if one.span.low <= now < one.span.high)


async def stored(service: Running) -> tuple[int, int]:
    return await service.count("events"), await service.count("quarantine")


async def test_a_partition_that_was_detached_by_hand_is_attached_again(database: str, tmp_path: Path) -> None:
    """an event whose partition was detached is stored in it, beside what it held, and nothing is quarantined."""
    resend = play("resend", tmp_path)
    async with running(database, resend) as service:
        (before,) = resend.posts(EventType.DELIVERED, "ann@one.test")
        assert (await service.post("resend", before)).status_code == 200
        name = await current(service.connection)
        await service.connection.execute(f"ALTER TABLE events DETACH PARTITION {name}")
        (after,) = resend.posts(EventType.DELIVERED, "bob@one.test", run="after")
        assert (await service.post("resend", after)).status_code == 200
        assert await current(service.connection) == name
        assert await stored(service) == (2, 0)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE {name} ADD COLUMN note text",
        "ALTER TABLE {name} DROP COLUMN subject",
        "UPDATE {name} SET received_at = received_at - interval '1 year'",
    ],
)
async def test_a_table_that_cannot_be_attached_is_left_alone(database: str, tmp_path: Path, change: str) -> None:
    """where the detached table does not fit any more, another partition takes the events."""
    resend = play("resend", tmp_path)
    async with running(database, resend) as service:
        (before,) = resend.posts(EventType.DELIVERED, "ann@one.test")
        assert (await service.post("resend", before)).status_code == 200
        name = await current(service.connection)
        await service.connection.execute(f"ALTER TABLE events DETACH PARTITION {name}")
        await service.connection.execute(change.format(name=name))
        (after,) = resend.posts(EventType.DELIVERED, "bob@one.test", run="after")
        assert (await service.post("resend", after)).status_code == 200
        assert await stored(service) == (1, 0)
        assert await service.count(name) == 1


async def test_an_interrupted_detach_is_finished_and_undone(database: str, tmp_path: Path) -> None:
    """while a detach cannot be finished providers are asked to come again; then the partition is attached again."""
    resend = play("resend", tmp_path)
    async with running(database, resend) as service, connected(database) as reader:
        name = await current(service.connection)
        transaction = reader.transaction()
        await transaction.start()
        await reader.fetch("SELECT count(*) FROM events")
        await service.connection.execute("SET lock_timeout = '100ms'")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await service.connection.execute(f"ALTER TABLE events DETACH PARTITION {name} CONCURRENTLY")
        (post,) = resend.posts(EventType.DELIVERED, "ann@one.test")
        assert (await service.post("resend", post)).status_code == 503
        assert await service.count("quarantine") == 0
        await transaction.rollback()

        async def taken() -> bool:
            return (await service.post("resend", post)).status_code == 200

        await until(taken)
        assert await current(service.connection) == name
        assert await stored(service) == (1, 0)


async def test_nothing_is_quarantined_while_no_partition_can_be_made(database: str, tmp_path: Path) -> None:
    """a missing partition that cannot be made is answered with "try again", whatever else the group holds."""
    resend = play("resend", tmp_path)
    async with running(database, resend) as service, connected(database) as other:
        for one in await list_partitions(service.connection):
            await service.connection.execute(f"DROP TABLE {one.name}")
        transaction = other.transaction()
        await transaction.start()
        await other.execute("LOCK TABLE events IN SHARE UPDATE EXCLUSIVE MODE")
        posts = [resend.posts(EventType.DELIVERED, "ann@one.test", run=f"r{n}")[0] for n in range(5)]
        answers = await asyncio.gather(*(service.post("resend", post) for post in posts))
        assert {answer.status_code for answer in answers} == {503}
        await transaction.rollback()
        for post in posts:
            assert (await service.post("resend", post)).status_code == 200
        assert await stored(service) == (5, 0)


async def test_a_future_partition_that_cannot_be_made_stops_no_start(database: str, tmp_path: Path) -> None:
    """the service starts and stores while a lock keeps it from making the partitions of later months."""
    resend = play("resend", tmp_path)
    async with connected(database) as other, other.transaction():
        await other.execute("LOCK TABLE events IN SHARE UPDATE EXCLUSIVE MODE")
        before = await list_partitions(other)
        async with running(database, resend) as service:
            (post,) = resend.posts(EventType.DELIVERED, "ann@one.test")
            assert (await service.post("resend", post)).status_code == 200
        assert await list_partitions(other) == before


@pytest.mark.parametrize(
    "steps",
    [
        [("month", 2), ("day", 120), ("week", 30)],
        [("day", 9), ("month", 3)],
        [("week", 4), ("day", 50), ("month", 5)],
    ],
)
async def test_a_new_interval_begins_where_the_last_partition_ends(
    database: str, steps: list[tuple[Interval, int]]
) -> None:
    """partitions of months, weeks and days follow each other without a gap, and none that exists is changed."""
    async with connected(database) as connection:
        known: list[str] = []
        for interval, ahead in steps:
            await ensure_partitions(connection, interval, ahead=ahead)
            spans = [one.span for one in await list_partitions(connection)]
            assert all(left.high == right.low for left, right in pairwise(spans))
            names = [one.name for one in await list_partitions(connection)]
            assert names[: len(known)] == known
            assert len(names) > len(known)
            known = names
        assert await ensure_partitions(connection, steps[-1][0], ahead=3) == []


async def test_the_first_partitions_are_as_long_as_the_settings_say(database: str, tmp_path: Path) -> None:
    """a new database has one partition of this month, and days after it where days are asked for."""
    from receiver.retention_settings import RetentionSettings

    async with running(database, play("resend", tmp_path), retention=RetentionSettings(partitions="day")) as service:
        spans = [one.span for one in await list_partitions(service.connection)]
    assert {(span.high - span.low).days for span in spans[1:]} <= {1}
