"""Contacts and suppressions in SQL: whole batches at once, rows locked in one order, any order of events one result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from receiver.store.sql import Sql

TIMES: Final = (
    "last_event_at",
    "last_sent_at",
    "last_delivered_at",
    "last_opened_at",
    "last_clicked_at",
    "last_bounced_at",
    "complained_at",
    "unsubscribed_at",
)

# Sorted by address: two batches that touch the same contacts take their locks in the same order.
_RECORD: Final = f"""
INSERT INTO contacts AS c (address, address_hash, {", ".join(TIMES)})
SELECT * FROM unnest($1::text[], $2::bytea[], {", ".join(f"${n}::timestamptz[]" for n in range(3, 3 + len(TIMES)))})
ORDER BY 1
ON CONFLICT (address) DO UPDATE SET {", ".join(f"{t} = greatest(c.{t}, excluded.{t})" for t in TIMES)}
"""

_COLUMNS: Final = f"id, address, attributes, created_at, {', '.join(TIMES)}"
_GET: Final = f"SELECT {_COLUMNS} FROM contacts WHERE address = $1"
_UPDATE: Final = f"""
INSERT INTO contacts AS c (address, address_hash, attributes) VALUES ($1, $2, $3::jsonb)
ON CONFLICT (address) DO UPDATE SET attributes = c.attributes || excluded.attributes
RETURNING {_COLUMNS}
"""

# An event that reports the outcome itself outweighs a provider's echo of it; among equals, the earliest and the latest.
_SUPPRESS: Final = """
INSERT INTO suppressions AS s (address_hash, reason, scope, brand, topic, since, last_at, source, event_id, echo)
SELECT * FROM unnest($1::bytea[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[],
                     $7::timestamptz[], $8::text[], $9::uuid[], $10::boolean[])
ORDER BY 1, 2, 3, 4, 5
ON CONFLICT (address_hash, reason, scope, brand, topic) DO UPDATE SET
    since = CASE WHEN s.echo = excluded.echo THEN least(s.since, excluded.since) ELSE excluded.since END,
    last_at = CASE WHEN s.echo = excluded.echo THEN greatest(s.last_at, excluded.last_at) ELSE excluded.last_at END,
    source = CASE WHEN s.echo = excluded.echo AND (s.since, s.event_id) <= (excluded.since, excluded.event_id)
                  THEN s.source ELSE excluded.source END,
    event_id = CASE WHEN s.echo = excluded.echo AND (s.since, s.event_id) <= (excluded.since, excluded.event_id)
                    THEN s.event_id ELSE excluded.event_id END,
    echo = excluded.echo
WHERE s.echo OR NOT excluded.echo
"""

_IS_SUPPRESSED: Final = """
SELECT EXISTS (
    SELECT FROM suppressions
    WHERE address_hash = $1 AND active AND (
        scope = 'all'
        OR (scope = 'marketing' AND $2 = 'marketing' AND (brand = '' OR brand = $3))
        OR (scope = 'topic' AND topic = $4 AND (brand = '' OR brand = $3))))
"""

# Neither other reports nor incoming mail: strangers choose the message ids of both.
_IS_KNOWN_SEND: Final = """
SELECT EXISTS (
    SELECT FROM events
    WHERE recipient = $1 AND (message_id = ANY ($2) OR internet_message_id = ANY ($2))
      AND attribution IS NULL AND type <> 'inbound' AND NOT is_test)
"""

_LIFT: Final = (
    "UPDATE suppressions SET lifted_at = clock_timestamp() WHERE address_hash = $1 AND reason = $2 AND active"
)


async def record_times(sql: Sql, addresses: Mapping[str, tuple[bytes, Sequence[datetime | None]]]) -> None:
    """Merge times (in the order of `TIMES`) into contacts, by address, making those that are missing."""
    if addresses:
        hashes, times = zip(*addresses.values(), strict=True)
        await sql.execute(_RECORD, list(addresses), list(hashes), *map(list, zip(*times, strict=True)))


async def get(sql: Sql, address: str) -> asyncpg.Record | None:
    return await sql.fetchrow(_GET, address)


async def update(sql: Sql, address: str, address_hash: bytes, attributes: str) -> asyncpg.Record:
    """Merge a JSON object into the contact's attributes, making the contact if need be."""
    row = await sql.fetchrow(_UPDATE, address, address_hash, attributes)
    assert row is not None
    return row


SuppressionRow = tuple[bytes, str, str, str, str, datetime, datetime, str, UUID | None, bool]


async def suppress(sql: Sql, rows: Sequence[SuppressionRow]) -> None:
    """Merge suppressions; `rows` hold each (hash, reason, scope, brand, topic) once."""
    if rows:
        await sql.execute(_SUPPRESS, *map(list, zip(*rows, strict=True)))


async def is_suppressed(sql: Sql, address_hash: bytes, stream: str, brand: str, topic: str) -> bool:
    found: Any = await sql.fetchval(_IS_SUPPRESSED, address_hash, stream, brand, topic)
    return bool(found)


async def is_known_send(sql: Sql, recipient: str, message_ids: Sequence[str]) -> bool:
    """Whether a trusted event tells of a message with one of these ids to the recipient."""
    found: Any = await sql.fetchval(_IS_KNOWN_SEND, recipient, message_ids)
    return bool(found)


async def lift(sql: Sql, address_hash: bytes, reason: str) -> int:
    """Lift an address's suppressions for one reason; returns how many."""
    return int((await sql.execute(_LIFT, address_hash, reason)).rpartition(" ")[2])
