"""Databases with old events, for tests of retention."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg
import pytest

from receiver.retention_settings import RetentionSettings
from receiver.store import retention, table_locks
from receiver.store.log import create_cursors
from receiver.store.partitions import Partition, Span, attach, list_partitions
from receiver.store.steps import Done, Progress
from tests.log_events import store
from tests.waiting import until

NINETY: Final = timedelta(days=90)
EVENTS: Final = RetentionSettings(events=NINETY)
RAW: Final = RetentionSettings(raw=NINETY)


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def aged_database(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database whose partitions begin today, so that each test makes older ones as it likes."""
    async with connected(dsn) as connection:
        for one in await list_partitions(connection):
            await connection.execute(f"DROP TABLE {one.name}")
        await partition_of(connection, "events_now", Span(midnight(0), midnight(-60)))
        yield connection


def make_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention gives up on a lock after two short attempts."""
    monkeypatch.setattr(table_locks, "PAUSES", (0.05, 0.05))


def ago(days: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


def midnight(days: int) -> datetime:
    """The beginning of the day so many days ago."""
    return ago(days).replace(hour=0, minute=0, second=0, microsecond=0)


async def partition_of(connection: asyncpg.Connection, name: str, span: Span) -> Partition:
    await connection.execute(f"CREATE TABLE {name} (LIKE events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
    await attach(connection, name, span)
    return Partition(name, span, detaching=False)


async def old_partition(connection: asyncpg.Connection, days: int, events: int = 10, **columns: Any) -> Partition:
    """A partition of one day that began so many days ago, with events in it."""
    low = midnight(days)
    made = await partition_of(connection, f"events_{low:%Y%m%d}", Span(low, low + timedelta(days=1)))
    await store(connection, events, received_at=lambda n: low + timedelta(seconds=n), **columns)
    await settled(connection)
    return made


async def settled(connection: asyncpg.Connection) -> None:
    """Wait until what was written so far is older than all that runs in the cluster, as a cold partition's rows are.

    Tests share a server: a rewrite takes rows for changed that are younger than another database's transaction.
    """
    written = await connection.fetchval("SELECT pg_current_xact_id()")

    async def oldest() -> bool:
        statement = "SELECT pg_snapshot_xmin(pg_current_snapshot()) > $1"
        found: bool = await connection.fetchval(statement, written)
        return found

    try:
        await until(oldest, within=120)
    except AssertionError:
        running = await connection.fetch(
            "SELECT datname, application_name, state, xact_start, query FROM pg_stat_activity"
            " WHERE backend_xid IS NOT NULL ORDER BY xact_start"
        )
        raise AssertionError(f"older transactions still run: {[dict(one) for one in running]}") from None


async def run(connection: asyncpg.Connection, rules: RetentionSettings) -> list[Done]:
    """What a run reports, without its progress."""
    done: list[Done] = []

    async def report(step: Done | Progress) -> None:
        if isinstance(step, Done):
            done.append(step)

    await retention.run(connection, rules, report)
    return done


async def names(connection: asyncpg.Connection) -> set[str]:
    return {one.name for one in await list_partitions(connection)}


async def standing_here(connection: asyncpg.Connection, *handlers: str) -> None:
    """Cursors of handlers that have read all there is now, and last read something long ago."""
    await create_cursors(connection, handlers)
    await connection.execute("UPDATE cursors SET read_from = $1", ago(1000))


async def count(connection: asyncpg.Connection, table: str = "events") -> int:
    found: int = await connection.fetchval(f"SELECT count(*) FROM {table}")
    return found
