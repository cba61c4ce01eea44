"""What our own tables say of the lists that providers keep: who was lifted here, and who was put on them by us."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg

from receiver.store.sql import Sql

# What ends by itself, or is our own decision alone, no provider holds. While all mail is held back here it should be
# held there too.
_LIFTED: Final = """
SELECT s.source, e.provider, s.lifted_at AS at FROM suppressions s
LEFT JOIN LATERAL (SELECT provider FROM events WHERE id = s.event_id LIMIT 1) AS e ON true
WHERE s.address_hash = ANY ($1) AND NOT s.active AND s.reason IN ('hard_bounce', 'complaint', 'unsubscribe', 'imported')
  AND s.scope <> 'topic'
ORDER BY s.lifted_at
"""
_PUSHED: Final = """
SELECT DISTINCT ON (address_hash, source) source, action, occurred_at AS at FROM consent_log
WHERE address_hash = ANY ($1) AND method = 'push' ORDER BY address_hash, source, id DESC
"""
_DELIVERED: Final = """
SELECT provider, max(occurred_at) AS at FROM events
WHERE recipient = ANY ($1) AND type = 'delivered' AND attribution IS NULL AND NOT is_test GROUP BY provider
"""
_HELD_HERE: Final = """
SELECT EXISTS (SELECT FROM suppressions s WHERE s.address_hash = ANY ($1) AND s.active AND s.scope = 'all'
               AND coalesce(s.expires_at > now(), true))
"""


async def held_here(sql: Sql, address_hashes: Sequence[bytes]) -> bool:
    """Whether all mail is held back here."""
    return bool(await sql.fetchval(_HELD_HERE, list(address_hashes)))


async def lifted(sql: Sql, address_hashes: Sequence[bytes]) -> list[asyncpg.Record]:
    """(source, provider where the event is still there, at) of what was lifted, the latest last."""
    return await sql.fetch(_LIFTED, list(address_hashes))


async def pushed(sql: Sql, address_hashes: Sequence[bytes]) -> list[asyncpg.Record]:
    """(source, action, at): what `suppressions sync --push` has done last at each account."""
    return await sql.fetch(_PUSHED, list(address_hashes))


async def delivered(sql: Sql, addresses: Sequence[str]) -> list[asyncpg.Record]:
    """(provider, at): when each provider has last delivered to one of them."""
    return await sql.fetch(_DELIVERED, list(addresses))
