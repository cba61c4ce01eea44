"""What people say about mail to them: the log of their statements, and the subscriptions that follow from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

import asyncpg
import msgspec

from receiver.store.address_keys import KEY_ID, NORMALIZATION
from receiver.store.sql import Sql

Action: TypeAlias = Literal["requested", "subscribed", "unsubscribed", "complained", "suppressed", "lifted"]
Stream: TypeAlias = Literal["marketing", "transactional"]

# What a person says who is suppressed for one of these reasons.
SAID: Final[Mapping[str, Action]] = {"complaint": "complained", "unsubscribe": "unsubscribed"}

_TIME_OF: Final = {"requested": 0, "subscribed": 1, "unsubscribed": 2}

_LOG: Final = """
INSERT INTO consent_log (occurred_at, address_hash, address, action, topic, brand, source, method, wording, client_ip,
                         user_agent, event_id, detail)
SELECT at, hash, CASE WHEN e.address_hash IS NULL THEN address END, action, topic, brand, source, method, wording,
       client_ip, user_agent, event_id, detail
FROM unnest($1::timestamptz[], $2::bytea[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
            $9::text[], $10::inet[], $11::text[], $12::uuid[], $13::jsonb[])
     AS g (at, hash, address, action, topic, brand, source, method, wording, client_ip, user_agent, event_id, detail)
LEFT JOIN erasures e ON e.address_hash = hash
ORDER BY 2, 5, 4, 1, 7, 6, 12
ON CONFLICT DO NOTHING
"""

# The latest time of each kind: any order of statements has one result. Sorted, so that batches do not deadlock.
_MERGE: Final = f"""
INSERT INTO subscriptions AS s
    (address_hash, topic, requested_at, subscribed_at, unsubscribed_at, key_id, normalization)
SELECT *, {KEY_ID}, {NORMALIZATION}
FROM unnest($1::bytea[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[])
ORDER BY 1, 2
ON CONFLICT (address_hash, topic) DO UPDATE SET
    requested_at = greatest(s.requested_at, excluded.requested_at),
    subscribed_at = greatest(s.subscribed_at, excluded.subscribed_at),
    unsubscribed_at = greatest(s.unsubscribed_at, excluded.unsubscribed_at)
"""

SENDABLE: Final = """
SELECT answer.*
FROM unnest($1::bytea[]) WITH ORDINALITY AS given (hash, number), LATERAL sendable(given.hash, $2, $3) AS answer
ORDER BY given.number
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A row of `consent_log`: what a person said, or somebody did in their name, at `at` (aware).

    `topic`: empty for all marketing mail of the brand. `address`: kept beside its hash until the person is erased.
    """

    address_hash: bytes
    address: str | None
    action: Action
    at: datetime
    source: str
    method: str
    topic: str = ""
    brand: str = ""
    wording: str | None = None
    client_ip: IPv4Address | IPv6Address | None = None
    user_agent: str | None = None
    event_id: UUID | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


async def record(sql: Sql, statements: Sequence[Statement]) -> None:
    """Log statements, each once, and merge those about topics into subscriptions: two SQL statements, however many."""
    if not statements:
        return
    rows = [
        (
            one.at,
            one.address_hash,
            one.address,
            one.action,
            one.topic,
            one.brand,
            one.source,
            one.method,
            one.wording,
            one.client_ip,
            one.user_agent,
            one.event_id,
            msgspec.json.encode(one.detail).decode(),
        )
        for one in statements
    ]
    await sql.execute(_LOG, *map(list, zip(*rows, strict=True)))
    merged: dict[tuple[bytes, str], list[datetime | None]] = {}
    for one in statements:
        if one.topic and (column := _TIME_OF.get(one.action)) is not None:
            times = merged.setdefault((one.address_hash, one.topic), [None, None, None])
            times[column] = max(times[column] or one.at, one.at)
    if merged:
        keys = [list(column) for column in zip(*merged, strict=True)]
        await sql.execute(_MERGE, *keys, *map(list, zip(*merged.values(), strict=True)))


async def sendable(
    sql: Sql, address_hashes: Sequence[bytes], topic: str | None, stream: Stream
) -> list[asyncpg.Record]:
    """For each hash, in this order, what `sendable()` says: (sendable, reason, since, until, event_id)."""
    return await sql.fetch(SENDABLE, list(address_hashes), topic, stream)
