"""What people ask about from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg

from receiver.event import SHARDS, Event
from receiver.store.log import generation
from receiver.store.rows import select_list, to_event
from receiver.store.sql import Sql

# The index on occurred_at is BRIN: cheap to search by a bound, no help for an order. So listings without a filter that
# has an index of its own look at a short time first, and further back only while they have found too little.
_WINDOWS: Final = (timedelta(hours=1), timedelta(days=1), timedelta(days=31))
_SLACK: Final = timedelta(minutes=5)  # no event is received more than this before it occurred

_FILTER: Final = """
    ($1::text[] IS NULL OR e.type = ANY ($1)) AND ($2::text IS NULL OR e.source = $2)
    AND ($3::text IS NULL OR e.provider = $3) AND ($4::text IS NULL OR e.recipient = $4)
    AND ($5::text IS NULL OR e.message_id = $5) AND ($6::boolean IS NULL OR e.is_test = $6)
"""
_LIST: Final = f"""
    SELECT row_to_json(e)::text FROM events e
    WHERE {_FILTER}
      AND ($7::timestamptz IS NULL OR (e.occurred_at >= $7 AND e.received_at >= $8))
      AND ($9::timestamptz IS NULL OR e.occurred_at < $9)
    ORDER BY e.occurred_at DESC, e.id DESC LIMIT $10
"""
_SHOW: Final = "SELECT row_to_json(e)::text FROM events e WHERE e.id = $1"
_EVENT: Final = f"SELECT {select_list('e')} FROM events e WHERE e.id = $1"

# What the last look's snapshot could not see yet: late commits are found whenever they come, and nothing twice.
_NEW: Final = f"""
    SELECT row_to_json(e)::text, e.received_at, e.position, NULL AS snapshot
    FROM generate_series(0, $9::int - 1) AS s (shard)
    CROSS JOIN LATERAL (
        SELECT * FROM events
        WHERE events.shard = s.shard AND events.gen = $8 AND events.txid >= pg_snapshot_xmin($7::text::pg_snapshot)
          AND NOT pg_visible_in_snapshot(events.txid, $7::text::pg_snapshot)
    ) AS e
    WHERE {_FILTER}
    UNION ALL
    SELECT NULL, NULL, NULL, pg_current_snapshot()::text
    ORDER BY 2, 3
"""
_SNAPSHOT: Final = "SELECT pg_current_snapshot()::text"

_QUARANTINE: Final = """
    SELECT id, source, provider, kind, why, size, accepted_at, received_at, resolved_at, resolution, reason
    FROM quarantine
    WHERE ($1::text IS NULL OR source = $1) AND ($2 OR resolved_at IS NULL) AND ($3::bigint IS NULL OR id = $3)
    ORDER BY id DESC LIMIT $4
"""
_REFUSED: Final = """
    SELECT id, source, reason, detail, times, host(client_ip) AS client_ip, size, refused_at
    FROM refused
    WHERE ($1::text IS NULL OR source = $1) AND ($2::text IS NULL OR reason = $2) AND ($3::bigint IS NULL OR id = $3)
    ORDER BY id DESC LIMIT $4
"""
_SEALED: Final = {
    "quarantine": "SELECT headers, body FROM quarantine WHERE id = $1",
    "refused": "SELECT headers, body FROM refused WHERE id = $1",
}
_DISCARD: Final = """
    UPDATE quarantine SET resolved_at = now(), resolution = 'discarded', reason = $2
    WHERE id = $1 AND resolved_at IS NULL
