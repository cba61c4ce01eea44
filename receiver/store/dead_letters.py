"""Dead letters as people see them: listed, grouped, shown, retried, discarded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from receiver.event import Event
from receiver.store.replays import Accepts
from receiver.store.sql import Sql

CHUNK: Final = 500  # letters of one transaction

# What differs between two failures of one kind: ids, addresses in memory, numbers.
_VARIES: Final = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|0x[0-9a-f]+|\y[0-9a-f]{12,}\y|[0-9]+"
_KIND: Final = f"regexp_replace(error, '{_VARIES}', '#', 'gi')"
_GROUP: Final = f"""
left(encode(sha256(convert_to(concat_ws(E'\\n', handler, error_type, {_KIND}), 'UTF8')), 'hex'), 8)
"""
_CHOSEN: Final = f"""
    ($1::bigint[] IS NULL OR id = ANY ($1)) AND ($2::text IS NULL OR handler = $2)
    AND ($3::text IS NULL OR $3 IN (error_type, regexp_replace(error_type, '^.*\\.', '')))
    AND ($4::text IS NULL OR source = $4) AND ($5::text IS NULL OR event_type = $5)
    AND ($6::timestamptz IS NULL OR dead_at >= $6) AND ($7::text IS NULL OR {_GROUP} = $7)
    AND ($8::bigint IS NULL OR id <= $8) AND ($9 OR resolved_at IS NULL)
    AND ($10::bigint[] IS NULL OR id <> ALL ($10))
"""
_COLUMNS: Final = """
    id, handler, event_id, event_type, source, attempts, error_type, error, first_failed_at, dead_at,
    resolved_at, resolution, reason, replaying
"""
_LIST: Final = f"SELECT {_COLUMNS} FROM dead_letters WHERE {_CHOSEN} ORDER BY id DESC LIMIT $11"
_SHOW: Final = f"SELECT {_COLUMNS}, traceback, event FROM dead_letters WHERE id = $1"
_ATTEMPTS: Final = """
SELECT attempt, at, error_type, error, traceback, worker FROM attempts
WHERE handler = $1 AND event_id = $2 ORDER BY id
"""
_GROUPS: Final = f"""
SELECT {_GROUP} AS "group", handler, error_type, {_KIND} AS error, count(*) AS letters, min(dead_at) AS first,
       max(dead_at) AS last, max(id) AS example
FROM dead_letters WHERE {_CHOSEN}
GROUP BY 1, 2, 3, 4 ORDER BY letters DESC, last DESC LIMIT $11
"""
_COUNT: Final = f"""
SELECT count(*) AS letters, max(id) AS newest, count(*) FILTER (WHERE replaying) AS replaying
FROM dead_letters WHERE {_CHOSEN}
"""
_HANDLERS: Final = f"SELECT DISTINCT handler FROM dead_letters WHERE {_CHOSEN} ORDER BY 1"

# The rows are locked before they are judged, so that two people cannot both retry one.
_LOCK: Final = f"""
SELECT id, handler, event_id, (event->>'received_at')::timestamptz AS received_at, (event->>'shard')::smallint AS shard,
       CASE WHEN replaying THEN 'replay' ELSE 'failed' END AS cause
