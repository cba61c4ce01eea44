"""Mail by the hour, counted from events a few hours at a time: what is usual for a mailbox provider."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from receiver.store.sql import Sql

HOUR: Final = timedelta(hours=1)
KEPT: Final = timedelta(days=28)
FRESH: Final = timedelta(hours=3)  # an hour is counted anew for so long: providers tell of some things late
BY_SENDER: Final = timedelta(days=3)  # senders may be many; what is usual is known without them
CHUNK: Final = timedelta(hours=6)  # counted by one statement

# Which events are outcomes of mail that was really sent, and known to be true.
OUTCOME: Final = """
    type IN ('delivered', 'bounced') AND bounce_category IS DISTINCT FROM 'admin'
    AND NOT is_test AND NOT echo AND attribution IS DISTINCT FROM 'unverified'
"""
_COUNT: Final = f"""
INSERT INTO bounce_hours (hour, mailbox_provider, sender_domain, attempted, hard, block)
SELECT hour, mailbox_provider, sender_domain, sum(attempted), sum(hard), sum(block)
FROM (
    SELECT g AS hour, '' AS mailbox_provider, '' AS sender_domain, 0 AS attempted, 0 AS hard, 0 AS block
    FROM generate_series($1::timestamptz, $2::timestamptz - interval '1 hour', interval '1 hour') AS g
    UNION ALL
    SELECT date_trunc('hour', occurred_at, 'UTC'), coalesce(mailbox_provider, ''), coalesce(sender_domain, ''),
           1, (bounce_category IS NOT DISTINCT FROM 'hard')::int, (bounce_category IS NOT DISTINCT FROM 'block')::int
    FROM events_between($1, $2)
    WHERE {OUTCOME}
) AS mail
GROUP BY hour, mailbox_provider, sender_domain
ON CONFLICT (hour, mailbox_provider, sender_domain) DO UPDATE SET
    attempted = excluded.attempted, hard = excluded.hard, block = excluded.block
"""
_MISSING: Final = """
SELECT max(g) FROM generate_series($1::timestamptz, $2::timestamptz - interval '1 hour', interval '1 hour') AS g
WHERE NOT EXISTS (SELECT FROM bounce_hours WHERE hour = g)
"""
_FORGET: Final = "DELETE FROM bounce_hours WHERE hour < $1"
_FOLD: Final = """
WITH old AS (DELETE FROM bounce_hours WHERE hour < $1 AND sender_domain <> '' RETURNING *)
INSERT INTO bounce_hours AS b (hour, mailbox_provider, sender_domain, attempted, hard, block)
SELECT hour, mailbox_provider, '', sum(attempted), sum(hard), sum(block) FROM old GROUP BY hour, mailbox_provider
ON CONFLICT (hour, mailbox_provider, sender_domain) DO UPDATE SET
    attempted = b.attempted + excluded.attempted, hard = b.hard + excluded.hard, block = b.block + excluded.block
"""
_BY_PROVIDER: Final = """
SELECT mailbox_provider, hour, sum(attempted)::bigint AS attempted, sum(hard)::bigint AS hard
FROM bounce_hours WHERE hour >= $1 AND hour < $2 AND mailbox_provider <> ''
GROUP BY mailbox_provider, hour HAVING sum(attempted) > 0 ORDER BY mailbox_provider, hour
"""

# The median of the days: one day of a bad list, or of a bad provider, does not become what is usual.
_USUAL: Final = """
SELECT mailbox_provider, percentile_cont(0.5) WITHIN GROUP (ORDER BY rate) AS rate
FROM (
    SELECT mailbox_provider, sum(hard)::float8 / sum(attempted) AS rate
    FROM bounce_hours h
    WHERE hour >= $1 AND hour < $2 AND mailbox_provider <> '' AND NOT EXISTS (
        SELECT FROM bounce_incidents i WHERE i.mailbox_provider = h.mailbox_provider
        AND h.hour >= i.began_at AND h.hour < coalesce(i.ended_at, 'infinity'))
    GROUP BY mailbox_provider, date_trunc('day', hour, 'UTC') HAVING sum(attempted) >= $3
) AS days
GROUP BY mailbox_provider HAVING count(*) >= $4
"""
_BLOCKED: Final = """
SELECT sender_domain, mailbox_provider, sum(attempted)::bigint AS attempted, sum(block)::bigint AS block
FROM bounce_hours WHERE hour >= $1
GROUP BY sender_domain, mailbox_provider HAVING sum(attempted) >= $2 AND sum(block) >= $3::float8 * sum(attempted)
ORDER BY 4 DESC, 1, 2 LIMIT 20
"""


@dataclass(frozen=True, slots=True)
class Hour:
    """What became of the mail of one hour."""

    hour: datetime
    attempted: int
    hard: int


@dataclass(frozen=True, slots=True)
class Blocked:
    """Much mail of a sender that a mailbox provider refused because of the sender. Empty: not known, or others."""

    sender_domain: str
    mailbox_provider: str
    attempted: int
    block: int


async def count_lately(sql: Sql, now: datetime) -> None:
    """Count the last hours anew, this one included."""
    this = hour_of(now)
    await sql.execute(_COUNT, this - FRESH, this + HOUR)


async def count_missing(sql: Sql, now: datetime) -> bool:
    """Count some hours of the last weeks that never were, the latest first; False: there are none."""
    oldest, this = hour_of(now - KEPT), hour_of(now)
    last: datetime | None = await sql.fetchval(_MISSING, oldest, this)
    if last is None:
        return False
    await sql.execute(_COUNT, max(last + HOUR - CHUNK, oldest), last + HOUR)
    return True


async def forget(sql: Sql, now: datetime) -> None:
    """Remove what is too old, and leave out the senders where they are no longer needed."""
    await sql.execute(_FORGET, hour_of(now - KEPT))
    await sql.execute(_FOLD, hour_of(now - BY_SENDER))


async def by_provider(sql: Sql, since: datetime, until: datetime) -> dict[str, list[Hour]]:
    """The hours with mail of each mailbox provider that has a name, the oldest first."""
    found: dict[str, list[Hour]] = {}
    for row in await sql.fetch(_BY_PROVIDER, since, until):
        found.setdefault(row["mailbox_provider"], []).append(Hour(row["hour"], row["attempted"], row["hard"]))
    return found


async def usual_rates(
    sql: Sql, since: datetime, until: datetime, *, least_mail: int, least_days: int
) -> dict[str, float]:
    """The usual share of hard bounces by mailbox provider, over days with so much mail; none where they are few."""
    rows = await sql.fetch(_USUAL, since, until, least_mail, least_days)
    return {row["mailbox_provider"]: row["rate"] for row in rows}


async def blocked(sql: Sql, since: datetime, *, least_mail: int, rate: float) -> list[Blocked]:
    """Those senders and mailbox providers of which the share is at least `rate`, the most refusals first."""
    return [Blocked(**dict(row)) for row in await sql.fetch(_BLOCKED, since, least_mail, rate)]


def hour_of(moment: datetime) -> datetime:
    """The start of its hour; aware, UTC."""
    return moment.replace(minute=0, second=0, microsecond=0)
