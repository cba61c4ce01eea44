"""Values that we write in Postgres's binary form ourselves are read by it as what they are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from receiver.store import wire

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
AGO, LATE = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
IDS = [UUID(int=number).bytes for number in (0, 1, 2**128 - 1)]


@pytest.mark.parametrize(
    ("type_", "written", "said"),
    [
        ("timestamptz", NOON + timedelta(microseconds=1), "2026-11-26 12:00:00.000001+00"),
        ("timestamptz", NOON.astimezone(timezone(timedelta(hours=5))), "2026-11-26 12:00:00+00"),
        ("timestamptz", AGO, "0001-01-01 00:00:00+00"),
        ("timestamptz", LATE, "9999-12-31 23:59:59.999999+00"),
        ("text[]", [], "{}"),
        ("text[]", ["", 'a "b", {c}', "naïve \N{SNOWMAN}", "NULL"], '{"","a \\"b\\", {c}","naïve \N{SNOWMAN}","NULL"}'),
        ("uuid[]", [], "{}"),
        ("uuid[]", IDS, "{" + ",".join(str(UUID(bytes=one)) for one in IDS) + "}"),
    ],
)
async def test_postgres_reads_and_says_the_same(database: str, type_: str, written: Any, said: str) -> None:
    """times and lists arrive as they are, and come back so; an array of several members may be given as a tuple."""
    connection = await asyncpg.connect(database, server_settings={"timezone": "UTC"})
    try:
        await wire.prepare(connection)
        given = tuple(written) if isinstance(written, list) else written
        row = await connection.fetchrow(f"SELECT $1::{type_}::text, $1::{type_}", given)
    finally:
        await connection.close()
    assert row is not None
    assert tuple(row) == (said, written)


@pytest.mark.parametrize("tags", [["\ud800"], [1], [[]], 1])
async def test_what_no_list_of_texts_is_leaves_the_connection_whole(database: str, tags: Any) -> None:
    """tags that cannot be written are refused before Postgres sees them, in a way that ingest takes for a bad row."""
    connection = await asyncpg.connect(database)
    try:
        await wire.prepare(connection)
        with pytest.raises((ValueError, TypeError, asyncpg.DataError)):
            await connection.copy_records_to_table("events", records=[(tags,)], columns=["tags"])
        assert await connection.fetchval("SELECT 1") == 1
    finally:
        await connection.close()
