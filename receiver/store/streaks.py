"""Repeated bounces in SQL: the bounces since each contact's last sign of life, and the suppression that follows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from receiver.store.sql import Sql

BounceRow = tuple[bytes, str, str, str, datetime, str, UUID]  # hash, message, class, stream, at, source, event's id

# The latest bounce of each message: whether it lies after the last sign of life does not depend on the order.
_ADD: Final = """
INSERT INTO bounces AS b (address_hash, message, bounce_class, stream, at, source, event_id)
SELECT * FROM unnest($1::bytea[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::uuid[])
ORDER BY 1, 2
ON CONFLICT (address_hash, message) DO UPDATE SET
    bounce_class = excluded.bounce_class, stream = excluded.stream, at = excluded.at, source = excluded.source,
    event_id = excluded.event_id
WHERE (excluded.at, excluded.event_id) > (b.at, b.event_id)
"""

# Run after the contacts are locked, in a statement (and so a snapshot) of its own: what other workers have committed
# about them is seen. Nearly always there is nothing.
_STANDING: Final = """
SELECT e.address_hash, true AS erased, NULL::text AS address, NULL::integer AS soft_streak, NULL::timestamptz AS life,
       NULL::timestamptz AS since, NULL::timestamptz AS last_at, NULL::timestamptz AS expires_at,
       NULL::uuid AS began_by, NULL::timestamptz AS lifted_at, NULL::timestamptz AS at, NULL::text AS message,
       NULL::text AS bounce_class, NULL::text AS stream, NULL::text AS source, NULL::uuid AS event_id
FROM erasures e WHERE e.address_hash = ANY ($1)
UNION ALL
SELECT b.address_hash, false, c.address, c.soft_streak,
       greatest(c.last_delivered_at, c.last_opened_at, c.last_clicked_at),
       s.since, s.last_at, s.expires_at, s.event_id, s.lifted_at,
       b.at, b.message, b.bounce_class, b.stream, b.source, b.event_id
FROM bounces b
JOIN contacts c ON c.address_hash = b.address_hash
LEFT JOIN suppressions s ON s.address_hash = b.address_hash AND s.reason = 'soft_bounce' AND s.scope = 'all'
WHERE b.address_hash = ANY ($1)
"""

_COUNT: Final = """
UPDATE contacts SET soft_streak = g.messages FROM unnest($1::bytea[], $2::integer[]) AS g (hash, messages)
WHERE address_hash = g.hash
"""
_DROP: Final = """
DELETE FROM bounces b USING unnest($1::bytea[], $2::timestamptz[]) AS g (hash, life)
WHERE b.address_hash = g.hash AND b.at <= g.life
"""
_FORGET: Final = "DELETE FROM bounces WHERE address_hash = ANY ($1)"

_SUPPRESS: Final = """
INSERT INTO suppressions (address_hash, reason, scope, since, last_at, expires_at, event_id, source, recipient_domain,
                          mailbox_provider)
SELECT g.hash, 'soft_bounce', 'all', g.since, g.last_at, g.expires_at, g.event_id, g.source, g.domain, g.mailbox
FROM unnest($1::bytea[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[], $5::uuid[], $6::text[], $7::text[],
            $8::text[]) AS g (hash, since, last_at, expires_at, event_id, source, domain, mailbox)
ORDER BY 1
ON CONFLICT (address_hash, reason, scope, brand, topic) DO UPDATE SET
    since = excluded.since, last_at = excluded.last_at, expires_at = excluded.expires_at, event_id = excluded.event_id,
    source = excluded.source
"""
# What somebody has lifted stays on record as lifted.
_RELEASE: Final = """
WITH over AS (
    DELETE FROM suppressions
    WHERE address_hash = ANY ($1) AND reason = 'soft_bounce' AND scope = 'all' AND lifted_at IS NULL
)
UPDATE suppressions SET since = lifted_at, last_at = lifted_at
WHERE address_hash = ANY ($1) AND reason = 'soft_bounce' AND scope = 'all' AND lifted_at IS NOT NULL AND active
"""


async def add(sql: Sql, rows: Sequence[BounceRow]) -> None:
    """Merge bounces, each message once."""
    if rows:
        await sql.execute(_ADD, *map(list, zip(*rows, strict=True)))


async def standing(sql: Sql, address_hashes: Sequence[bytes]) -> list[asyncpg.Record]:
    """Of those who are erased or have bounces that count: a row for each, and for each bounce."""
    return await sql.fetch(_STANDING, address_hashes)


async def count(sql: Sql, messages: Sequence[tuple[bytes, int]]) -> None:
    """Set `contacts.soft_streak`."""
    if messages:
        await sql.execute(_COUNT, *map(list, zip(*messages, strict=True)))


async def drop(sql: Sql, lives: Sequence[tuple[bytes, datetime]]) -> None:
    """Delete the bounces up to each contact's last sign of life: they cannot count any more."""
    if lives:
        await sql.execute(_DROP, *map(list, zip(*lives, strict=True)))


async def forget(sql: Sql, address_hashes: Sequence[bytes]) -> None:
    """Delete the bounces of erased people."""
    await sql.execute(_FORGET, address_hashes)


# Hash, since, last_at, expires_at, event's id, source, domain, mailbox provider.
SoftRow = tuple[bytes, datetime, datetime, datetime | None, UUID, str, str, str | None]


async def suppress(sql: Sql, rows: Sequence[SoftRow]) -> None:
    """Set suppressions by repeated bounces."""
    if rows:
        await sql.execute(_SUPPRESS, *map(list, zip(*rows, strict=True)))


async def release(sql: Sql, address_hashes: Sequence[bytes]) -> None:
    """Take back suppressions by repeated bounces which no longer follow from what is known."""
    if address_hashes:
        await sql.execute(_RELEASE, address_hashes)
