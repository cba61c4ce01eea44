"""`receiver retention`, and a run of it that is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from receiver.retention_settings import RetentionSettings
from receiver.store import forecast
from receiver.store.log import create_cursors
from tests.aged import (
    aged_database,
    connected,
    count,
    names,
    old_partition,
)
from tests.cli import Receiver, command
from tests.waiting import until


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
def receiver(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: str
) -> Receiver:
    """The command line on the test's database; events are kept 90 days."""
    for name in [name for name in os.environ if name.startswith("RECEIVER_") and "TEST" not in name]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("RECEIVER_RETENTION__EVENTS", "90d")
    return command(capsys)


async def test_a_run_that_was_killed_is_finished_later(
    database: str, connection: asyncpg.Connection, other: asyncpg.Connection, receiver: Receiver, tmp_path: Path
) -> None:
    """after kill -9 in the middle of a drop another process takes over once the lease has run out, and drops it."""
    old = await old_partition(connection, 100)
    transaction = other.transaction()
    await transaction.start()
    await count(other, old.name)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "receiver", "retention", "run", "--yes"),
        env={**os.environ, "DATABASE_URL": database, "PYTHONPATH": str(Path(__file__).parents[1])},
        cwd=tmp_path,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )

    async def dropping() -> bool:
        waits = f"NOT granted AND {other.get_server_pid()} = ANY (pg_blocking_pids(pid))"  # tests share a server
        return bool(await count(connection, f"pg_locks WHERE {waits}"))

    await until(dropping)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await transaction.rollback()
    assert await count(connection) == 10
    busy = await receiver("retention", "run", "--yes")
    assert busy.code == 1
    assert "runs already" in busy.err
    await connection.execute("UPDATE tasks SET lease_until = '-infinity'")
    done = await receiver("retention", "run", "--yes")
    assert done.code == 0, done.err
    assert old.name in done.out
    assert await connection.fetchval("SELECT to_regclass($1)", old.name) is None
    assert await count(connection) == 0


async def test_the_status_says_what_would_go(connection: asyncpg.Connection, receiver: Receiver) -> None:
    """`receiver retention` shows rules, sizes, what would go, and who holds what back."""
    old = await old_partition(connection, 100)
    shown = await receiver("retention", "--json")
    assert shown.code == 0, shown.err
    rows = {row["part"]: row for row in shown.rows}
    assert (rows["events"]["rows"], rows["events"]["going_rows"], rows["events"]["keep_days"]) == (10, 10, 90)
    assert rows["events"]["going_bytes"] > 0
    assert rows["ids"]["keep_days"] == 45
    await create_cursors(connection, ["x"])
    await connection.execute("UPDATE cursors SET txid = '1', position = 0, read_from = '2001-01-01'")
    table = await receiver("retention")
    assert f"{old.name} is kept for now: handler x has not read all of it" in table.err
    assert "critical: x still needs an event received 100 days ago" in table.err
    assert "quarantine, open" in table.out
    assert "forever" in table.out
    held = {row["part"]: row for row in (await receiver("retention", "list", "--json")).rows}
    assert held["events"]["going_rows"] == 0
    assert held["events"]["held"] == [{"partition": old.name, "handler": "x", "why": "has not read all of it"}]


async def test_nothing_goes_unasked(connection: asyncpg.Connection, receiver: Receiver) -> None:
    """a dry run and a run that nobody confirms remove nothing; --yes does, and audit_log says who did it."""
    old = await old_partition(connection, 100)
    dry = await receiver("retention", "run", "--dry-run")
    assert dry.code == 0
    assert "10 rows and the raw of 0 events" in dry.err
    asked = await receiver("retention", "run")
    assert asked.code == 1
    assert "--yes" in asked.err
    assert old.name in await names(connection)
    done = await receiver("retention", "run", "--yes")
    assert done.code == 0, done.err
    assert f"rows of {old.name} removed" in done.out
    assert await count(connection) == 0
    assert await connection.fetchval("SELECT subject FROM audit_log") == f"events of {old.name}"
    again = await receiver("retention", "run", "--json")
    assert (again.code, again.rows) == (0, [])


