"""Links in mails that a person has to click on: how long they are good, and how often they are mailed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

from receiver.store.sql import Sql

# One link is open at a time: it is mailed again, which makes it good for longer, and replaced once it has run out.
_MAIL: Final = """
INSERT INTO confirmations AS c (id, address_hash, topic, brand, requested_at, expires_at, mailed_at)
VALUES ($1, $2, $3, $4, $5, $5::timestamptz + $6::interval, $5)
ON CONFLICT (address_hash, topic, brand) WHERE used_at IS NULL DO UPDATE SET
    id = CASE WHEN c.expires_at <= $5 THEN excluded.id ELSE c.id END,
    requested_at = CASE WHEN c.expires_at <= $5 THEN excluded.requested_at ELSE c.requested_at END,
    expires_at = excluded.expires_at,
    mails = CASE WHEN c.expires_at <= $5 THEN 1 ELSE c.mails + 1 END,
    mailed_at = excluded.mailed_at
WHERE c.expires_at <= $5 OR (c.mails < $7 AND c.mailed_at <= $5::timestamptz - $8::interval)
RETURNING id, address_hash, topic, brand, expires_at, used_at, mails
"""

_GET: Final = """
SELECT id, address_hash, topic, brand, expires_at, used_at, mails FROM confirmations WHERE id = $1 FOR UPDATE
"""
_USE: Final = "UPDATE confirmations SET used_at = $2 WHERE id = $1 AND used_at IS NULL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """A row of `confirmations`. `topic`: empty for a link to the preference page of the brand."""

    id: UUID
    address_hash: bytes
    topic: str
    brand: str
    expires_at: datetime
    used_at: datetime | None
    mails: int


async def mail(
    sql: Sql,
    address_hash: bytes,
    *,
    topic: str = "",
    brand: str = "",
    at: datetime,
    good_for: timedelta,
    most: int,
    apart: timedelta,
) -> Confirmation | None:
    """The link for one more mail; None where `most` were queued while it is good, or the last less than `apart` ago."""
    row = await sql.fetchrow(_MAIL, uuid4(), address_hash, topic, brand, at, good_for, most, apart)
    return None if row is None else Confirmation(**row)


async def get(sql: Sql, id_: UUID) -> Confirmation | None:
    """Locked until the transaction ends: of two clicks at the same time the second sees what the first has done."""
    row = await sql.fetchrow(_GET, id_)
    return None if row is None else Confirmation(**row)


async def use(sql: Sql, id_: UUID, at: datetime) -> None:
    await sql.execute(_USE, id_, at)