"""
_AUDIT: Final = "INSERT INTO audit_log (who, action, subject) VALUES ($1, $2, $3)"
_WORKERS: Final = "SELECT name FROM workers WHERE expires_at > clock_timestamp() ORDER BY name"
_LAST_EVENTS: Final = """
    SELECT s.source, e.received_at FROM unnest($1::text[]) AS s (source)
    CROSS JOIN LATERAL (
        SELECT max(received_at) AS received_at FROM events
        WHERE events.source = s.source AND occurred_at >= $2 AND received_at >= $2
    ) AS e
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events; None everywhere: all of them. `since` and `until` bound `occurred_at`."""

    types: Sequence[str] | None = None
    source: str | None = None
    provider: str | None = None
    recipient: str | None = None
    message_id: str | None = None
    tests: bool | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def values(self) -> tuple[object, ...]:
        """The parameters of the part that every statement shares."""
        types = None if self.types is None else list(self.types)
        return types, self.source, self.provider, self.recipient, self.message_id, self.tests

    @property
    def indexed(self) -> bool:
        """Whether an index leads to the events, however old they are."""
        return self.recipient is not None or self.message_id is not None


async def list_events(sql: Sql, wanted: EventFilter, limit: int) -> list[str]:
    """The newest events by `occurred_at`, newest first, each as JSON text of all its columns."""
    rows: list[asyncpg.Record] = []
    for since in _starts(wanted):
        bound = None if since is None else since - _SLACK
        rows = await sql.fetch(_LIST, *wanted.values, since, bound, wanted.until, limit)
        if len(rows) >= limit:
            break
    return [row[0] for row in rows]


def _starts(wanted: EventFilter) -> list[datetime | None]:
    if wanted.since is not None or wanted.indexed:
        return [wanted.since]
    end = wanted.until or datetime.now(UTC)
    return [*(end - window for window in _WINDOWS), None]


async def show_event(sql: Sql, id_: UUID) -> str | None:
    """The event as JSON text of all its columns, or None."""
    found: str | None = await sql.fetchval(_SHOW, id_)
    return found


async def get_event(sql: Sql, id_: UUID) -> Event | None:
    """The event as handlers get it, or None."""
    record = await sql.fetchrow(_EVENT, id_)
    return None if record is None else to_event(record)


@dataclass(slots=True)
class Follower:
    """New events as they are committed, each exactly once. `start` first; then `look` as often as wanted."""

    wanted: EventFilter
    gen: int = 0
    snapshot: str = field(default="")

    async def start(self, sql: Sql) -> None:
        """From now on."""
        self.gen = await generation(sql)
        self.snapshot = await sql.fetchval(_SNAPSHOT)

    async def look(self, sql: Sql) -> list[str]:
        """The events committed since the last look, as JSON text."""
        rows = await sql.fetch(_NEW, *self.wanted.values, self.snapshot, self.gen, SHARDS)
        self.snapshot = next(row["snapshot"] for row in rows if row["snapshot"] is not None)
        return [row[0] for row in rows if row["snapshot"] is None]


async def list_quarantine(
    sql: Sql, *, source: str | None = None, resolved: bool = False, id_: int | None = None, limit: int = 50
) -> list[asyncpg.Record]:
    """What is in quarantine, newest first, without its content."""
    return await sql.fetch(_QUARANTINE, source, resolved or id_ is not None, id_, limit)


async def list_refused(
    sql: Sql, *, source: str | None = None, reason: str | None = None, id_: int | None = None, limit: int = 50
) -> list[asyncpg.Record]:
    """The sample of refused requests, newest first, without their content."""
    return await sql.fetch(_REFUSED, source, reason, id_, limit)


async def sealed(sql: Sql, table: str, id_: int) -> tuple[bytes, bytes] | None:
    """Encrypted (headers, body) of a row of `quarantine` or `refused`, or None."""
    row = await sql.fetchrow(_SEALED[table], id_)
    return None if row is None else (row["headers"], row["body"])


async def discard_quarantine(sql: Sql, id_: int, reason: str | None) -> bool:
    """Mark as discarded; False where there is no such row, or it was resolved before."""
    return await sql.execute(_DISCARD, id_, reason) == "UPDATE 1"


async def write_audit(sql: Sql, who: str, action: str, subject: str) -> None:
    """Record who did something by hand."""
    await sql.execute(_AUDIT, who, action, subject)


async def last_events(sql: Sql, sources: Sequence[str], *, since: datetime) -> dict[str, datetime | None]:
    """When each source's newest event came, if that was after `since`."""
    rows = await sql.fetch(_LAST_EVENTS, list(sources), since)
    return {row["source"]: row["received_at"] for row in rows}


async def live_workers(sql: Sql) -> list[str]:
    """Names of the processes that run handlers now."""
    return [row["name"] for row in await sql.fetch(_WORKERS)]