async def test_what_a_sample_misses_is_asked_for_too(
    connection: asyncpg.Connection, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """where a sample of a large table shows nothing that is too old, and there is something, it is announced."""
    await old_partition(connection, 100)
    await connection.execute(
        "INSERT INTO refused (source, reason, detail, size, headers, body, refused_at)"
        " VALUES ('s', 'stale', '', 1, '', '', now() - interval '1 year')"
    )
    monkeypatch.setattr(forecast, "SAMPLED", 1e-9)
    dry = await receiver("retention", "run", "--dry-run", "--json")
    assert {row["part"] for row in dry.rows if row["going_rows"]} == {"events", "refused"}
    asked = await receiver("retention", "run")
    assert "to be removed for good: 2 rows" in asked.err
    assert (asked.code, await count(connection), await count(connection, "refused")) == (1, 10, 1)


async def test_the_forecast_follows_the_growth(connection: asyncpg.Connection) -> None:
    """growth a day is that of the last weeks; a rule bounds the size, without one it grows on."""
    for days in range(1, 21):
        await old_partition(connection, days, 100)
    rules = RetentionSettings(events=timedelta(days=10))
    events = (await forecast.parts(connection, rules))[0]
    assert events.daily_rows == pytest.approx(100, rel=0.06)
    days = (events.slack + timedelta(days=10)).days
    assert events.steady == pytest.approx(days * events.daily_bytes, abs=1)
    assert events.after(365) == events.steady
    unbounded = (await forecast.parts(connection, RetentionSettings()))[0]
    assert unbounded.steady is None
    assert unbounded.after(90) == pytest.approx(unbounded.bytes + 90 * unbounded.daily_bytes, abs=1)


async def test_all_is_all(connection: asyncpg.Connection, receiver: Receiver) -> None:
    """the parts come to the size of the whole database, and what grows outside of the log is in the growth of all."""
    await old_partition(connection, 10, 100)
    before = {row["part"]: row for row in (await receiver("retention", "--json")).rows}
    assert before["everything else"]["daily_bytes"] == 0
    await connection.execute(
        """
        CREATE TABLE of_a_handler AS SELECT md5(n::text) FROM generate_series(1, 50000) AS n;
        UPDATE schema_versions SET applied_at = applied_at - interval '10 days';
        INSERT INTO dead_letters (handler, event_id, event, event_type, source, attempts, error_type, error, traceback)
        SELECT 'h', gen_random_uuid(), '{}', 't', 's', 1, 'E', '', string_agg(md5(n::text || m::text), '')
        FROM generate_series(1, 500) AS n, generate_series(1, 100) AS m GROUP BY n;
        INSERT INTO attempts (handler, event_id, attempt, error_type, error, worker, traceback, dead_letter_id)
        SELECT handler, event_id, 1, 'E', '', 'w', traceback, id FROM dead_letters;
        """
    )
    size = await connection.fetchval("SELECT pg_database_size(current_database())")
    rows = {row["part"]: row for row in (await receiver("retention", "--json")).rows}
    assert sum(row["bytes"] for row in rows.values()) == pytest.approx(size, rel=0.01)
    for part, table, days in (
        ("dead letters, open", "dead_letters", 1),
        ("attempts, in use", "attempts", 1),
        ("everything else", "of_a_handler", 10),
    ):
        grown = await connection.fetchval("SELECT pg_total_relation_size($1::text::regclass)", table)
        assert grown > 1_500_000
        assert rows[part]["daily_bytes"] == pytest.approx(grown / days, rel=0.02)
    (*_, shown, daily) = [line.split() for line in (await receiver("retention")).out.splitlines() if line[:3] == "all"]
    assert (shown[2], daily[2], daily[-1]) == ("MB", "MB", "grows")
    assert float(shown[1]) == pytest.approx(size / 1024**2, rel=0.01)
    assert 3 < float(daily[1]) < 6


async def test_a_large_partition_is_measured_by_a_sample(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """a table with many blocks is measured by some of them, and the rows are about right."""
    await old_partition(connection, 10, 20_000)
    monkeypatch.setattr(forecast, "SAMPLED", 200)
    measured = [(await forecast.parts(connection, RetentionSettings()))[0].rows for _ in range(5)]
    assert measured == [pytest.approx(20_000, rel=0.4)] * 5
    assert len(set(measured)) > 1
