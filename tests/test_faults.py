"""Processes and servers that die under load: what was answered with success is there exactly once, and was handled."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from receiver.contract import Post
from receiver.event import EventType
from tests.postgres import Cluster
from tests.processes import Load, Site, site
from tests.service import Played, play
from tests.waiting import until

HANDLER: Final = """
import asyncio
from collections.abc import Callable, Sequence
from receiver import Context, Event, handler


@handler(batch=True, tests=True, machines=True)
async def ledger(events: Sequence[Event], ctx: Context) -> None:
    await ctx.sql.execute("INSERT INTO ledger (id) SELECT unnest($1::uuid[])", [event.id for event in events])
    await asyncio.sleep(0.02)


@handler(tests=True, machines=True)
async def single(event: Event, ctx: Context) -> None:
    await ctx.sql.execute("INSERT INTO single_ledger (id) VALUES ($1)", event.id)
"""


def posts(played: Played, count: int) -> Sequence[Post]:
    return [played.posts(EventType.DELIVERED, f"u{number}@one.test", run=f"n{number}")[0] for number in range(count)]


async def prepared(dsn: str, running: Site) -> asyncpg.Connection:
    (running.directory / "handlers" / "ledger.py").write_text(HANDLER)
    connection = await asyncpg.connect(dsn)
    # No unique key: an effect that happens twice must show.
    await connection.execute("CREATE TABLE ledger (id uuid); CREATE TABLE single_ledger (id uuid)")
    return connection


async def count(connection: asyncpg.Connection, what: str) -> int:
    found: int = await connection.fetchval(f"SELECT count({what})")
    return found


async def check_all_once(dsn: str, total: int) -> None:
    """Every event is stored once, and each handler's effect is there once for each event."""
    connection = await asyncpg.connect(dsn)
    try:
        assert await connection.fetchval("SELECT count(*) FROM events") == total
        assert await connection.fetchval("SELECT count(DISTINCT id) FROM events") == total

        for table in ("ledger", "single_ledger"):

            async def handled(table: str = table) -> bool:
                return bool(await connection.fetchval(f"SELECT count(*) >= {total} FROM {table}"))

            await until(handled, within=60)
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == total
            assert await connection.fetchval(f"SELECT count(DISTINCT id) FROM {table}") == total
        assert await connection.fetchval("SELECT count(*) FROM dead_letters") == 0
    finally:
        await connection.close()


async def test_a_killed_web_process_loses_nothing_it_acknowledged(database: str, tmp_path: Path) -> None:
    """kill -9 of the web process under load: every delivery ends in the table once, and every handler has seen it."""
    sendgrid = play("sendgrid", tmp_path)
    async with site(tmp_path, database, sendgrid) as running:
        connection = await prepared(database, running)
        await connection.close()
        serve = running.process("serve")
        await serve.start()
        await running.serving(serve)
        load = Load(f"{running.url}/webhooks/sendgrid", posts(sendgrid, 400))
        loading = asyncio.create_task(load.run())
        for goal in (80, 200):

            async def reached(goal: int = goal) -> bool:
                return load.succeeded >= goal

            await until(reached, within=60)
            assert await serve.end(signal.SIGKILL) == -signal.SIGKILL
            await serve.start()
        await asyncio.wait_for(loading, 120)
        assert load.failed > 0  # the kills were felt
        await check_all_once(database, 400)
        assert await serve.end(signal.SIGTERM) == 0


async def test_a_killed_worker_is_replaced_and_repeats_nothing(database: str, tmp_path: Path) -> None:
    """kill -9 of a worker in the middle of batches: another takes over, each effect is in the database once."""
    sendgrid = play("sendgrid", tmp_path)
    async with site(tmp_path, database, sendgrid) as running:
        connection = await prepared(database, running)
        web = running.process("serve", "--no-dispatch")
        workers = [running.process("work") for _ in range(2)]
        for process in (web, *workers):
            await process.start()
        await running.serving(web)
        loading = asyncio.create_task(Load(f"{running.url}/webhooks/sendgrid", posts(sendgrid, 400)).run())
        for number, worker in enumerate(workers):

            async def some(least: int = 40 + 80 * number) -> bool:
                return bool(await connection.fetchval(f"SELECT count(*) >= {least} FROM ledger"))

            await until(some, within=60)
            await worker.end(signal.SIGKILL)
            await worker.start()
        await asyncio.wait_for(loading, 120)
        await connection.close()
        await check_all_once(database, 400)


@pytest.mark.parametrize("end", [Cluster.kill, Cluster.stop])
async def test_a_crash_or_restart_of_postgres_loses_nothing(
    own_cluster: Cluster, tmp_path: Path, end: Callable[[Cluster], None]
) -> None:
    """a crash or restart of Postgres under load: every acknowledged delivery is stored once and handled."""
    sendgrid = play("sendgrid", tmp_path)
    async with site(tmp_path, own_cluster.dsn, sendgrid) as running:
        connection = await prepared(own_cluster.dsn, running)
        serve, worker = running.process("serve", "--no-dispatch"), running.process("work")
        for process in (serve, worker):
            await process.start()
        await running.serving(serve)
        load = Load(f"{running.url}/webhooks/sendgrid", posts(sendgrid, 300))
        loading = asyncio.create_task(load.run())

        async def some() -> bool:
            """Both are at work: a process that finds no database at its start ends."""
            return load.succeeded >= 80 and bool(await connection.fetchval("SELECT EXISTS (SELECT FROM ledger)"))

        await until(some, within=60)
        await connection.close()
        end(own_cluster)
        await asyncio.sleep(0.5)
        own_cluster.start()
        await asyncio.wait_for(loading, 120)
        assert serve.running, serve.log()
        assert worker.running, worker.log()
        await check_all_once(own_cluster.dsn, 300)
