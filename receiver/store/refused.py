"""The bounded sample of refused requests."""

from __future__ import annotations

from datetime import datetime
from typing import Final, NamedTuple

import asyncpg

from receiver.store.sql import Sql

KEPT: Final = 50  # newest rows that each (source, reason) keeps

_KEEP: Final = """
    INSERT INTO refused (source, reason, detail, times, client_ip, size, headers, body, refused_at)
    VALUES ($1, $2, $3, $4, $5::inet, $6, $7, $8, $9)
"""
_TRIM: Final = """
    DELETE FROM refused WHERE source = $1 AND reason = $2 AND id < (
        SELECT min(id) FROM (SELECT id FROM refused WHERE source = $1 AND reason = $2 ORDER BY id DESC LIMIT $3) newest)
"""


_KEPT: Final = """
    SELECT id, source, reason, detail, times, host(client_ip) AS client_ip, size, headers, body, refused_at FROM refused
    WHERE source = $1 AND ($2::text IS NULL OR reason = $2) AND ($3::timestamptz IS NULL OR refused_at >= $3)
    ORDER BY id DESC LIMIT $4
"""
_REMOVE: Final = "DELETE FROM refused WHERE id = $1"


class RefusedRow(NamedTuple):
    """A row of `refused`; `headers` and `body` are encrypted already."""

    source: str
    reason: str
    detail: str
    times: int
    client_ip: str | None
    size: int
    headers: bytes
    body: bytes
    refused_at: datetime


async def keep(connection: asyncpg.Connection, row: RefusedRow) -> None:
    """Store one refused request and drop the oldest beyond the limit of its kind."""
    await connection.execute(_KEEP, *row)
    await connection.execute(_TRIM, row.source, row.reason, KEPT)


async def kept(
    sql: Sql, source: str, *, reason: str | None = None, since: datetime | None = None, limit: int = 1000
) -> list[asyncpg.Record]:
    """What is kept of a source's refused requests, newest first, with the encrypted content."""
    return await sql.fetch(_KEPT, source, reason, since, limit)


async def remove(sql: Sql, id_: int) -> None:
    """Forget one, which has been stored."""
    await sql.execute(_REMOVE, id_)
