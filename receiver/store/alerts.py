"""Problems that are open, were resolved, and whom to tell next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from receiver.store.sql import Sql

_COLUMNS: Final = (
    "id, key, kind, severity, text, since, last_seen, resolved_at, resolution, notified_at, notified_severity"
)
_OPEN: Final = f"SELECT {_COLUMNS} FROM alerts WHERE resolved_at IS NULL AND kind = ANY ($1::text[])"

# A row that this statement has inserted has no xmax.
_SEE: Final = """
INSERT INTO alerts (key, kind, severity, text, since)
VALUES ($1, $2, $3, $4, coalesce($5, clock_timestamp()))
ON CONFLICT (key) WHERE resolved_at IS NULL DO UPDATE SET
    severity = excluded.severity, text = excluded.text, last_seen = clock_timestamp()
RETURNING xmax::text = '0'
"""
_RESOLVE: Final = """
UPDATE alerts SET resolved_at = clock_timestamp(), resolution = $2, attempts = 0, next_at = '-infinity'
WHERE id = $1 AND resolved_at IS NULL AND last_seen <= clock_timestamp() - $3::interval
"""

# Whoever was told of a problem is told of its end, however severe it was by then; nobody else is.
_DUE: Final = f"""
SELECT {_COLUMNS} FROM alerts
WHERE next_at <= clock_timestamp()
  AND CASE WHEN resolved_at IS NULL
           THEN severity = ANY ($1::text[]) AND (coalesce(notified_at <= clock_timestamp() - $2::interval, true)
                                                 OR severity = 'critical' AND notified_severity = 'warning')
           ELSE resolved_at > clock_timestamp() - interval '1 day' AND notified_at < resolved_at END
ORDER BY id LIMIT 20
"""
_TOLD: Final = """
UPDATE alerts SET notified_at = clock_timestamp(), notified_severity = $2, attempts = 0, next_at = '-infinity'
WHERE id = $1
"""
_NOT_TOLD: Final = """
UPDATE alerts SET attempts = attempts + 1,
    next_at = clock_timestamp() + least($2 * 2 ^ least(attempts, 20), $3) * interval '1 second'
WHERE id = $1
"""
_LIST: Final = f"""
SELECT {_COLUMNS} FROM alerts WHERE resolved_at IS NULL OR ($1 AND resolved_at > now() - interval '30 days')
ORDER BY resolved_at IS NOT NULL, coalesce(resolved_at, since) DESC, id DESC LIMIT $2
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A row of `alerts`."""

    id: int
    key: str
    kind: str
    severity: str
    text: str
    since: datetime
    last_seen: datetime
    resolved_at: datetime | None
    resolution: str | None
    notified_at: datetime | None
    notified_severity: str | None

    @property
    def escalated(self) -> bool:
        """Whether it is worse than whoever was told of it knows."""
        return self.severity == "critical" and self.notified_severity == "warning"


async def open_alerts(sql: Sql, kinds: Sequence[str]) -> list[Alert]:
    """What is open of these kinds."""
    return [Alert(**dict(row)) for row in await sql.fetch(_OPEN, list(kinds))]


async def see(sql: Sql, *, key: str, kind: str, severity: str, text: str, since: datetime | None) -> bool:
    """The problem is there; returns whether that is new."""
    return bool(await sql.fetchval(_SEE, key, kind, severity, text, since))


async def resolve(sql: Sql, id_: int, resolution: str, *, after: timedelta) -> bool:
    """The problem is gone; False where it was still seen less than `after` ago, so that it may come again."""
    return await sql.execute(_RESOLVE, id_, resolution, after) == "UPDATE 1"


async def due_notices(sql: Sql, severities: Sequence[str], *, repeat_after: timedelta) -> list[Alert]:
    """Of what the webhook is to be told now: new problems, worse ones, old ones again, and ends."""
    return [Alert(**dict(row)) for row in await sql.fetch(_DUE, list(severities), repeat_after)]


async def told(sql: Sql, alert: Alert) -> None:
    """The webhook has accepted the notice."""
    await sql.execute(_TOLD, alert.id, alert.severity)


async def not_told(sql: Sql, id_: int, *, first: float, longest: float) -> None:
    """The webhook has not: wait `first` seconds, twice as long after each further failure, at most `longest`."""
    await sql.execute(_NOT_TOLD, id_, first, longest)


async def list_alerts(sql: Sql, *, resolved: bool, limit: int) -> list[Alert]:
    """Open ones first; with `resolved` also those of the last 30 days."""
    return [Alert(**dict(row)) for row in await sql.fetch(_LIST, resolved, limit)]
