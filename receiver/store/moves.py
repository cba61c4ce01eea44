"""Another address for a contact, in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

import asyncpg

from receiver.store.consent import SAID, Statement
from receiver.store.contacts import TIMES
from receiver.store.sql import Sql

_LOCK: Final = "SELECT address FROM contacts WHERE address = ANY ($1) ORDER BY address FOR UPDATE"

# A contact that has the new address already becomes one with this: what this one says goes first.
_MERGE: Final = f"""
WITH other AS (DELETE FROM contacts WHERE address = $2 RETURNING *)
UPDATE contacts c SET
    attributes = other.attributes || c.attributes,
    tags = ARRAY(SELECT DISTINCT unnest(c.tags || other.tags) ORDER BY 1),
    name = coalesce(c.name, other.name), locale = coalesce(c.locale, other.locale),
    time_zone = coalesce(c.time_zone, other.time_zone), created_at = least(c.created_at, other.created_at),
    {", ".join(f"{time} = greatest(c.{time}, other.{time})" for time in TIMES)}
FROM other WHERE c.address = $1
RETURNING other.id, other.external_id
"""
_ADOPT: Final = "UPDATE contacts SET external_id = $2 WHERE address = $1 AND external_id IS NULL"
_HISTORY_OF_OTHER: Final = """
UPDATE contact_addresses a SET contact_id = c.id FROM contacts c, contacts other
WHERE c.address = $1 AND other.address = $2 AND a.contact_id = other.id
"""
_READDRESS: Final = """
UPDATE contacts SET address = $2, address_hash = $3, display_address = NULL, soft_streak = 0,
                    updated_at = clock_timestamp()
WHERE address = $1 RETURNING id
"""
_HISTORY: Final = """
INSERT INTO contact_addresses (contact_id, address, address_hash, until, who, reason) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING
"""

_SUBSCRIPTIONS: Final = """
SELECT topic, requested_at, subscribed_at, unsubscribed_at FROM subscriptions WHERE address_hash = $1 ORDER BY topic
"""
# The old address may be somebody else's one day: it keeps what was refused, and none of what was wished.
_LEAVE: Final = "DELETE FROM subscriptions WHERE address_hash = $1 AND state <> 'unsubscribed'"
_FOLLOW: Final = """
INSERT INTO suppressions AS s (address_hash, reason, scope, brand, topic, since, last_at, source, event_id, echo,
                               expires_at, note, recipient_domain, mailbox_provider)
SELECT $2, reason, scope, brand, topic, since, last_at, source, event_id, echo, expires_at, note, $3, $4
FROM suppressions
WHERE address_hash = $1 AND reason IN ('complaint', 'unsubscribe', 'manual', 'imported') AND active
  AND (expires_at IS NULL OR expires_at > now())
ON CONFLICT (address_hash, reason, scope, brand, topic) DO UPDATE SET
    since = least(s.since, excluded.since), last_at = greatest(s.last_at, excluded.last_at),
    expires_at = CASE WHEN s.active THEN nullif(greatest(coalesce(s.expires_at, 'infinity'),
                                                         coalesce(excluded.expires_at, 'infinity')), 'infinity')
                      ELSE excluded.expires_at END,
    echo = s.echo AND excluded.echo, lifted_at = NULL, lifted_by = NULL, lift_reason = NULL
"""

# Who wishes for mail at an address again has come new to it: what they say is not the former owner's. Of several owners
# the last one is meant.
_MOVED: Final = """
SELECT DISTINCT ON (a.address_hash) a.address_hash AS before, c.address, c.address_hash
FROM contact_addresses a JOIN contacts c ON c.id = a.contact_id AND c.address_hash <> a.address_hash
WHERE a.address_hash = ANY ($1)
  AND NOT EXISTS (SELECT FROM subscriptions s WHERE s.address_hash = a.address_hash AND s.state <> 'unsubscribed')
ORDER BY a.address_hash, a.until DESC
"""


async def lock(sql: Sql, old: str, new: str) -> bool:
    """Lock the contacts of both addresses; returns whether the old one has one."""
    return any(row["address"] == old for row in await sql.fetch(_LOCK, [old, new]))


async def readdress(
    sql: Sql, old: tuple[str, bytes], new: tuple[str, bytes], *, at: datetime, who: str, why: str
) -> None:
    """Give the contact the new address, and note the old one."""
    await sql.execute(_HISTORY_OF_OTHER, old[0], new[0])
    other = await sql.fetchrow(_MERGE, old[0], new[0])
    if other is not None and other["external_id"] is not None:
        await sql.execute(_ADOPT, old[0], other["external_id"])
    contact = await sql.fetchval(_READDRESS, old[0], *new)
    await sql.execute(_HISTORY, contact, *old, at, who, why)


async def subscriptions(sql: Sql, address_hash: bytes) -> list[asyncpg.Record]:
    """What the address has said about topics."""
    return await sql.fetch(_SUBSCRIPTIONS, address_hash)


async def follow(sql: Sql, old: bytes, new: bytes, domain: str, mailbox: str | None) -> None:
    """Take along what is not about the mailbox; the old address keeps it too, and loses its subscriptions."""
    await sql.execute(_FOLLOW, old, new, domain, mailbox)
    await sql.execute(_LEAVE, old)


async def moved(sql: Sql, address_hashes: Sequence[bytes]) -> dict[bytes, tuple[str, bytes]]:
    """For addresses that contacts had before: the address that the contact has now, and its hash."""
    rows = await sql.fetch(_MOVED, list(address_hashes))
    return {row["before"]: (row["address"], row["address_hash"]) for row in rows}


async def also(sql: Sql, statements: Sequence[Statement]) -> list[Statement]:
    """The statements, and for the present address too those by which people leave or complain by an earlier one."""
    said = [one for one in statements if one.action in SAID.values()]
    now = await moved(sql, [one.address_hash for one in said]) if said else {}
    follow = [(one, *now[one.address_hash]) for one in said if one.address_hash in now]
    return [*statements, *(replace(one, address=address, address_hash=hashed) for one, address, hashed in follow)]
