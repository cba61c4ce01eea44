"""What one person has chosen: the topics there are, the subscriptions to them, and what stands against all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from receiver.store.sql import Sql
from receiver.store.suppressions import SuppressionRow

# Statements of one person are made one after the other, so that each sees what the other has said.
_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended(encode($1::bytea, 'hex'), 0))"

_TOPIC: Final = """
SELECT name, title, description, stream, brand, double_opt_in FROM topics WHERE name = $1 AND archived_at IS NULL
"""
_CHOICES: Final = """
SELECT t.name, t.title, t.description, t.stream, t.brand, t.double_opt_in, s.state
FROM topics t LEFT JOIN subscriptions s ON s.topic = t.name AND s.address_hash = $1
WHERE t.archived_at IS NULL AND ($2 = '' OR t.brand = $2) AND (t.public OR s.state IN ('subscribed', 'pending'))
ORDER BY t.stream, t.title, t.name
"""

_ADDRESS: Final = "SELECT address FROM contacts WHERE address_hash = $1"
_ERASED: Final = "SELECT EXISTS (SELECT FROM erasures WHERE address_hash = $1)"

# Clocks differ: what a person says here and now is never older than what is known of them already.
_NOT_BEFORE: Final = """
SELECT greatest($2::timestamptz, max(at) + interval '1 microsecond')
FROM (SELECT greatest(requested_at, subscribed_at, unsubscribed_at) AS at FROM subscriptions WHERE address_hash = $1
      UNION ALL SELECT lifted_at FROM suppressions WHERE address_hash = $1) AS known
"""

# The latest statement about the same, among those that end it and our own.
_LAST_SAID: Final = """
SELECT action FROM consent_log
WHERE address_hash = $1 AND topic = $2 AND (topic <> '' OR brand = $3) AND (source = 'page' OR action <> 'unsubscribed')
ORDER BY occurred_at DESC, id DESC LIMIT 1
"""

_LEAVE_AGAIN: Final = """
UPDATE subscriptions SET unsubscribed_at = greatest(unsubscribed_at, $3) WHERE address_hash = $1 AND topic = $2
"""

_HELD: Final = """
SELECT address_hash, reason, scope, brand, topic, since, last_at, source, event_id, echo, expires_at, note,
       recipient_domain, mailbox_provider
FROM suppressions
WHERE address_hash = $1 AND active AND reason IN ('unsubscribe', 'complaint')
  AND (expires_at IS NULL OR expires_at > now())
  AND (scope = 'marketing' AND $2 <> '{}'::text[] AND (brand = '' OR brand = ANY ($2) OR '' = ANY ($2))
       OR scope = 'topic' AND topic = ANY ($3))
ORDER BY reason, scope, brand, topic
"""
_LIFT: Final = """
UPDATE suppressions SET lifted_at = greatest($6, last_at), lifted_by = 'page', lift_reason = $7
WHERE address_hash = $1 AND reason = $2 AND scope = $3 AND brand = $4 AND topic = $5
"""
_BRANDS: Final = "SELECT DISTINCT brand FROM topics WHERE brand <> '' ORDER BY brand"
_SUBSCRIBED: Final = """
SELECT s.topic FROM subscriptions s LEFT JOIN topics t ON t.name = s.topic
WHERE s.address_hash = $1 AND s.state IN ('subscribed', 'pending')
  AND (t.stream = 'marketing' AND ($2::text[] IS NULL OR t.brand = ANY ($2)) OR t.name IS NULL)
ORDER BY s.topic
"""
_SIGN_UP_AGAIN: Final = "DELETE FROM erasures WHERE address_hash = $1 AND erased_at <= $2"

_REQUESTED: Final = """
SELECT wording FROM consent_log WHERE address_hash = $1 AND topic = $2 AND action = 'requested'
ORDER BY occurred_at DESC, id DESC LIMIT 1
"""
_STATE: Final = "SELECT state FROM subscriptions WHERE address_hash = $1 AND topic = $2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A row of `topics` that is in use, and what one person has said about it; `state` None: nothing."""

    name: str
    title: str
    description: str
    stream: str
    brand: str
    double_opt_in: bool
    state: str | None = None


async def lock(sql: Sql, address_hash: bytes) -> None:
    """Until the transaction ends, nobody else makes statements for this person by a page."""
    await sql.execute(_LOCK, address_hash)


async def topic(sql: Sql, name: str) -> Topic | None:
    """None where there is none of that name, or it was archived."""
    row = await sql.fetchrow(_TOPIC, name)
    return None if row is None else Topic(**row)


async def choices(sql: Sql, address_hash: bytes, brand: str) -> list[Topic]:
    """The topics of the brand (empty: of every brand) that the person may see."""
    return [Topic(**row) for row in await sql.fetch(_CHOICES, address_hash, brand)]


async def address(sql: Sql, address_hash: bytes) -> str | None:
    """None where no contact has it."""
    found: str | None = await sql.fetchval(_ADDRESS, address_hash)
    return found


async def erased(sql: Sql, address_hash: bytes) -> bool:
    """Whether nothing may be kept that names the person."""
    return bool(await sql.fetchval(_ERASED, address_hash))


async def not_before(sql: Sql, address_hash: bytes, at: datetime) -> datetime:
    """`at`, or as much later as it takes to be the person's latest word."""
    found: datetime = await sql.fetchval(_NOT_BEFORE, address_hash, at)
    return found


async def has_left(sql: Sql, address_hash: bytes, topic: str, brand: str) -> bool:
    """Whether the last thing that the person said here about it is that they left."""
    return bool(await sql.fetchval(_LAST_SAID, address_hash, topic, brand) == "unsubscribed")


async def leave_again(sql: Sql, address_hash: bytes, topic: str, at: datetime) -> None:
    """Nothing new is said, but an event that comes late counts against this time."""
    await sql.execute(_LEAVE_AGAIN, address_hash, topic, at)


async def held(sql: Sql, address_hash: bytes, brands: Sequence[str], topics: Sequence[str]) -> list[SuppressionRow]:
    """Unsubscribes and complaints that stand against mail of the brands, or about the topics."""
    return [SuppressionRow(**row) for row in await sql.fetch(_HELD, address_hash, list(brands), list(topics))]


async def lift(sql: Sql, row: SuppressionRow, at: datetime, why: str) -> None:
    """Lift one of those that `held` has found."""
    await sql.execute(_LIFT, row.address_hash, row.reason, row.scope, row.brand, row.topic, at, why)


async def brands(sql: Sql) -> list[str]:
    """The brands that topics have."""
    return [row[0] for row in await sql.fetch(_BRANDS)]


async def subscribed(sql: Sql, address_hash: bytes, brands: Sequence[str] | None) -> list[str]:
    """The marketing topics of these brands (None: of every one) that the person gets, or has asked for.

    Those that nobody has declared are among them.
    """
    rows = await sql.fetch(_SUBSCRIBED, address_hash, None if brands is None else list(brands))
    return [row[0] for row in rows]


async def state(sql: Sql, address_hash: bytes, topic: str) -> str | None:
    found: str | None = await sql.fetchval(_STATE, address_hash, topic)
    return found


async def sign_up_again(sql: Sql, address_hash: bytes, at: datetime) -> None:
    """Somebody who was erased before `at` gives us their address anew."""
    await sql.execute(_SIGN_UP_AGAIN, address_hash, at)


async def requested_wording(sql: Sql, address_hash: bytes, topic: str) -> str | None:
    """The words under which the subscription was last asked for."""
    found: str | None = await sql.fetchval(_REQUESTED, address_hash, topic)
    return found
