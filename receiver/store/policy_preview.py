"""Stored bounces, person by person, for judging them by another policy. Reads alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Final

import asyncpg

from receiver.store.sql import Sql

_WHICH: Final = """
    recipient IS NOT NULL AND NOT is_test AND attribution IS NULL
    AND (type = 'bounced' OR type = 'rejected' AND reject_reason IN ('bounced', 'invalid'))
"""
_COUNT: Final = f"SELECT count(*) FROM events_between($1, 'infinity') WHERE {_WHICH}"
_BOUNCES: Final = f"""
SELECT recipient, occurred_at, coalesce(message_id, internet_message_id, id::text) AS message, id, type,
       bounce_class, bounce_category, provider_verdict, stream, echo
FROM events_between($1, 'infinity') WHERE {_WHICH}
ORDER BY recipient, occurred_at, id
"""

# As contacts note them: without machines, echoes and what may concern somebody else.
_LIVES: Final = """
SELECT given.recipient, life.at
FROM unnest($1::text[]) AS given (recipient), LATERAL (
    SELECT max(e.occurred_at) AS at FROM events e
    WHERE e.recipient = given.recipient AND e.type IN ('delivered', 'opened', 'clicked')
      AND e.occurred_at >= $2 AND e.received_at >= $2 - interval '5 minutes'
      AND e.actor IS DISTINCT FROM 'machine' AND e.attribution IS NULL AND NOT e.echo AND NOT e.is_test
) AS life
WHERE life.at IS NOT NULL
"""
_HELD: Final = """
SELECT s.address_hash, s.reason, s.since, s.event_id, s.lifted_at,
       s.active AND (s.expires_at IS NULL OR s.expires_at > now()) AS holds
FROM suppressions s
WHERE s.address_hash = ANY ($1) AND s.scope = 'all' AND s.reason IN ('hard_bounce', 'soft_bounce')
"""
_EARLIER: Final = """
SELECT address_hash, at, message, bounce_class, stream, event_id FROM bounces
WHERE address_hash = ANY ($1) AND at < $2
"""


async def count_bounces(sql: Sql, since: datetime) -> int:
    """How many rows `bounces` will hand out."""
    found: int = await sql.fetchval(_COUNT, since)
    return found


async def bounces(connection: asyncpg.Connection, since: datetime) -> AsyncIterator[asyncpg.Record]:
    """Bounces, and mail held back because of one, by recipient and time. Needs a transaction; holds few in memory."""
    async for row in connection.cursor(_BOUNCES, since, prefetch=1000):
        yield row


async def lives(sql: Sql, recipients: Sequence[str], since: datetime) -> dict[str, datetime]:
    """Each one's last delivery, or open or click by a person, of those who had one since."""
    return {row["recipient"]: row["at"] for row in await sql.fetch(_LIVES, list(recipients), since)}


async def held(sql: Sql, address_hashes: Sequence[bytes]) -> list[asyncpg.Record]:
    """The suppressions by bounces that they have or had; `holds`: it counts now."""
    return await sql.fetch(_HELD, list(address_hashes))


async def earlier(sql: Sql, address_hashes: Sequence[bytes], until: datetime) -> list[asyncpg.Record]:
    """What was kept of their bounces before that: those that still count in numbers."""
    return await sql.fetch(_EARLIER, list(address_hashes), until)
