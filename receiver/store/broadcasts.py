"""Broadcasts in SQL: who gets one is queued piece by piece, in the order of `contacts.id`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias

import asyncpg

from receiver.store.sql import Sql
from receiver.store.where import Where

State: TypeAlias = Literal["running", "paused", "done", "cancelled"]

_COLUMNS: Final = """
id, name, template, topic, segment, filter::text AS filter, brand, account, data::text AS data, per_minute, state,
reason, expected, queued, last_contact_id, not_before, created_at, created_by, changed_at
"""
_MAKE: Final = f"""
INSERT INTO broadcasts (name, template, topic, segment, filter, brand, account, data, per_minute, expected, not_before,
                        created_by)
VALUES ($1, $2, $3, $4, $5::jsonb, $6, $7, $8::jsonb, $9, $10, coalesce($11, now()), $12)
ON CONFLICT (name) DO NOTHING RETURNING {_COLUMNS}
"""
_COUNTS: Final = "SELECT state, count(*) FROM sends WHERE broadcast_id = $1 GROUP BY state ORDER BY state"
_RUNNING: Final = """
SELECT id FROM broadcasts WHERE state = 'running' AND not_before <= clock_timestamp() + $1::interval ORDER BY id
"""
# Whoever has the row fills the outbox; it takes no lease that could outlive its process. What is held for hours, of
# people whose night it is, does not keep others waiting.
_LOCK: Final = "SELECT FROM broadcasts WHERE id = $1 AND state = 'running' FOR UPDATE SKIP LOCKED"
# A statement of its own: the one that has locked it would count what its snapshot shows, from before another's commit.
_LOCKED: Final = f"""
SELECT {_COLUMNS}, clock_timestamp() AS now,
       (SELECT count(*) FROM sends s WHERE s.broadcast_id = b.id AND s.state = 'queued'
          AND s.not_before <= statement_timestamp() + $2::interval) AS waiting
FROM broadcasts b WHERE id = $1
"""
_UP_TO: Final = "SELECT max(id) FROM (SELECT id FROM contacts WHERE id > $1 ORDER BY id LIMIT $2) AS c"
_QUEUE: Final = """
WITH chosen AS MATERIALIZED (
    SELECT c.id, c.address, row_number() OVER (ORDER BY c.id) AS number FROM contacts c
    WHERE c.id > {after}::bigint AND c.id <= {upto}::bigint AND {where}
    ORDER BY c.id LIMIT {room}::bigint
), queued AS (
    INSERT INTO sends (key, recipient, template, stream, topic, brand, account, data, handler, broadcast_id,
                       not_before, due_at)
    SELECT 'broadcast:' || b.name || ':' || chosen.address, chosen.address, b.template, 'marketing', b.topic, b.brand,
           b.account, b.data, 'broadcast', b.id, at, at
    FROM broadcasts b, chosen,
         LATERAL (SELECT {start}::timestamptz + {spacing}::interval * (chosen.number - 1) AS at) AS due
    WHERE b.id = {id}::bigint
    ON CONFLICT (key) DO NOTHING RETURNING 1
)
SELECT (SELECT count(*) FROM chosen) AS chosen, (SELECT max(id) FROM chosen) AS last,
       (SELECT count(*) FROM queued) AS queued
"""
_MOVE: Final = """
UPDATE broadcasts SET last_contact_id = $2, queued = queued + $3, not_before = greatest(not_before, $4) WHERE id = $1
"""
_SET: Final = """
UPDATE broadcasts SET state = $2, reason = $3, changed_at = clock_timestamp(),
       done_at = CASE WHEN $2 = 'done' THEN clock_timestamp() ELSE done_at END
WHERE name = $1 AND state = ANY ($4) RETURNING id
"""
# One that was queued as a whole is not queued again, for those who have come since.
_RESUME: Final = """
UPDATE broadcasts SET state = CASE WHEN done_at IS NULL THEN 'running' ELSE 'done' END, reason = '',
       changed_at = clock_timestamp()
WHERE name = $1 AND state = 'paused' RETURNING id
"""
_STOP: Final = """
UPDATE broadcasts SET state = 'paused', reason = $2, changed_at = clock_timestamp() WHERE id = $1 AND state = 'running'
"""
# Those in hand that no transport has been asked to send are not sent either: they are not the process's any more.
_RELEASE: Final = """
UPDATE sends SET state = 'queued', worker = NULL, lease_until = NULL
WHERE broadcast_id = $1 AND state = 'leased' AND begun_at IS NULL
"""
# What cancelling has left, and what a message in flight, or somebody, has put back since. A piece at a time.
_CANCELLED: Final = """
UPDATE sends s SET state = 'cancelled', settled_at = clock_timestamp(), reason = 'cancelled',
       detail = 'its broadcast is cancelled'
