"""Bad days of mailbox providers: times in which far more addresses were said not to exist than usual."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias

from receiver.store.bounce_hours import OUTCOME
from receiver.store.sql import Sql

Decision: TypeAlias = Literal["confirmed", "released"]

_COLUMNS: Final = "id, mailbox_provider, began_at, ended_at, release_at, hard, attempted, baseline, decision, note"
_SUPPRESSED: Final = """
    (SELECT count(*) FROM suppressions s
     WHERE s.reason = 'hard_bounce' AND s.active AND s.mailbox_provider = i.mailbox_provider
       AND s.since >= i.began_at AND s.last_at >= i.began_at AND s.last_at <= coalesce(i.ended_at, 'infinity'))
"""
_LIST: Final = f"""
SELECT {_COLUMNS}, {_SUPPRESSED} AS suppressed
FROM bounce_incidents i WHERE $1::bigint IS NULL OR id = $1 ORDER BY began_at DESC, id DESC LIMIT $2
"""
_GOING_ON: Final = f"SELECT {_COLUMNS}, 0 AS suppressed FROM bounce_incidents i WHERE ended_at IS NULL ORDER BY id"

# Waves of one bad day are one incident: an address that bounced in both must not look as if it had bounced outside.
_REOPEN: Final = f"""
UPDATE bounce_incidents i SET ended_at = NULL, release_at = CASE decision WHEN 'released' THEN release_at END
WHERE id = (SELECT id FROM bounce_incidents WHERE mailbox_provider = $1 AND ended_at >= $2
            ORDER BY ended_at DESC LIMIT 1)
RETURNING {_COLUMNS}, 0 AS suppressed
"""
_OPEN: Final = f"""
INSERT INTO bounce_incidents AS i (mailbox_provider, began_at, hard, attempted, baseline, note)
VALUES ($1, $2, 0, 0, $3, $4) ON CONFLICT (mailbox_provider) WHERE ended_at IS NULL DO NOTHING
RETURNING {_COLUMNS}, 0 AS suppressed
"""
_ENDED: Final = """
SELECT mailbox_provider, max(ended_at) AS ended_at FROM bounce_incidents WHERE ended_at >= $1 GROUP BY mailbox_provider
"""
_COUNT: Final = "UPDATE bounce_incidents SET attempted = $2, hard = $3 WHERE id = $1"
_CLOSE: Final = """
UPDATE bounce_incidents
SET ended_at = $2, release_at = CASE WHEN decision IS NULL THEN $3 ELSE release_at END
WHERE id = $1 AND ended_at IS NULL
"""
_DECIDE: Final = """
UPDATE bounce_incidents SET decision = $2, note = $3, release_at = CASE $2 WHEN 'released' THEN clock_timestamp() END
WHERE id = $1
"""

# `known`: mail to it has arrived lately. By its recipient an event is found without reading others.
_KNOWN: Final = f"""
WITH bounced AS (
    SELECT DISTINCT recipient FROM events_between($2, $3)
    WHERE mailbox_provider = $1 AND bounce_category = 'hard' AND recipient IS NOT NULL AND {OUTCOME}
    LIMIT 200
)
SELECT count(*) AS bounced, count(*) FILTER (WHERE EXISTS (
        SELECT FROM contacts c WHERE c.address = b.recipient AND c.last_delivered_at >= $4
    ) OR EXISTS (
        SELECT FROM events e WHERE e.recipient = b.recipient AND e.type = 'delivered'
          AND e.occurred_at >= $4 AND e.occurred_at < $3 AND e.received_at >= $4 - interval '5 minutes'
    )) AS known
FROM bounced b
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """A row of `bounce_incidents`. `suppressed`: how many suppressions rest on it alone, where that was asked for."""

    id: int
    mailbox_provider: str
    began_at: datetime
    ended_at: datetime | None
    release_at: datetime | None
    hard: int
    attempted: int
    baseline: float
    decision: Decision | None
    note: str
    suppressed: int


async def list_incidents(sql: Sql, *, id_: int | None = None, limit: int = 50) -> list[Incident]:
    """The latest first."""
    return [Incident(**dict(row)) for row in await sql.fetch(_LIST, id_, limit)]


async def going_on(sql: Sql) -> list[Incident]:
    """Those that have not ended."""
    return [Incident(**dict(row)) for row in await sql.fetch(_GOING_ON)]


async def ended(sql: Sql, since: datetime) -> dict[str, datetime]:
    """When each mailbox provider's last incident ended, where that was after `since`."""
    return {row["mailbox_provider"]: row["ended_at"] for row in await sql.fetch(_ENDED, since)}


async def open_incident(
    sql: Sql,
    mailbox_provider: str,
    began_at: datetime,
    baseline: float,
    *,
    note: str = "",
    again_since: datetime | None = None,
) -> Incident | None:
    """Begin one, or go on with one that ended after `again_since`; None where one goes on already."""
    row = await sql.fetchrow(_REOPEN, mailbox_provider, again_since)
    row = row or await sql.fetchrow(_OPEN, mailbox_provider, began_at, baseline, note)
    return None if row is None else Incident(**dict(row))


async def count(sql: Sql, id_: int, attempted: int, hard: int) -> None:
    """How much mail it concerns."""
    await sql.execute(_COUNT, id_, attempted, hard)


async def close(sql: Sql, id_: int, ended_at: datetime, release_after: timedelta) -> None:
    """It is over. What rests on it alone counts for `release_after` more, unless somebody has decided about it."""
    await sql.execute(_CLOSE, id_, ended_at, ended_at + release_after)


async def decide(sql: Sql, id_: int, decision: Decision, note: str) -> None:
    """confirmed: its suppressions stay for good. released: they do not count from now on, nor those still to come."""
    await sql.execute(_DECIDE, id_, decision, note)


async def known_share(
    sql: Sql, mailbox_provider: str, since: datetime, until: datetime, *, delivered_since: datetime
) -> float:
    """Of the addresses that bounced hard in that time (at most 200 of them), the share that mail has reached lately."""
    row = await sql.fetchrow(_KNOWN, mailbox_provider, since, until, delivered_since)
    return row["known"] / row["bounced"] if row and row["bounced"] else 0.0
