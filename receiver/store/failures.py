"""Retries, attempts and dead letters: what is kept of failures. What people do with it is in `dead_letters.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from receiver.event import Event
from receiver.store.log import find_event
from receiver.store.privacy import ATTRIBUTION
from receiver.store.sql import Sql

MOST_ATTEMPTS: Final = 50  # kept of one event: one that asks for later may do so for ever
LONGEST_TRACEBACK: Final = 8_000  # characters kept of each attempt's; a dead letter has the whole of its last one

_RETRY: Final = """
INSERT INTO retries (handler, event_id, event_received_at, shard, cause, attempt, next_at, error, first_failed_at)
VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp() + $7 * interval '1 second', $8,
        CASE WHEN $5 = 'failed' THEN clock_timestamp() END)
ON CONFLICT (handler, event_id) DO UPDATE SET
    cause = CASE WHEN 'replay' IN (retries.cause, excluded.cause) THEN retries.cause ELSE excluded.cause END,
    attempt = excluded.attempt, next_at = excluded.next_at, error = excluded.error,
    first_failed_at = coalesce(retries.first_failed_at, excluded.first_failed_at)
"""

# A row that waits says how the event came, also when a rewind ($10) hands it over meanwhile: what has failed live is to
# have its effects when its letter is retried.
_BURY: Final = """
INSERT INTO dead_letters (handler, event_id, event, event_type, source, attempts, error_type, error, traceback,
                          first_failed_at, replay_id, replaying)
VALUES ($1, $2, $3::jsonb, $4, $5, $6, $7, $8, $9,
        coalesce((SELECT first_failed_at FROM retries WHERE handler = $1 AND event_id = $2), clock_timestamp()),
        (SELECT replay_id FROM retries WHERE handler = $1 AND event_id = $2),
        coalesce((SELECT cause = 'replay' AND NOT side_effects FROM retries WHERE handler = $1 AND event_id = $2), $10))
ON CONFLICT (handler, event_id) WHERE resolved_at IS NULL DO UPDATE SET
    attempts = excluded.attempts, error_type = excluded.error_type, error = excluded.error,
    traceback = excluded.traceback, dead_at = now(), replay_id = excluded.replay_id,
    replaying = dead_letters.replaying AND excluded.replaying
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
# Parked events (next_at = infinity) of a handler that was ordered and is no more wait for nothing.
_IS_DUE: Final = "(next_at <= clock_timestamp() OR next_at = 'infinity')"
_TAKE_DUE: Final = f"""
SELECT event_id, event_received_at, cause, attempt, dead_letter_id, side_effects FROM retries
WHERE handler = $1 AND {_IS_DUE}
  AND NOT EXISTS (SELECT FROM handlers WHERE name = $1 AND state = 'paused')
ORDER BY next_at LIMIT $2 FOR UPDATE SKIP LOCKED
"""
# A letter keeps its attempts, unless this was its retry: a replay leaves it as it is.
_SETTLE: Final = """
WITH done AS (DELETE FROM retries WHERE handler = $1 AND event_id = $2 RETURNING dead_letter_id)
DELETE FROM attempts WHERE handler = $1 AND event_id = $2
  AND (dead_letter_id IS NULL OR dead_letter_id IN (SELECT dead_letter_id FROM done))
"""
_DUE: Final = f"SELECT DISTINCT handler FROM retries WHERE handler = ANY ($1::text[]) AND {_IS_DUE}"
_POSTPONE: Final = """
UPDATE retries SET next_at = clock_timestamp() + $3 * interval '1 second' WHERE handler = $1 AND event_id = $2
"""
_COPY: Final = "SELECT event FROM dead_letters WHERE id = $1"

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
    sql: Sql,
    handler: str,
    event: Event,
    *,
    attempts: int,
    error_type: str,
    error: str,
    traceback: str | None,
    replaying: bool = False,
) -> None:
    """Keep the event as a dead letter, with a copy of it and its attempts; ends its retries.

    `replaying`: it came without effects outside the database, and will when it is retried.
    """
    letter = await sql.fetchval(
        _BURY,
        *(handler, event.id, _encode(event).decode(), str(event.type), event.source),
        *(attempts, error_type, error, traceback, replaying),
    )
    await sql.execute(_LAST_ATTEMPT, handler, event.id, attempts, error_type, error, traceback, letter)


async def due_handlers(sql: Sql, handlers: Sequence[str]) -> set[str]:
    """Which of the handlers have events that are due."""
    return {row[0] for row in await sql.fetch(_DUE, list(handlers))}


async def take_due(sql: Sql, handler: str, limit: int) -> list[Due]:
    """Those of the handler's events that are due longest, locked until the transaction ends."""
    return [await due_of(sql, row) for row in await sql.fetch(_TAKE_DUE, handler, limit)]


async def due_of(sql: Sql, row: asyncpg.Record) -> Due:
    """A row of `retries` with its event."""
    event = await find_event(sql, row["event_id"], row["event_received_at"])
    if row["dead_letter_id"] is not None and (event is None or _lacks_raw(event)):
        event = await _with_copy(sql, event, row["dead_letter_id"])
    replaying = row["cause"] == "replay" and not row["side_effects"]
    return Due(row["event_id"], event, row["cause"], row["attempt"], replaying)


def _lacks_raw(event: Event) -> bool:
    """Whether retention has taken it. What an erasure has taken is to be given to nobody."""
    return event.raw == "null" and event.attribution != ATTRIBUTION


async def _with_copy(sql: Sql, event: Event | None, letter: int) -> Event | None:
    """The letter's copy, or its raw alone: all else in the log may be better, having been read again since."""
    copy = await sql.fetchval(_COPY, letter)
    if copy is None:
        return event
    kept = _decode(copy)
    return kept if event is None else msgspec.structs.replace(event, raw=kept.raw, raw_altered=kept.raw_altered)


async def postpone(sql: Sql, handler: str, event_id: UUID, *, delay: float) -> None:
    """Hand the event over again in `delay` seconds; this was no attempt."""
    await sql.execute(_POSTPONE, handler, event_id, delay)


async def settle(sql: Sql, handler: str, event_id: UUID) -> None:
    """The event is handled and needs no further attempt; what is known of earlier ones is removed."""
    await sql.execute(_SETTLE, handler, event_id)
