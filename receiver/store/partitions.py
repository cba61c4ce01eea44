"""Partitions of `events`, made ahead of time: one a month.

They are created stand-alone and then attached: creating one in place takes a lock that waits for every open SELECT on
`events`, and ingest would queue behind it. There is no DEFAULT partition, because it forbids `DETACH CONCURRENTLY`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import asyncpg

AHEAD: Final = 2  # months that exist beyond the current one
_LOCK: Final = 0x0E_7E_47_5D
_NOW: Final = "SELECT now()"
_NAMES: Final = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass"


async def ensure_partitions(connection: asyncpg.Connection, *, ahead: int = AHEAD) -> list[str]:
    """Make the partitions of this month and the `ahead` next ones, by Postgres's clock; returns those made.

    Safe when several processes do it at once. May raise LockNotAvailableError: try again later.
    """
    now = await connection.fetchval(_NOW)
    wanted = [_month(now, offset) for offset in range(ahead + 1)]
    existing = {row[0] for row in await connection.fetch(_NAMES)}
    made = []
    for start, end in zip(wanted, [*wanted[1:], _month(now, ahead + 1)], strict=True):
        name = f"events_{start:%Y%m}"
        if name not in existing and await _make(connection, name, start, end):
            made.append(name)
    return made


def _month(now: datetime, offset: int) -> datetime:
    months = now.astimezone(UTC).year * 12 + now.astimezone(UTC).month - 1 + offset
    return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)


async def _make(connection: asyncpg.Connection, name: str, start: datetime, end: datetime) -> bool:
    bounds = f"'{start:%Y-%m-%d %H:%M:%S+00}', '{end:%Y-%m-%d %H:%M:%S+00}'"
    low, high = bounds.split(", ")
    async with connection.transaction():
        await connection.execute("SET LOCAL lock_timeout = '3s'")
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        if await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", name):
            return False
        await connection.execute(f"CREATE TABLE {name} (LIKE events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
        await connection.execute(f"ALTER TABLE events ATTACH PARTITION {name} FOR VALUES FROM ({low}) TO ({high})")
    return True