FROM dead_letters WHERE {_CHOSEN} ORDER BY id LIMIT {CHUNK} FOR UPDATE
"""
_RETRY: Final = f"""
WITH chosen AS ({_LOCK}), due AS (
    INSERT INTO retries (handler, event_id, event_received_at, shard, cause, next_at, dead_letter_id)
    SELECT handler, event_id, received_at, shard, cause, clock_timestamp(), id FROM chosen
    ON CONFLICT (handler, event_id) DO UPDATE SET
        cause = excluded.cause, attempt = 0, next_at = excluded.next_at, dead_letter_id = excluded.dead_letter_id,
        side_effects = false, replay_id = NULL
)
UPDATE dead_letters SET resolved_at = now(), resolution = 'retried' FROM chosen WHERE dead_letters.id = chosen.id
"""
_DISCARD: Final = f"""
WITH chosen AS ({_LOCK})
UPDATE dead_letters SET resolved_at = now(), resolution = 'discarded', reason = $11 FROM chosen
WHERE dead_letters.id = chosen.id
"""
# As the worker judges: by the event as it stands in the log, else by the letter's copy.
_REFUSED: Final = f"""
SELECT d.id FROM (SELECT id, event_id, event FROM dead_letters WHERE {_CHOSEN}) AS d
CROSS JOIN LATERAL (SELECT coalesce(
    (SELECT jsonb_build_object('type', type, 'provider', provider, 'source', source, 'stream', stream, 'tags', tags,
                               'actor', actor, 'is_test', is_test)
     FROM events WHERE id = d.event_id AND received_at = (d.event->>'received_at')::timestamptz),
    d.event
) AS e) AS one
WHERE (
    ($11::text[] IS NULL OR e->>'type' = ANY ($11)) AND ($12::text[] IS NULL OR e->>'provider' = ANY ($12))
    AND ($13::text[] IS NULL OR e->>'source' = ANY ($13)) AND ($14::text[] IS NULL OR e->>'stream' = ANY ($14))
    AND ($15::text[] IS NULL OR e->'tags' ?| $15) AND ($16 OR e->>'actor' IS DISTINCT FROM 'machine')
    AND ($17 OR (e->>'is_test')::boolean IS NOT TRUE)
) IS NOT TRUE ORDER BY 1
"""
# Not where a new letter of the event is open: one is enough.
_REOPEN: Final = """
WITH gone AS (
    DELETE FROM retries WHERE handler = $1 AND event_id = $2 AND dead_letter_id IS NOT NULL RETURNING dead_letter_id
)
UPDATE dead_letters mine SET resolved_at = NULL, resolution = NULL FROM gone
WHERE mine.id = gone.dead_letter_id AND mine.resolution = 'retried' AND NOT EXISTS (
    SELECT FROM dead_letters other
    WHERE other.handler = mine.handler AND other.event_id = mine.event_id AND other.resolved_at IS NULL
)
RETURNING mine.id
"""

_decode: Final = msgspec.json.Decoder(Event).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetters:
    """Which dead letters; with nothing said, all that are open.

    `error_type`: with or without its module. `group`: as `list_groups` names it. `since`: when the handler gave up.
    `newest`: the highest id, so that letters that come later are left alone. `resolved`: also what is closed.
    `left_out`: all but these.
    """

    ids: Sequence[int] | None = None
    handler: str | None = None
    error_type: str | None = None
    source: str | None = None
    event_type: str | None = None
    since: datetime | None = None
    group: str | None = None
    newest: int | None = None
    resolved: bool = False
    left_out: Sequence[int] | None = None

    @property
    def values(self) -> tuple[object, ...]:
        """The parameters of the part that every statement shares."""
        ids = None if self.ids is None else list(self.ids)
        named = (self.handler, self.error_type, self.source, self.event_type)
        left_out = None if self.left_out is None else list(self.left_out)
        return ids, *named, self.since, self.group, self.newest, self.resolved, left_out


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How many letters, the id of the newest, and how many of them came in a replay without side effects."""

    letters: int
    newest: int | None
    replaying: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A row of `dead_letters`, without the copy of its event.

    `replaying`: it came in a replay, without effects outside the database, and will again when it is retried.
    """

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
    replaying: bool


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
class FullDeadLetter(DeadLetter):
    """With the traceback, the copy of the event, and every attempt at it that is kept, the first one first."""

    traceback: str | None
    event: Event
    history: list[Attempt]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Dead letters of one handler that failed alike. `error`: with # for what differs. `example`: the newest's id."""

    group: str
    handler: str
    error_type: str
    error: str
    letters: int
    first: datetime
    last: datetime
    example: int


async def list_dead_letters(sql: Sql, which: DeadLetters = DeadLetters(), *, limit: int = 100) -> list[DeadLetter]:
    """The latest first."""
    return [DeadLetter(**dict(row)) for row in await sql.fetch(_LIST, *which.values, limit)]


async def list_groups(sql: Sql, which: DeadLetters = DeadLetters(), *, limit: int = 100) -> list[Group]:
    """The largest first."""
    return [Group(**dict(row)) for row in await sql.fetch(_GROUPS, *which.values, limit)]


async def count_dead_letters(sql: Sql, which: DeadLetters) -> Count:
    row = await sql.fetchrow(_COUNT, *which.values)
    assert row is not None
    return Count(**dict(row))


async def refused(sql: Sql, which: DeadLetters, accepts: Accepts) -> list[int]:
    """Ids of the letters whose events such a filter does not let through."""
    filter_ = (accepts.types, accepts.providers, accepts.sources, accepts.streams, accepts.tags)
    rows = await sql.fetch(_REFUSED, *which.values, *filter_, accepts.machines, accepts.tests)
    return [row["id"] for row in rows]


async def handlers_of(sql: Sql, which: DeadLetters) -> list[str]:
    """The handlers that gave these up."""
    return [row[0] for row in await sql.fetch(_HANDLERS, *which.values)]


async def show_dead_letter(sql: Sql, id_: int) -> FullDeadLetter | None:
    row = await sql.fetchrow(_SHOW, id_)
    if row is None:
        return None
    history = [Attempt(**dict(one)) for one in await sql.fetch(_ATTEMPTS, row["handler"], row["event_id"])]
    return FullDeadLetter(**dict(row) | {"event": _decode(row["event"]), "history": history})


async def retry(connection: asyncpg.Connection, which: DeadLetters) -> int:
    """Hand the events of up to CHUNK open letters to their handlers again, with all attempts before them.

    Returns how many letters that were; 0: there are no such open ones (any more).
    """
    return _affected(await connection.execute(_RETRY, *which.values))


async def reopen(sql: Sql, handler: str, event_id: UUID) -> int | None:
    """Take a letter's retry back, as nobody would handle the event; returns its id. None: it is no letter's."""
    found: int | None = await sql.fetchval(_REOPEN, handler, event_id)
    return found


async def discard(connection: asyncpg.Connection, which: DeadLetters, *, reason: str) -> int:
    """Close up to CHUNK open letters without another attempt; returns how many."""
    return _affected(await connection.execute(_DISCARD, *which.values, reason))


def _affected(tag: str) -> int:
    return int(tag.rpartition(" ")[2])
