"""Contacts in SQL: whole batches at once, rows locked in one order, any order of events one result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

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
    "prefetched_at",
)

# Sorted by address: two batches that touch the same contacts take their locks in the same order.
_RECORD: Final = f"""
INSERT INTO contacts AS c (address, address_hash, {", ".join(TIMES)})
SELECT * FROM unnest($1::text[], $2::bytea[], {", ".join(f"${n}::timestamptz[]" for n in range(3, 3 + len(TIMES)))})
ORDER BY 1
ON CONFLICT (address) DO UPDATE SET {", ".join(f"{t} = greatest(c.{t}, excluded.{t})" for t in TIMES)}
"""

_COLUMNS: Final = (
    "id, address, external_id, display_address, name, locale, time_zone, attributes, tags, created_at, updated_at, "
    f"soft_streak, {', '.join(TIMES)}"
)
_GET: Final = f"SELECT {_COLUMNS} FROM contacts WHERE address = $1"

DETAILS: Final = ("name", "locale", "time_zone", "external_id", "display_address")  # NULL: as it is; '': removed
_DETAIL: Final = {column: f"${number}::text" for number, column in enumerate(DETAILS, 4)}
_UPDATE: Final = f"""
INSERT INTO contacts AS c (address, address_hash, attributes, updated_at, {", ".join(DETAILS)})
VALUES ($1, $2, $3::jsonb, clock_timestamp(), {", ".join(f"nullif({given}, '')" for given in _DETAIL.values())})
ON CONFLICT (address) DO UPDATE SET
    attributes = c.attributes || excluded.attributes, updated_at = excluded.updated_at,
    {
    ", ".join(
        f"{column} = CASE WHEN {given} IS NULL THEN c.{column} ELSE excluded.{column} END"
        for column, given in _DETAIL.items()
    )
}
RETURNING {_COLUMNS}
"""

_TAG: Final = """
INSERT INTO contacts AS c (address, address_hash, tags, updated_at) VALUES ($1, $2, $3, clock_timestamp())
ON CONFLICT (address) DO UPDATE SET
    tags = ARRAY(SELECT DISTINCT unnest(c.tags || excluded.tags) ORDER BY 1), updated_at = excluded.updated_at
WHERE NOT c.tags @> excluded.tags
"""
_UNTAG: Final = """
UPDATE contacts SET tags = ARRAY(SELECT unnest(tags) EXCEPT SELECT unnest($2::text[]) ORDER BY 1),
                    updated_at = clock_timestamp()
WHERE address = $1 AND tags && $2
"""

# Neither other reports nor incoming mail: strangers choose the message ids of both.
_IS_KNOWN_SEND: Final = """
SELECT EXISTS (
    SELECT FROM events
    WHERE recipient = $1 AND (message_id = ANY ($2) OR internet_message_id = ANY ($2))
      AND attribution IS NULL AND type <> 'inbound' AND NOT is_test)
"""

_LOCK: Final = "SELECT FROM contacts WHERE address_hash = $1 FOR UPDATE"
_REMOVE: Final = "DELETE FROM contacts WHERE address_hash = ANY ($1)"
_FORGET_ERASURE: Final = "DELETE FROM erasures WHERE address_hash = $1"


async def record_times(sql: Sql, addresses: Mapping[str, tuple[bytes, Sequence[datetime | None]]]) -> None:
    """Merge times (in the order of `TIMES`) into contacts, by address, making those that are missing."""
    hashes, times = zip(*addresses.values(), strict=True)
    await sql.execute(_RECORD, list(addresses), list(hashes), *map(list, zip(*times, strict=True)))


async def get(sql: Sql, address: str) -> asyncpg.Record | None:
    return await sql.fetchrow(_GET, address)


async def update(
    sql: Sql, address: str, address_hash: bytes, attributes: str, details: Mapping[str, str | None]
) -> asyncpg.Record:
    """Merge a JSON object into the contact's attributes and set some of `DETAILS`, making the contact if need be."""
    row = await sql.fetchrow(_UPDATE, address, address_hash, attributes, *(details.get(name) for name in DETAILS))
    assert row is not None
    return row


async def tag(sql: Sql, address: str, address_hash: bytes, tags: Sequence[str]) -> None:
    """Add tags, making the contact if need be."""
    await sql.execute(_TAG, address, address_hash, sorted(set(tags)))


async def untag(sql: Sql, address: str, tags: Sequence[str]) -> None:
    """Take tags away."""
    await sql.execute(_UNTAG, address, list(tags))


async def is_known_send(sql: Sql, recipient: str, message_ids: Sequence[str]) -> bool:
    """Whether a trusted event tells of a message with one of these ids to the recipient."""
    found: Any = await sql.fetchval(_IS_KNOWN_SEND, recipient, message_ids)
    return bool(found)


async def lock(sql: Sql, address_hash: bytes) -> None:
    """Wait for whoever changes the contact, and let nobody else until the transaction ends."""
    await sql.execute(_LOCK, address_hash)


async def remove(sql: Sql, address_hashes: Sequence[bytes]) -> None:
    """Delete contacts; what is kept by hash stays."""
    await sql.execute(_REMOVE, address_hashes)


async def forget_erasure(sql: Sql, address_hash: bytes) -> None:
    """The person has come back by a deed of their own."""
    await sql.execute(_FORGET_ERASURE, address_hash)
