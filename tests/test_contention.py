"""Other transactions in the way of ingest: only who meets them waits, and groups are groups."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg

from receiver.contract import Post
from receiver.event import EventType
from receiver.ingest.normalize import row_of
from receiver.payload import item_from_value
from receiver.store import intake, wire
from tests.service import PRIVACY, Played, Running, play, running
from tests.tcp_proxy import proxied
from tests.test_overload import impatient
from tests.waiting import until


def posts(played: Played, count: int, run: str) -> Sequence[Post]:
    return [played.posts(EventType.CLICKED, f"u{number}@one.test", run=f"{run}{number}")[0] for number in range(count)]


async def metric(service: Running, name: str) -> float:
    text = (await service.client.get(f"{service.admin_url}/metrics")).text
    found = re.search(rf"^{name} (.+)$", text, re.MULTILINE)
    assert found is not None, f"{name} is not among the metrics"
    return float(found[1])


async def test_only_who_meets_a_foreign_transaction_waits(database: str, tmp_path: Path) -> None:
    """ids that another transaction holds make their requests wait, and nobody else's; then they are stored once."""
    resend = play("resend", tmp_path)
    held, free = posts(resend, 12, "held"), posts(resend, 60, "free")
    async with running(database, resend) as service:
        for post in held:
            assert (await service.post("resend", post)).status_code == 200
        ids = [(row[0],) for row in await service.connection.fetch("DELETE FROM event_ids RETURNING id")]
        await service.connection.execute("TRUNCATE events")
        foreign = await asyncpg.connect(database)
        transaction = foreign.transaction()
        await transaction.start()
        await foreign.executemany("INSERT INTO event_ids (id) VALUES ($1)", ids)
        waiting = [asyncio.create_task(service.post("resend", post)) for post in held]
        for start in range(0, len(free), 20):
            answers = await asyncio.gather(*(service.post("resend", post) for post in free[start : start + 20]))
            assert {answer.status_code for answer in answers} == {200}
        assert not any(task.done() for task in waiting)
        await transaction.rollback()
        await foreign.close()
        assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}
        assert await service.count("events") == len(held) + len(free)


async def test_a_lock_on_the_whole_table_is_waited_out(database: str, tmp_path: Path) -> None:
    """while somebody locks the table, requests are held; when the lock goes, all of them are stored."""
    resend = play("resend", tmp_path)
    async with running(database, resend) as service:
        foreign = await asyncpg.connect(database)
        transaction = foreign.transaction()
        await transaction.start()
        await foreign.execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
        waiting = [asyncio.create_task(service.post("resend", post)) for post in posts(resend, 40, "r")]
        await until(lambda: _writer_waits(service))
        assert not any(task.done() for task in waiting)
        await transaction.rollback()
        await foreign.close()
        assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}
        assert await service.count("events") == 40


async def _writer_waits(service: Running) -> bool:
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'events'::regclass"
    return bool(await service.connection.fetchval(waiting))


async def test_a_request_that_waits_too_long_is_told_to_come_again(database: str, tmp_path: Path) -> None:
    """a request whose ids stay locked until its provider's patience ends gets the "try again" code, and a row later."""
    resend = impatient(play("resend", tmp_path))
    (post,) = posts(resend, 1, "r")
    async with running(database, resend) as service:
        assert (await service.post("resend", post)).status_code == 200
        id_ = await service.connection.fetchval("DELETE FROM event_ids RETURNING id")
        await service.connection.execute("TRUNCATE events")
        foreign = await asyncpg.connect(database)
        transaction = foreign.transaction()
        await transaction.start()
        await foreign.execute("INSERT INTO event_ids (id) VALUES ($1)", id_)
        assert (await service.post("resend", post)).status_code == 503
        await transaction.rollback()
        await foreign.close()
        assert (await service.post("resend", post)).status_code == 200
        assert await service.count("events") == 1


async def test_who_waits_at_the_same_time_shares_a_transaction(database: str, tmp_path: Path) -> None:
    """sixty requests that arrive while the database does not answer are committed in a few transactions."""
    resend = play("resend", tmp_path)
    async with proxied(database) as (proxy, dsn), running(dsn, resend, connection_dsn=database) as service:
        first, *others = posts(resend, 61, "r")
        assert (await service.post("resend", first)).status_code == 200
        before = await metric(service, "receiver_commit_seconds_count")
        proxy.passing.clear()
        waiting = [asyncio.create_task(service.post("resend", post)) for post in others]
        await until(lambda: _waiting(service, 40))
        proxy.passing.set()
        assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}
        assert await metric(service, "receiver_commit_seconds_count") - before <= 6
        assert await service.count("events") == 61


async def _waiting(service: Running, least: int) -> bool:
    return await metric(service, "receiver_waiting_rows") >= least


async def test_the_same_events_in_opposite_order_do_not_deadlock(database: str, tmp_path: Path) -> None:
    """two transactions that store the same events at once, in opposite orders, never wait for each other in a ring."""
    sendgrid = play("sendgrid", tmp_path)
    source, at = sendgrid.source, datetime.now(UTC)
    occurrences = sendgrid.occurrences(EventType.DELIVERED, *(f"u{number}@one.test" for number in range(40)))
    items = [item_from_value(source.provider.simulation.sample(occurrence)) for occurrence in occurrences]
    rows = [row_of(source, item, reading, at) for item in items for reading in source.provider.read(item)]
    one, other = await asyncpg.connect(database), await asyncpg.connect(database)
    try:
        # Each row takes its time, so that the two surely meet.
        await one.execute("""
            CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql
            AS 'BEGIN PERFORM pg_sleep(0.005); RETURN NEW; END';
            CREATE TRIGGER dawdle BEFORE INSERT ON event_ids FOR EACH ROW EXECUTE FUNCTION dawdle()
        """)
        await wire.prepare(one)
        await wire.prepare(other)
        new = await asyncio.gather(
            intake.write(one, rows, (), lock_timeout=10_000, privacy=PRIVACY),
            intake.write(other, rows[::-1], (), lock_timeout=10_000, privacy=PRIVACY),
        )
    finally:
        await one.close()
        await other.close()
    assert sorted(map(len, new)) == [0, 40]


async def test_a_stop_while_the_database_is_silent_ends(database: str, tmp_path: Path) -> None:
    """a stop does not wait for a database that says nothing any more; who waited is told to come again."""
    resend = impatient(play("resend", tmp_path))
    first, second = posts(resend, 2, "r")
    async with proxied(database) as (proxy, dsn):
        async with running(dsn, resend, connection_dsn=database) as service:
            assert (await service.post("resend", first)).status_code == 200
            proxy.passing.clear()
            waiting = asyncio.create_task(service.post("resend", second))
            await until(lambda: _waits(service, waiting))
            service.stop.set()
            assert (await waiting).status_code == 503
        proxy.passing.set()


async def _waits(service: Running, request: asyncio.Task[Any]) -> bool:
    """Or has waited, on a busy machine; the writer does so still."""
    return request.done() or await metric(service, "receiver_in_flight_bytes") > 0
