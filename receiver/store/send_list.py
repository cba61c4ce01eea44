"""The outbox for people and programs: listed, shown, queued again, and cancelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

import asyncpg

from receiver.store.sql import Sql
from receiver.store.where import Where

State: TypeAlias = Literal["queued", "leased", "sent", "unknown", "failed", "skipped", "cancelled"]
STATES: Final[tuple[State, ...]] = ("queued", "leased", "sent", "unknown", "failed", "skipped", "cancelled")

_COLUMNS: Final = """
s.id, s.key, s.state, s.recipient, s.template, s.stream, s.topic, s.brand, s.account, s.handler, s.rule, s.event_id,
s.broadcast_id, s.depth, s.cancel_on, s.attempts, s.not_before, coalesce(s.due_at, s.not_before) AS due_at,
s.expires_at, s.begun_at, s.settled_at, s.reason, s.detail, s.provider_message_id, s.internet_message_id, s.created_at
"""
_GET: Final = f"SELECT {_COLUMNS}, s.data::text AS data, s.message IS NOT NULL AS message FROM sends s WHERE s.id = $1"
_ATTEMPTS: Final = """
SELECT attempt, at, account, outcome, detail, checks::text AS checks FROM send_attempts WHERE send_id = $1 ORDER BY id
"""
# By our id in the metadata, or the provider's id of the message; both within the recipient's events, which are few.
_EVENTS: Final = """
SELECT id, occurred_at, type, source, actor, url FROM events
WHERE recipient = $1 AND received_at >= $2 AND (metadata->>'send_id' = $3 OR message_id = $4)
ORDER BY occurred_at, id LIMIT 200
"""
# The deadline begins anew. Of the old attempt nothing is known any more that could still settle it.
_RETRY: Final = """
UPDATE sends SET state = 'queued', settled_at = NULL, begun_at = NULL, worker = NULL, lease_until = NULL,
       reason = 'retry', detail = 'somebody asked for it', not_before = clock_timestamp(), due_at = clock_timestamp()
WHERE id = ANY ($1) AND state IN ('failed', 'unknown') RETURNING id
"""
PIECE: Final = 5000  # sends that one statement cancels
_WAITS: Final = "(s.state = 'queued' OR s.state = 'leased' AND s.begun_at IS NULL)"
_CANCEL: Final = """
UPDATE sends s SET state = 'cancelled', settled_at = clock_timestamp(), worker = NULL, lease_until = NULL,
       reason = 'cancelled', detail = 'somebody asked for it'
WHERE s.id IN (SELECT s.id FROM sends s WHERE {where} LIMIT {most} FOR UPDATE) RETURNING id
"""
_ACCOUNTS: Final = """
SELECT name, paused_at, paused_until, paused_by, reason, failures FROM send_accounts ORDER BY name
"""
_SENT: Final = """
SELECT account, count(*) FILTER (WHERE settled_at > clock_timestamp() - interval '1 hour') AS hour, count(*) AS day
FROM sends WHERE state = 'sent' AND settled_at > clock_timestamp() - interval '1 day' AND account IS NOT NULL
GROUP BY account
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Which:
    """Which sends: all that is given holds. `recipient`: normalized. `key`: how their keys begin."""

    ids: Sequence[UUID] | None = None
    states: Sequence[State] | None = None
    recipient: str | None = None
    template: str | None = None
    rule: str | None = None
    broadcast: int | None = None
    key: str | None = None
    since: datetime | None = None

    def where(self) -> Where:
        """On `sends s`."""
        found = Where()
        found.add("s.id = ANY ({}::uuid[])", None if self.ids is None else list(self.ids))
        found.add("s.state = ANY ({}::text[])", None if self.states is None else list(self.states))
        found.add("s.recipient = {}::text", self.recipient)
        found.add("s.template = {}::text", self.template)
        found.add("s.rule = {}::text", self.rule)
        found.add("s.broadcast_id = {}::bigint", self.broadcast)
        found.add("starts_with(s.key, {}::text)", self.key)
        found.add("s.created_at >= {}::timestamptz", self.since)
        return found


async def page(
    sql: Sql, which: Which, *, after: tuple[datetime, UUID] | None = None, limit: int
) -> list[asyncpg.Record]:
    """The newest, or those that come after a place (created_at, id)."""
    where = which.where()
    where.after(("s.created_at", "s.id"), ("timestamptz", "uuid"), after, to="<")
    query = f"SELECT {_COLUMNS} FROM sends s WHERE {where} ORDER BY s.created_at DESC, s.id DESC LIMIT {limit:d}"
    return await sql.fetch(query, *where.values)


async def get(sql: Sql, id_: UUID) -> asyncpg.Record | None:
    """One send; `data` is JSON text, `message` says whether it has content of its own instead of a template."""
    return await sql.fetchrow(_GET, id_)


async def by_keys(sql: Sql, keys: Sequence[str]) -> dict[str, asyncpg.Record]:
    """Sends by their keys."""
    rows = await sql.fetch(f"SELECT {_COLUMNS} FROM sends s WHERE s.key = ANY ($1)", list(keys))
    return {row["key"]: row for row in rows}


async def attempts(sql: Sql, id_: UUID) -> list[asyncpg.Record]:
    """(attempt, at, account, outcome, detail, checks as JSON text), in order of time."""
    return await sql.fetch(_ATTEMPTS, id_)


async def events_of(sql: Sql, send: asyncpg.Record) -> list[asyncpg.Record]:
    """What providers have told of the message: (id, occurred_at, type, source, actor, url)."""
    return await sql.fetch(_EVENTS, send["recipient"], send["created_at"], str(send["id"]), send["provider_message_id"])


async def retry(sql: Sql, ids: Sequence[UUID]) -> list[UUID]:
    """Queue those of them again that have failed, or whose outcome is unknown; their ids."""
    return [row["id"] for row in await sql.fetch(_RETRY, list(ids))]


async def count_waiting(sql: Sql, which: Which) -> int:
    """How many `cancel` would cancel."""
    where = which.where()
    found: Any = await sql.fetchval(f"SELECT count(*) FROM sends s WHERE {_WAITS} AND {where}", *where.values)
    return int(found)


async def cancel(sql: Sql, which: Which) -> list[UUID]:
    """Cancel those that no transport has been asked to send yet, or that wait for another attempt; their ids.

    Of many a piece at a time, so that no transaction is long: as many as PIECE, and there may be more.
    """
    where = which.where()
    rows = await sql.fetch(_CANCEL.format(where=f"{_WAITS} AND {where}", most=PIECE), *where.values)
    return [row["id"] for row in rows]


async def accounts(sql: Sql) -> dict[str, dict[str, Any]]:
    """By name: paused_at, paused_until, paused_by, reason, failures, and how many were sent in an hour and a day."""
    nothing = {"paused_at": None, "paused_until": None, "paused_by": None, "reason": "", "failures": 0}
    found = {row["name"]: {**row, "hour": 0, "day": 0} for row in await sql.fetch(_ACCOUNTS)}
    for row in await sql.fetch(_SENT):
        found.setdefault(row["account"], {"name": row["account"], **nothing}).update(hour=row["hour"], day=row["day"])
    return found
