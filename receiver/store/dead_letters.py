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
"""
_COLUMNS: Final = """
    id, handler, event_id, event_type, source, attempts, error_type, error, first_failed_at, dead_at,
    resolved_at, resolution, reason, replaying
"""
_LIST: Final = f"SELECT {_COLUMNS} FROM dead_letters WHERE {_CHOSEN} ORDER BY id DESC LIMIT $10"
_SHOW: Final = f"SELECT {_COLUMNS}, traceback, event FROM dead_letters WHERE id = $1"
_ATTEMPTS: Final = """
SELECT attempt, at, error_type, error, traceback, worker FROM attempts
WHERE handler = $1 AND event_id = $2 ORDER BY id
"""
_GROUPS: Final = f"""
SELECT {_GROUP} AS "group", handler, error_type, {_KIND} AS error, count(*) AS letters, min(dead_at) AS first,
       max(dead_at) AS last, max(id) AS example
FROM dead_letters WHERE {_CHOSEN}
GROUP BY 1, 2, 3, 4 ORDER BY letters DESC, last DESC LIMIT $10
"""
_COUNT: Final = f"SELECT count(*) AS letters, max(id) AS newest FROM dead_letters WHERE {_CHOSEN}"
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
UPDATE dead_letters SET resolved_at = now(), resolution = 'discarded', reason = $10 FROM chosen
WHERE dead_letters.id = chosen.id
"""

_decode: Final = msgspec.json.Decoder(Event).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetters:
    """Which dead letters; with nothing said, all that are open.

    `error_type`: with or without its module. `group`: as `list_groups` names it. `since`: when the handler gave up.
    `newest`: the highest id, so that letters that come later are left alone. `resolved`: also what is closed.
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

    @property
    def values(self) -> tuple[object, ...]:
        """The parameters of the part that every statement shares."""
        ids = None if self.ids is None else list(self.ids)
        named = (self.handler, self.error_type, self.source, self.event_type)
        return ids, *named, self.since, self.group, self.newest, self.resolved


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


async def count_dead_letters(sql: Sql, which: DeadLetters) -> tuple[int, int | None]:
    """How many, and the id of the newest."""
    row = await sql.fetchrow(_COUNT, *which.values)
    assert row is not None
    return row["letters"], row["newest"]


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


async def discard(connection: asyncpg.Connection, which: DeadLetters, *, reason: str) -> int:
    """Close up to CHUNK open letters without another attempt; returns how many."""
    return _affected(await connection.execute(_DISCARD, *which.values, reason))


def _affected(tag: str) -> int:
    return int(tag.rpartition(" ")[2])
