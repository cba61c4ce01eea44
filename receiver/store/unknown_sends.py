"""Messages of which nobody knows whether they were sent, as their providers are asked about them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import asyncpg

from receiver.store import outbox
from receiver.store.sql import Sql

# Transactional mail first: it goes again before long. Nobody is asked about mail that may not be sent now.
_DUE: Final = """
SELECT s.id, s.attempts, s.account, s.asks, s.stream, s.begun_at, s.internet_message_id,
       coalesce(c.display_address, s.recipient) AS address
FROM sends s LEFT JOIN contacts c ON c.address = s.recipient
WHERE s.state = 'unknown' AND s.account = $1 AND s.begun_at IS NOT NULL AND s.internet_message_id IS NOT NULL
  AND s.asks < cardinality($2::interval[]) AND s.settled_at > clock_timestamp() - $3::interval
  AND s.settled_at + ($2::interval[])[s.asks + 1] <= clock_timestamp()
  AND NOT EXISTS (SELECT FROM send_accounts a
                  WHERE a.name IN ('*', $1) AND a.paused_at IS NOT NULL
                    AND (a.paused_until IS NULL OR a.paused_until > clock_timestamp()))
ORDER BY s.stream DESC, s.asks, s.settled_at LIMIT $4
"""

# Also where it has been queued again meanwhile, and is in hand, as long as no transport has been asked again.
_FOUND: Final = """
UPDATE sends SET state = 'sent', settled_at = coalesce(settled_at, clock_timestamp()), asks = asks + 1, reason = NULL,
       detail = $3, provider_message_id = coalesce($4, provider_message_id), worker = NULL, lease_until = NULL
WHERE id = $1 AND attempts = $2 AND (state IN ('unknown', 'queued') OR state = 'leased' AND begun_at IS NULL)
RETURNING id
"""
_NOT_FOUND: Final = """
UPDATE sends SET asks = asks + 1, reason = coalesce($3, reason), detail = $4
WHERE id = $1 AND attempts = $2 AND state = 'unknown'
RETURNING id
"""


async def due(
    sql: Sql, account: str, asks: Sequence[timedelta], *, until: timedelta, limit: int
) -> list[asyncpg.Record]:
    """Those to be asked about now. `asks`: how long after the outcome was missed; `until`: not after that."""
    return await sql.fetch(_DUE, account, list(asks), until, limit)


async def found(sql: Sql, row: asyncpg.Record, detail: str, provider_message_id: str | None) -> bool:
    """It was sent; False: something else has settled it meanwhile."""
    if await sql.fetchval(_FOUND, row["id"], row["attempts"], detail, provider_message_id) is None:
        return False
    await outbox.note(sql, row["id"], row["attempts"], row["account"], "sent", detail, [])
    return True


async def not_found(sql: Sql, row: asyncpg.Record, detail: str, *, reason: str | None, last: bool) -> None:
    """It stays unknown. `reason`: None where the provider did not say. `last`: nobody will ask again."""
    if await sql.fetchval(_NOT_FOUND, row["id"], row["attempts"], reason, detail) is not None and last:
        await outbox.note(sql, row["id"], row["attempts"], row["account"], "unknown", detail, [])
