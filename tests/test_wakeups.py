"""Workers of other processes are woken by a commit, and look by themselves where nothing wakes them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import asyncpg
import pytest

from receiver import Context, Event, Handler, handler
from receiver.event import EventType
from tests import service
from tests.pgbouncer import POOLED
from tests.service import Played, play
from tests.workers import prepared, running, true, value

NEVER: Final = 3600.0  # seconds between two looks of a worker's own
LISTENING: Final = "FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
HELD: Final = "SELECT count(*) FROM cursors WHERE owner IS NOT NULL"

listens = pytest.mark.skipif(POOLED, reason="in transaction mode a pooler gives nobody a connection to listen on")


class Seen:
    """The recipients that a handler got."""

    def __init__(self) -> None:
        self.recipients: list[str | None] = []

    def handler(self) -> Handler:
        @handler(name="seen", tests=True, machines=True)
        async def see(event: Event, _ctx: Context) -> None:
            self.recipients.append(event.recipient)

        return see

    async def has(self, *recipients: str) -> None:
        await true(lambda: self.recipients == list(recipients))


async def deliver(web: service.Running, played: Played, *recipients: str) -> None:
    for recipient in recipients:
        (post,) = played.posts(EventType.DELIVERED, recipient, run=recipient)
        assert (await web.post(played.source.name, post)).status_code == 200


@listens
async def test_a_commit_wakes_workers_of_other_processes(
    database: str, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """an event that a process without handlers stores is handled at once by a worker that never looks by itself"""
    sendgrid, seen = play("sendgrid", tmp_path), Seen()
    await prepared(sql, [seen.handler()])
    async with service.running(database, sendgrid) as web, running(database, seen.handler(), poll=(NEVER, NEVER)):
        await value(sql, HELD, 64)
        await value(sql, f"SELECT count(*) {LISTENING}", 1)
        await deliver(web, sendgrid, "a@one.test")
        await seen.has("a@one.test")
        await deliver(web, sendgrid, "b@one.test")  # by now nothing but the announcement wakes it
        await seen.has("a@one.test", "b@one.test")


@listens
async def test_a_lost_listener_comes_back(database: str, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """a worker whose listening connection is cut listens again, and looks for what it has not heard of meanwhile"""
    sendgrid, seen = play("sendgrid", tmp_path), Seen()
    await prepared(sql, [seen.handler()])
    async with service.running(database, sendgrid) as web, running(database, seen.handler(), poll=(NEVER, NEVER)):
        await value(sql, HELD, 64)
        await value(sql, f"SELECT count(*) {LISTENING}", 1)
        await deliver(web, sendgrid, "a@one.test")
        await seen.has("a@one.test")
        assert await sql.fetchval(f"SELECT pg_terminate_backend(pid, 5000) {LISTENING}")
        await deliver(web, sendgrid, "b@one.test")
        await seen.has("a@one.test", "b@one.test")
        await deliver(web, sendgrid, "c@one.test")
        await seen.has("a@one.test", "b@one.test", "c@one.test")


async def test_without_listening_polling_does_it(database: str, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """where no announcement arrives, events are handled at the next look"""
    sendgrid, seen = play("sendgrid", tmp_path), Seen()
    await prepared(sql, [seen.handler()])
    # Announcements are refused, as by a server whose queue of them is full.
    await sql.execute("""
        CREATE FUNCTION public.pg_notify(text, text) RETURNS void LANGUAGE plpgsql
        AS 'BEGIN RAISE program_limit_exceeded; END'
    """)
    await sql.execute(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog',"
        " current_database()); END $$"
    )
    async with service.running(database, sendgrid) as web, running(database, seen.handler(), poll=(0.05, 0.2)):
        await deliver(web, sendgrid, "a@one.test", "b@one.test")
        await true(lambda: sorted(map(str, seen.recipients)) == ["a@one.test", "b@one.test"])
