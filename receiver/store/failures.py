"""Retries and dead letters: what is kept of failures, and what people do with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec

from receiver.event import Event
from receiver.store.log import find_event
from receiver.store.sql import Sql

MOST_ATTEMPTS: Final = 50  # kept of one event: one that asks for later may do so for ever
LONGEST_TRACEBACK: Final = 8_000  # characters kept of each attempt's; a dead letter has the whole of its last one

_RETRY: Final = """
INSERT INTO retries (handler, event_id, event_received_at, shard, cause, attempt, next_at, error, first_failed_at)
VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp() + $7 * interval '1 second', $8,
        CASE WHEN $5 = 'failed' THEN clock_timestamp() END)
ON CONFLICT (handler, event_id) DO UPDATE SET
    cause = CASE WHEN retries.cause = 'replay' THEN 'replay' ELSE excluded.cause END,
    attempt = excluded.attempt, next_at = excluded.next_at, error = excluded.error,
    first_failed_at = coalesce(retries.first_failed_at, excluded.first_failed_at)
"""

_BURY: Final = """
INSERT INTO dead_letters (handler, event_id, event, event_type, source, attempts, error_type, error, traceback,
                          first_failed_at, replay_id)
VALUES ($1, $2, $3::jsonb, $4, $5, $6, $7, $8, $9,
        coalesce((SELECT first_failed_at FROM retries WHERE handler = $1 AND event_id = $2), clock_timestamp()),
        (SELECT replay_id FROM retries WHERE handler = $1 AND event_id = $2))
ON CONFLICT (handler, event_id) WHERE resolved_at IS NULL DO UPDATE SET
    attempts = excluded.attempts, error_type = excluded.error_type, error = excluded.error,
    traceback = excluded.traceback, dead_at = now(), replay_id = excluded.replay_id
RETURNING id
"""

# The connection of a worker is named after it, so that nobody has to hand the name down to here.
_WORKER: Final = "replace(current_setting('application_name'), 'receiver dispatch ', '')"
_ATTEMPT: Final = f"""
WITH old AS (
    DELETE FROM attempts WHERE id IN (
        SELECT id FROM attempts WHERE handler = $1 AND event_id = $2 ORDER BY id DESC OFFSET {MOST_ATTEMPTS - 1})
)
INSERT INTO attempts (handler, event_id, attempt, error_type, error, traceback, worker)
VALUES ($1, $2, $3, $4, $5, right($6, {LONGEST_TRACEBACK}), {_WORKER})
"""
_LAST_ATTEMPT: Final = f"""
WITH earlier AS (UPDATE attempts SET dead_letter_id = $7 WHERE handler = $1 AND event_id = $2),
     settled AS (DELETE FROM retries WHERE handler = $1 AND event_id = $2)
INSERT INTO attempts (handler, event_id, attempt, error_type, error, traceback, worker, dead_letter_id)
VALUES ($1, $2, $3, $4, $5, right($6, {LONGEST_TRACEBACK}), {_WORKER}, $7)
"""
_ATTEMPTS: Final = """
SELECT attempt, at, error_type, error, traceback, worker FROM attempts
WHERE handler = $1 AND event_id = $2 ORDER BY id
"""

_TAKE_DUE: Final = """
SELECT event_id, event_received_at, cause, attempt, dead_letter_id, side_effects FROM retries
WHERE handler = $1 AND next_at <= clock_timestamp()
ORDER BY next_at LIMIT 1 FOR UPDATE SKIP LOCKED
"""
_SETTLE: Final = """
WITH done AS (DELETE FROM retries WHERE handler = $1 AND event_id = $2)
DELETE FROM attempts WHERE handler = $1 AND event_id = $2
"""
_DUE: Final = "SELECT DISTINCT handler FROM retries WHERE handler = ANY ($1::text[]) AND next_at <= clock_timestamp()"
_COPY: Final = "SELECT event FROM dead_letters WHERE id = $1"

_LIST: Final = """
SELECT id, handler, event_id, event_type, source, attempts, error_type, error, first_failed_at, dead_at,
       resolved_at, resolution, reason
FROM dead_letters
WHERE ($1::text IS NULL OR handler = $1) AND ($2 OR resolved_at IS NULL)
ORDER BY id DESC LIMIT $3
"""
_SHOW: Final = """
SELECT id, handler, event_id, event_type, source, attempts, error_type, error, first_failed_at, dead_at,
       resolved_at, resolution, reason, traceback, event
FROM dead_letters WHERE id = $1
"""

# The row is locked before it is judged, so that two people cannot both retry it.
_OPEN: Final = "SELECT handler, event_id, event FROM dead_letters WHERE id = $1 AND resolved_at IS NULL FOR UPDATE"
_RESOLVE: Final = "UPDATE dead_letters SET resolved_at = now(), resolution = $2, reason = $3 WHERE id = $1"
_RETRY_LETTER: Final = """
INSERT INTO retries (handler, event_id, event_received_at, shard, cause, next_at, dead_letter_id)
VALUES ($1, $2, $3, $4, 'failed', clock_timestamp(), $5)
ON CONFLICT (handler, event_id) DO UPDATE SET
    cause = excluded.cause, attempt = 0, next_at = excluded.next_at, dead_letter_id = excluded.dead_letter_id,
    replay_id = NULL
