"""Topics: what people subscribe to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg

from receiver.store.sql import Sql

_COLUMNS: Final = "name, title, description, stream, brand, double_opt_in, public, created_at, archived_at"
_LIST: Final = f"""
SELECT {", ".join(f"t.{column}" for column in _COLUMNS.split(", "))},
       coalesce(c.subscribed, 0) AS subscribed, coalesce(c.pending, 0) AS pending,
       coalesce(c.unsubscribed, 0) AS unsubscribed
FROM topics t
LEFT JOIN (
    SELECT topic, count(*) FILTER (WHERE state = 'subscribed') AS subscribed,
           count(*) FILTER (WHERE state = 'pending') AS pending,
           count(*) FILTER (WHERE state = 'unsubscribed') AS unsubscribed
    FROM subscriptions WHERE $1::text[] IS NULL OR topic = ANY ($1) GROUP BY topic
) AS c ON c.topic = t.name
WHERE ($1::text[] IS NULL OR t.name = ANY ($1)) AND ($2 OR t.archived_at IS NULL)
ORDER BY t.archived_at IS NOT NULL, t.name
"""
# What providers call lists that nobody has declared, but that people have unsubscribed from or subscribed to.
_UNDECLARED: Final = """
SELECT topic AS name, count(*) FILTER (WHERE state = 'subscribed') AS subscribed,
       count(*) FILTER (WHERE state = 'pending') AS pending,
       count(*) FILTER (WHERE state = 'unsubscribed') AS unsubscribed
FROM subscriptions s WHERE NOT EXISTS (SELECT FROM topics t WHERE t.name = s.topic) GROUP BY topic ORDER BY topic
"""
_ADD: Final = """
INSERT INTO topics (name, title, description, stream, brand, double_opt_in, public)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING RETURNING name
"""
_EDIT: Final = """
UPDATE topics SET title = coalesce($2, title), description = coalesce($3, description), stream = coalesce($4, stream),
    brand = coalesce($5, brand), double_opt_in = coalesce($6, double_opt_in), public = coalesce($7, public)
WHERE name = $1 RETURNING name
"""
_ARCHIVE: Final = """
UPDATE topics SET archived_at = CASE WHEN $2 THEN coalesce(archived_at, now()) END WHERE name = $1 RETURNING name
"""


async def topics(sql: Sql, names: Sequence[str] | None = None, *, archived: bool = True) -> list[asyncpg.Record]:
    """Topics with the number of addresses in each state; those in use first."""
    return await sql.fetch(_LIST, names if names is None else list(names), archived)


async def undeclared(sql: Sql) -> list[asyncpg.Record]:
    """Names of lists that are known from providers alone, with the number of addresses in each state."""
    return await sql.fetch(_UNDECLARED)


async def add(sql: Sql, name: str, values: Sequence[object]) -> bool:
    """Make a topic of (title, description, stream, brand, double_opt_in, public); False where the name is taken."""
    return await sql.fetchval(_ADD, name, *values) is not None


async def edit(sql: Sql, name: str, values: Sequence[object]) -> bool:
    """Change what is not None of the same values; False where there is no such topic."""
    return await sql.fetchval(_EDIT, name, *values) is not None


async def archive(sql: Sql, name: str, *, archived: bool) -> bool:
    """Give a topic up, or take it up again; False where there is no such topic."""
    return await sql.fetchval(_ARCHIVE, name, archived) is not None
