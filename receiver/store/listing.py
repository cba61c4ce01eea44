"""Contacts with what they have said, for lists and exports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

import asyncpg

from receiver.store.sql import Sql

_PAGE: Final = 2000  # rows that are fetched from the cursor at once

_SELECT: Final = """
SELECT c.id, coalesce(c.display_address, c.address) AS address, c.external_id, c.name, c.locale, c.time_zone, c.tags,
       c.attributes::text AS attributes, c.created_at,
       coalesce((SELECT jsonb_object_agg(s.topic, s.state)
                 FROM subscriptions s WHERE s.address_hash = c.address_hash), '{}')::text AS topics
FROM contacts c
"""
_KEYS: Final = "SELECT DISTINCT key FROM contacts c, jsonb_object_keys(c.attributes) AS key"
_TOPICS: Final = "SELECT DISTINCT s.topic FROM contacts c JOIN subscriptions s ON s.address_hash = c.address_hash"


async def newest(sql: Sql, where: str, values: Sequence[object], *, limit: int) -> list[asyncpg.Record]:
    """The contacts that fulfil a condition on `contacts c` and were made last."""
    return await sql.fetch(f"{_SELECT} WHERE {where} ORDER BY c.id DESC LIMIT {limit:d}", *values)


async def columns(sql: Sql, where: str, values: Sequence[object]) -> tuple[list[str], list[str]]:
    """The attributes that any of them has, and the topics that any of them has said something about."""
    keys = await sql.fetch(f"{_KEYS} WHERE {where} ORDER BY 1", *values)
    topics = await sql.fetch(f"{_TOPICS} WHERE {where} ORDER BY 1", *values)
    return [row[0] for row in keys], [row[0] for row in topics]


async def everybody(
    connection: asyncpg.Connection, where: str, values: Sequence[object]
) -> AsyncIterator[asyncpg.Record]:
    """All that fulfil it, by a cursor of the server. Within a transaction."""
    async for row in connection.cursor(f"{_SELECT} WHERE {where} ORDER BY c.id", *values, prefetch=_PAGE):
        yield row