WHERE s.id IN (
    SELECT s.id FROM broadcasts b JOIN sends s ON s.broadcast_id = b.id
    WHERE b.state = 'cancelled' AND s.state = 'queued' LIMIT $1 FOR UPDATE OF s SKIP LOCKED
)
"""


async def make(sql: Sql, values: Sequence[object]) -> asyncpg.Record | None:
    """Its row; None: there is one of this name.

    `values`: (name, template, topic, segment, filter as JSON, brand, account, data as JSON, per_minute, expected,
    not_before, created_by).
    """
    return await sql.fetchrow(_MAKE, *values)


async def page(sql: Sql, *, name: str | None = None, after: int | None = None, limit: int) -> list[asyncpg.Record]:
    """Broadcasts, the newest first; `after`: those with a smaller id."""
    where = Where()
    where.add("name = {}::text", name)
    where.add("id < {}::bigint", after)
    query = f"SELECT {_COLUMNS} FROM broadcasts WHERE {where} ORDER BY id DESC LIMIT {limit:d}"
    return await sql.fetch(query, *where.values)


async def counts(sql: Sql, id_: int) -> dict[str, int]:
    """How many of its messages are in each state."""
    return {row["state"]: row["count"] for row in await sql.fetch(_COUNTS, id_)}


async def running(sql: Sql, ahead: timedelta) -> list[int]:
    """Those that have recipients left, and are due within that time."""
    return [row["id"] for row in await sql.fetch(_RUNNING, ahead)]


async def lock(sql: Sql, id_: int, ahead: timedelta) -> asyncpg.Record | None:
    """A running broadcast, with `now` and how many of its messages wait to go within that time, until the transaction
    ends.

    None: another process has it, or it does not run any more.
    """
    if await sql.fetchrow(_LOCK, id_) is None:
        return None
    return await sql.fetchrow(_LOCKED, id_, ahead)


async def next_contacts(sql: Sql, after: int, most: int) -> int | None:
    """The id up to which there are so many contacts after another; None: there are no more."""
    found: int | None = await sql.fetchval(_UP_TO, after, most)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Contacts of a broadcast: ids above `after`, up to `upto`, at most `room`.

    Their messages are due from `start` on, `spacing` apart.
    """

    id: int
    after: int
    upto: int
    room: int
    start: datetime
    spacing: timedelta


async def queue(sql: Sql, piece: Piece, text: str, values: Sequence[object]) -> asyncpg.Record:
    """Queue for those who fulfil a condition on `contacts c`, with parameters from $1 on: (chosen, last, queued)."""
    where = Where(values=list(values))
    parameters = {one.name: where.parameter(getattr(piece, one.name)) for one in fields(piece)}
    found = await sql.fetchrow(_QUEUE.format(where=text, **parameters), *where.values)
    assert found is not None
    return found


async def move(sql: Sql, id_: int, last: int, queued: int, not_before: datetime) -> None:
    """It has come so far."""
    await sql.execute(_MOVE, id_, last, queued, not_before)


async def set_state(sql: Sql, name: str, state: State, reason: str, *, only: Sequence[State]) -> int | None:
    """Its id; None where it is in none of the states `only`, or does not exist."""
    found: int | None = await sql.fetchval(_SET, name, state, reason, list(only))
    return found


async def resume(sql: Sql, name: str) -> int | None:
    """Its id; None where it is not paused, or does not exist."""
    found: int | None = await sql.fetchval(_RESUME, name)
    return found


async def release(sql: Sql, id_: int) -> None:
    """Put back what has been taken in hand and not begun."""
    await sql.execute(_RELEASE, id_)


async def cancel_rest(sql: Sql, most: int) -> bool:
    """Cancel what there is in the outbox of broadcasts that are cancelled, or so many; whether there may be more."""
    return (await sql.execute(_CANCELLED, most)).endswith(f" {most}")


async def stop(sql: Sql, id_: int, reason: str) -> None:
    """Pause a running one: it cannot go on as it is."""
    await sql.execute(_STOP, id_, reason)
