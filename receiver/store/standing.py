"""How each handler stands: what it has not read, how fast it goes, what failed, and whether anybody runs it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from receiver.store.leases import LATELY
from receiver.store.log import SLACK
from receiver.store.sql import Sql

_LAG_LIMIT: Final = 1000  # events counted per shard; with more it is "at least so many"

# A cursor's events that are not read yet: those after its place, and those of transactions that were running.
_STANDINGS: Final = f"""
WITH behind AS MATERIALIZED (
    SELECT c.handler, sum(unread.events)::bigint AS events, min(unread.oldest) AS oldest,
           bool_or(unread.ahead >= $1) AS at_least
    FROM cursors c CROSS JOIN LATERAL (
        SELECT count(*) AS events, count(*) FILTER (WHERE ahead) AS ahead, min(received_at) AS oldest FROM (
            (SELECT e.received_at, true AS ahead FROM events e
             WHERE e.shard = c.shard AND (e.gen, e.txid, e.position) > (c.gen, c.txid, c.position)
               AND e.received_at >= c.read_from - $2::interval
             ORDER BY e.gen, e.txid, e.position LIMIT $1)
            UNION ALL
            (SELECT e.received_at, false FROM events e
             WHERE c.pending <> '{{}}' AND e.shard = c.shard AND e.gen = c.gen AND e.txid = ANY (c.pending)
               AND e.received_at >= c.read_from - $2::interval)
        ) AS one
    ) AS unread
    WHERE c.until_gen IS NULL GROUP BY c.handler
), held AS (
    SELECT c.handler, min(c.shard) AS first, count(*) AS shards,
           count(*) FILTER (WHERE c.lease_until > clock_timestamp() AND c.owner IS NOT NULL) AS leased,
           array_remove(array_agg(DISTINCT w.name ORDER BY w.name), NULL) AS owners,
           sum({LATELY.replace("cursors.", "c.")}) AS rate
    FROM cursors c LEFT JOIN workers w ON w.id = c.owner AND c.lease_until > clock_timestamp()
    WHERE c.until_gen IS NULL GROUP BY c.handler
), waiting AS (
    SELECT handler, count(*) AS retries, count(*) FILTER (WHERE cause = 'failed') AS failing,
           count(*) FILTER (WHERE next_at <= clock_timestamp()) AS due,
           count(*) FILTER (WHERE next_at = 'infinity') AS parked,
           min(CASE WHEN next_at = 'infinity' THEN created_at WHEN next_at <= clock_timestamp() THEN next_at END)
               AS due_since
    FROM retries GROUP BY handler
), dead AS (
    SELECT handler, count(*) AS letters FROM dead_letters WHERE resolved_at IS NULL GROUP BY handler
)
SELECT held.handler, held.shards, held.leased, held.owners, coalesce(behind.events, 0) AS lag_events,
       coalesce(behind.at_least, false) AS lag_at_least,
       greatest(extract(epoch FROM clock_timestamp() - least(behind.oldest, waiting.due_since)), 0)::float8 AS late,
       held.rate, coalesce(waiting.failing, 0) AS failing, coalesce(waiting.retries, 0) AS retries,
       coalesce(waiting.due, 0) AS retries_due, coalesce(waiting.parked, 0) AS parked,
       coalesce(dead.letters, 0) AS dead_letters,
       coalesce(h.state = 'paused', false) AS paused, h.changed_at, h.changed_by, h.reason,
       h.breaker_since, h.breaker_error, h.breaker_probe_at,
       coalesce(h.breaker_since IS NULL AND h.breaker_probe_at > clock_timestamp(), false) AS resting,
       EXISTS (SELECT FROM workers w WHERE held.handler = ANY (w.handlers) AND w.expires_at > clock_timestamp()) AS run,
       EXISTS (SELECT FROM workers w WHERE w.expires_at > clock_timestamp()) AS workers,
       l.kind AS lane, l.total AS lane_total,
       (SELECT sum(c.handled)::bigint FROM cursors c WHERE c.handler = held.handler || '/lane') AS lane_done
FROM held LEFT JOIN behind USING (handler) LEFT JOIN waiting USING (handler) LEFT JOIN dead USING (handler)
LEFT JOIN handlers h ON h.name = held.handler LEFT JOIN lanes l ON l.handler = held.handler
ORDER BY held.handler
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How one handler stands.

    `lag_events` counts at most 1000 per shard; `lag_at_least`: there may be more. `lag_seconds`: since the oldest
    unread event was stored, the oldest due retry was due, or the oldest parked event was parked; 0 when there is none.
    `rate`: events a minute passed lately. `failing`: events that failed and are to be tried again; `parked`: those of
    an ordered handler that wait for an earlier one of their recipient; both are a part of `retries`. `state`: paused,
    broken (its breaker is open), resting (as it has asked to), running, idle (no worker runs at all) or removed
    (workers run, but none has it).
    """

    handler: str
    state: str
    shards: int
    leased: int
    owners: list[str]
    lag_events: int
    lag_at_least: bool
    lag_seconds: float
    rate: float
    failing: int
    retries: int
    retries_due: int
    parked: int
    dead_letters: int
    paused_at: datetime | None
    paused_by: str | None
    paused_because: str | None
    breaker_since: datetime | None
    breaker_error: str | None
    resting_until: datetime | None
    resting_because: str | None
    lane: str | None
    lane_total: int | None
    lane_done: int | None

    @property
    def backlog(self) -> int:
        """What `lag_seconds` is about: events not read, retries that are due, and events that are parked."""
        return self.lag_events + self.retries_due + self.parked


async def standings(sql: Sql) -> list[Standing]:
    """Every handler that has cursors, by name."""
    return [_standing(row) for row in await sql.fetch(_STANDINGS, _LAG_LIMIT, SLACK)]


_SAME: Final = (
    *("handler", "shards", "leased", "owners", "lag_events", "lag_at_least"),
    *("failing", "retries", "retries_due", "parked", "dead_letters"),
    *("breaker_since", "lane", "lane_total", "lane_done"),
)


def _standing(row: asyncpg.Record) -> Standing:
    paused = row["paused"]
    return Standing(
        state=_state(row),
        lag_seconds=round(row["late"] or 0.0, 3),
        rate=round(row["rate"], 1),
        paused_at=row["changed_at"] if paused else None,
        paused_by=row["changed_by"] if paused else None,
        paused_because=row["reason"] if paused else None,
        breaker_error=row["breaker_error"] if row["breaker_since"] else None,
        resting_until=row["breaker_probe_at"] if row["resting"] else None,
        resting_because=row["breaker_error"] if row["resting"] else None,
        **{name: row[name] for name in _SAME},
    )


def _state(row: asyncpg.Record) -> str:
    if row["paused"]:
        return "paused"
    if not row["run"]:
        return "removed" if row["workers"] else "idle"
    if row["breaker_since"]:
        return "broken"
    return "resting" if row["resting"] else "running"