"""

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Event).decode


@dataclass(frozen=True, slots=True)
class Due:
    """An event whose time has come again. `failed`: attempts that have failed so far.

    `replaying`: it is handed over again by request, and without effects outside the database.
    """

    event_id: UUID
    event: Event | None
    cause: str
    failed: int
    replaying: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A row of `attempts`: one attempt that did not handle the event."""

    attempt: int
    at: datetime
    error_type: str
    error: str
    traceback: str | None
    worker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A row of `dead_letters`, without the copy of its event."""

    id: int
    handler: str
    event_id: UUID
    event_type: str
    source: str
    attempts: int
    error_type: str
    error: str
    first_failed_at: datetime | None
    dead_at: datetime
    resolved_at: datetime | None
    resolution: str | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FullDeadLetter(DeadLetter):
    """With the traceback, the copy of the event, and every attempt at it that is kept, the first one first."""

    traceback: str | None
    event: Event
    history: list[Attempt]


async def retry_later(  # noqa: PLR0913 - keywords that are columns
    sql: Sql,
    handler: str,
    event: Event,
    *,
    cause: str,
    attempts: int,
    delay: float,
    error: str,
    error_type: str = "",
    traceback: str | None = None,
) -> None:
    """Hand the event over again in `delay` seconds, and keep what came of this attempt."""
    text = f"{error_type}: {error}" if error_type else error
    await sql.execute(_RETRY, handler, event.id, event.received_at, event.shard, cause, attempts, delay, text)
    await sql.execute(_ATTEMPT, handler, event.id, attempts, error_type, error, traceback)


async def bury(
    sql: Sql, handler: str, event: Event, *, attempts: int, error_type: str, error: str, traceback: str | None
) -> None:
    """Keep the event as a dead letter, with a copy of it and its attempts; ends its retries."""
    letter = await sql.fetchval(
        _BURY,
        *(handler, event.id, _encode(event).decode(), str(event.type), event.source),
        *(attempts, error_type, error, traceback),
    )
    await sql.execute(_LAST_ATTEMPT, handler, event.id, attempts, error_type, error, traceback, letter)


async def due_handlers(sql: Sql, handlers: Sequence[str]) -> set[str]:
    """Which of the handlers have events that are due."""
    return {row[0] for row in await sql.fetch(_DUE, list(handlers))}


async def take_due(sql: Sql, handler: str) -> Due | None:
    """The handler's event that is due longest, locked until the transaction ends; None when nothing is."""
    row = await sql.fetchrow(_TAKE_DUE, handler)
    if row is None:
        return None
    event = await find_event(sql, row["event_id"], row["event_received_at"])
    if event is None and row["dead_letter_id"] is not None:
        event = _decode(await sql.fetchval(_COPY, row["dead_letter_id"]))
    replaying = row["cause"] == "replay" and not row["side_effects"]
    return Due(row["event_id"], event, row["cause"], row["attempt"], replaying)


async def settle(sql: Sql, handler: str, event_id: UUID) -> None:
    """The event is handled and needs no further attempt; what is known of earlier ones is removed."""
    await sql.execute(_SETTLE, handler, event_id)


# For people -------------------------------------------------------------------------------------------------------


async def list_dead_letters(
    sql: Sql, *, handler: str | None = None, resolved: bool = False, limit: int = 100
) -> list[DeadLetter]:
    """The latest first; with `resolved`, those that were retried or discarded too."""
    return [DeadLetter(**dict(row)) for row in await sql.fetch(_LIST, handler, resolved, limit)]


async def show_dead_letter(sql: Sql, id_: int) -> FullDeadLetter | None:
    row = await sql.fetchrow(_SHOW, id_)
    if row is None:
        return None
    history = [Attempt(**dict(one)) for one in await sql.fetch(_ATTEMPTS, row["handler"], row["event_id"])]
    return FullDeadLetter(**dict(row) | {"event": _decode(row["event"]), "history": history})


async def retry_dead_letter(connection: asyncpg.Connection, id_: int) -> bool:
    """Hand the letter's event to its handler again, now, with all attempts before it; False: no such open letter."""
    async with connection.transaction():
        row = await connection.fetchrow(_OPEN, id_)
        if row is None:
            return False
        event = _decode(row["event"])
        place: tuple[Any, ...] = (event.received_at, event.shard)
        await connection.execute(_RETRY_LETTER, row["handler"], row["event_id"], *place, id_)
        await connection.execute(_RESOLVE, id_, "retried", None)
        return True


async def discard_dead_letter(connection: asyncpg.Connection, id_: int, *, reason: str) -> bool:
    """Close the letter without another attempt; False: no such open letter."""
    async with connection.transaction():
        if await connection.fetchrow(_OPEN, id_) is None:
            return False
        await connection.execute(_RESOLVE, id_, "discarded", reason)
        return True
