"""Segments in SQL: stored filters, and the contacts that fulfil a condition."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final

import asyncpg

from receiver.errors import ReceiverError
from receiver.store.sql import Sql

PATIENCE: Final = timedelta(seconds=30)  # of somebody who looks at a preview
_PAGE: Final = 1000  # contacts fetched at a time

_LIST: Final = (
    'SELECT name, title, filter::text AS filter, created_at, updated_at FROM segments ORDER BY name COLLATE "C"'
)
_GET: Final = "SELECT name, title, filter::text AS filter, created_at, updated_at FROM segments WHERE name = $1"
_SAVE: Final = """
INSERT INTO segments AS s (name, title, filter) VALUES ($1, coalesce($2, ''), $3::jsonb)
ON CONFLICT (name) DO UPDATE SET title = coalesce($2, s.title), filter = excluded.filter, updated_at = now()
RETURNING xmax = 0
"""
_DELETE: Final = "DELETE FROM segments WHERE name = $1"

_COLUMNS: Final = """
c.id, c.address, c.address_hash, c.external_id, c.name, c.locale, c.time_zone, c.tags, c.attributes::text AS attributes,
c.created_at, c.last_delivered_at, c.last_opened_at, c.last_clicked_at
"""


class TooSlow(ReceiverError):
    """The question took longer than it was allowed to."""


async def list_segments(sql: Sql) -> list[asyncpg.Record]:
    """(name, title, filter as JSON text, created_at, updated_at), by name."""
    return await sql.fetch(_LIST)


async def get_segment(sql: Sql, name: str) -> asyncpg.Record | None:
    """As a row of `list_segments`, or None."""
    return await sql.fetchrow(_GET, name)


async def save_segment(sql: Sql, name: str, filter_: str, title: str | None = None) -> bool:
    """Store a filter (JSON text) under a name; a title of None stays as it is. Whether the segment is new."""
    return bool(await sql.fetchval(_SAVE, name, title, filter_))


async def delete_segment(sql: Sql, name: str) -> bool:
    """Whether there was one of this name."""
    return await sql.execute(_DELETE, name) == "DELETE 1"


@asynccontextmanager
async def looking(connection: asyncpg.Connection, patience: timedelta = PATIENCE) -> AsyncIterator[None]:
    """A transaction that changes nothing and in which no statement may take longer. Raises TooSlow when one did."""
    try:
        async with connection.transaction(readonly=True):
            await connection.execute(
                "SELECT set_config('statement_timeout', $1, true)", str(int(patience.total_seconds() * 1000))
            )
            yield
    except asyncpg.QueryCanceledError as error:
        raise TooSlow(f"it took longer than {patience.total_seconds():g} s to find the contacts") from error


async def count(sql: Sql, where: str, values: Sequence[object]) -> int:
    """How many contacts fulfil a condition on `contacts c`."""
    found: Any = await sql.fetchval(f"SELECT count(*) FROM contacts c WHERE {where}", *values)
    return int(found)


async def page(sql: Sql, where: str, values: Sequence[object], *, after: int, limit: int) -> list[asyncpg.Record]:
    """The contacts that fulfil it and whose id is above `after`, by id."""
    number = len(values) + 1
    query = f"""
        SELECT {_COLUMNS} FROM contacts c
        WHERE c.id > ${number}::bigint AND {where} ORDER BY c.id LIMIT ${number + 1}::bigint
    """
    return await sql.fetch(query, *values, after, limit)


async def members(
    connection: asyncpg.Connection, where: str, values: Sequence[object]
) -> AsyncIterator[asyncpg.Record]:
    """All that fulfil it at one moment, in no order, a page in memory at a time. Within a transaction."""
    async for row in connection.cursor(f"SELECT {_COLUMNS} FROM contacts c WHERE {where}", *values, prefetch=_PAGE):
        yield row
