"""Suppressions in SQL: merged so that any order of events has one result, and lifted with the reason on record."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg

from receiver.store.address_keys import KEY_ID, NORMALIZATION
from receiver.store.sql import Sql


class SuppressionRow(NamedTuple):
    """One suppression as it is merged into the stored one."""

    address_hash: bytes
    reason: str
    scope: str
    brand: str
    topic: str
    since: datetime
    last_at: datetime
    source: str
    event_id: UUID | None
    echo: bool
    expires_at: datetime | None
    note: str
    recipient_domain: str | None
    mailbox_provider: str | None


# An event that reports the outcome itself outweighs a provider's echo of it; among equals, the earliest and the latest,
# and the later end, unless what is stored was lifted.
# Of an erased person the domain is not kept: there are domains with one mailbox.
_SUPPRESS: Final = f"""
INSERT INTO suppressions AS s (address_hash, reason, scope, brand, topic, since, last_at, source, event_id, echo,
                               expires_at, note, recipient_domain, mailbox_provider, key_id, normalization)
SELECT g.hash, g.reason, g.scope, g.brand, g.topic, g.since, g.last_at, g.source, g.event_id, g.echo, g.expires_at,
       g.note, CASE WHEN e.address_hash IS NULL THEN g.domain END, g.mailbox, {KEY_ID}, {NORMALIZATION}
FROM unnest($1::bytea[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::timestamptz[],
            $8::text[], $9::uuid[], $10::boolean[], $11::timestamptz[], $12::text[], $13::text[], $14::text[])
     AS g (hash, reason, scope, brand, topic, since, last_at, source, event_id, echo, expires_at, note, domain, mailbox)
LEFT JOIN erasures e ON e.address_hash = g.hash
ORDER BY 1, 2, 3, 4, 5
ON CONFLICT (address_hash, reason, scope, brand, topic) DO UPDATE SET
    since = CASE WHEN s.echo = excluded.echo THEN least(s.since, excluded.since) ELSE excluded.since END,
    last_at = CASE WHEN s.echo = excluded.echo THEN greatest(s.last_at, excluded.last_at) ELSE excluded.last_at END,
    source = CASE WHEN s.echo = excluded.echo AND (s.since, s.event_id) <= (excluded.since, excluded.event_id)
                  THEN s.source ELSE excluded.source END,
    event_id = CASE WHEN s.echo = excluded.echo AND (s.since, s.event_id) <= (excluded.since, excluded.event_id)
                    THEN s.event_id ELSE excluded.event_id END,
    echo = excluded.echo,
    expires_at = CASE WHEN s.echo = excluded.echo AND s.active
                      THEN nullif(greatest(coalesce(s.expires_at, 'infinity'),
                                           coalesce(excluded.expires_at, 'infinity')), 'infinity')
                      ELSE excluded.expires_at END,
    note = CASE WHEN excluded.note = '' THEN s.note ELSE excluded.note END,
    recipient_domain = coalesce(s.recipient_domain, excluded.recipient_domain),
    mailbox_provider = coalesce(s.mailbox_provider, excluded.mailbox_provider)
WHERE s.echo OR NOT excluded.echo
"""

# A last_at ahead of our clock would keep the row active.
_LIFT: Final = """
UPDATE suppressions SET lifted_at = greatest(clock_timestamp(), last_at), lifted_by = $3, lift_reason = $4
WHERE address_hash = ANY ($1) AND reason = $2 AND active
RETURNING address_hash, reason, scope, brand, topic, since, last_at, lifted_at, event_id
"""


async def suppress(sql: Sql, rows: Sequence[SuppressionRow]) -> None:
    """Merge suppressions; `rows` hold each (hash, reason, scope, brand, topic) once."""
    if rows:
        await sql.execute(_SUPPRESS, *map(list, zip(*rows, strict=True)))


async def lift(sql: Sql, address_hashes: Sequence[bytes], reason: str, who: str, why: str) -> list[asyncpg.Record]:
    """Lift what counts of one reason; returns the lifted rows, which belong in `consent_log` too."""
    return await sql.fetch(_LIFT, list(address_hashes), reason, who, why)
