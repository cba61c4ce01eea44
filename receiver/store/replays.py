"""Replays: handing a selection of stored events to a handler again.

A replay walks through the log in the order of the index `events_log` and puts the events it selects into `retries`, a
chunk at a time and never far ahead of the workers. Where it stands is in its row, moved in the transaction that puts
the chunk: it can be stopped at any time and taken up again, by anybody.

An event that the handler has not read yet is left out: it comes by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from receiver.store.sql import Sql

CHUNK: Final = 500  # events of one transaction
AHEAD: Final = 1000  # events that wait for the workers at one time
MOST_FAILED: Final = 1000  # failed events after which a replay stops: the handler needs a person

_THE_END: Final = datetime(9999, 1, 1, tzinfo=UTC)

_WANTED: Final = """
    ($1::text[] IS NULL OR e.type = ANY ($1)) AND ($2::text[] IS NULL OR e.source = ANY ($2))
    AND ($3::text[] IS NULL OR e.provider = ANY ($3)) AND ($4::text IS NULL OR e.recipient = $4)
    AND ($5::uuid[] IS NULL OR e.id = ANY ($5)) AND e.received_at >= $6 AND e.received_at < $7
"""
_ACCEPTED: Final = """
    ($8::text[] IS NULL OR e.type = ANY ($8)) AND ($9::text[] IS NULL OR e.provider = ANY ($9))
    AND ($10::text[] IS NULL OR e.source = ANY ($10)) AND ($11::text[] IS NULL OR e.stream = ANY ($11))
    AND ($12::text[] IS NULL OR e.tags && $12) AND ($13 OR e.actor IS DISTINCT FROM 'machine')
    AND ($14 OR NOT e.is_test)
"""
_EVENTS: Final = f"""
    FROM events e JOIN cursors c ON c.handler = $15 AND c.shard = e.shard WHERE {_WANTED} AND {_ACCEPTED}
"""
_READ: Final = """
    ((e.gen, e.txid, e.position) <= (c.gen, c.txid, c.position) AND NOT (e.gen = c.gen AND e.txid = ANY (c.pending)))
"""

_COUNT: Final = f"""
SELECT e.type, count(*) FILTER (WHERE {_READ}) AS events, count(*) FILTER (WHERE NOT {_READ}) AS unread,
       min(e.received_at) FILTER (WHERE {_READ}) AS first, max(e.received_at) FILTER (WHERE {_READ}) AS last
{_EVENTS} GROUP BY 1 ORDER BY 2 DESC, 1
"""
_SAMPLE: Final = f"""
SELECT e.id, e.received_at, e.type, e.source, e.recipient {_EVENTS} AND {_READ} ORDER BY e.received_at DESC LIMIT 3
"""

_START: Final = """
INSERT INTO replays (handler, selection, accepts, side_effects, rate, events, started_by)
VALUES ($1, $2::jsonb, $3::jsonb, $4, $5, $6, $7) RETURNING id
"""
# With most options left out, a plan for whatever they may be reads the whole log where an index would do.
_OWN_PLANS: Final = "SET LOCAL plan_cache_mode = force_custom_plan"
_PLACE: Final = """
SELECT handler, selection, accepts, side_effects, shard, gen, txid, position, started_at FROM replays
WHERE id = $1 AND state = 'running' AND ($2::bigint IS NULL OR put + busy = $2) FOR UPDATE
"""
_PUT: Final = f"""
WITH page AS (
    SELECT e.id, e.received_at, e.shard, e.gen, e.txid, e.position {_EVENTS} AND {_READ}
      AND (e.shard, e.gen, e.txid, e.position) > ($16::int2, $17::int2, $18::xid8, $19::int8)
    ORDER BY e.shard, e.gen, e.txid, e.position LIMIT $20
), put AS (
    INSERT INTO retries (handler, event_id, event_received_at, shard, cause, next_at, side_effects, replay_id)
    SELECT $15, id, received_at, shard, 'replay', clock_timestamp(), $21, $22 FROM page
    ORDER BY shard, gen, txid, position
    ON CONFLICT (handler, event_id) DO NOTHING RETURNING event_id
)
SELECT shard, gen, txid, position, (SELECT count(*) FROM page) AS seen, (SELECT count(*) FROM put) AS put FROM page
ORDER BY shard DESC, gen DESC, txid DESC, position DESC LIMIT 1
"""
_MOVE: Final = """
UPDATE replays SET shard = $2, gen = $3, txid = $4, position = $5, put = put + $6, busy = busy + $7 WHERE id = $1
"""
_END: Final = "UPDATE replays SET state = $2, ended_at = now() WHERE id = $1 AND state = 'running'"
_STATE: Final = "SELECT state FROM replays WHERE id = $1 FOR UPDATE"
_TAKE_BACK: Final = """
WITH waiting AS (
    DELETE FROM retries WHERE replay_id = $1 RETURNING handler, event_id
), forgotten AS (
    DELETE FROM attempts USING waiting
    WHERE attempts.handler = waiting.handler AND attempts.event_id = waiting.event_id
      AND attempts.dead_letter_id IS NULL
)
SELECT count(*) FROM waiting
"""
_CANCEL: Final = "UPDATE replays SET state = 'cancelled', ended_at = now(), taken_back = $2 WHERE id = $1"

# One that is held behind another of its key stands as that does.
_IN_RETRIES: Final = """
SELECT CASE WHEN mine.error IS NULL AND ahead.attempt IS NULL THEN 'waiting'
            WHEN greatest(mine.attempt, ahead.attempt) > 0 THEN 'failed' ELSE 'asked' END AS standing,
       greatest(mine.created_at, mine.first_failed_at) AS since
FROM retries mine LEFT JOIN LATERAL (
    SELECT e.attempt FROM retries e
    WHERE e.handler = mine.handler AND e.ordering_key = mine.ordering_key AND e.filed < mine.filed
      AND e.error IS NOT NULL
    ORDER BY e.filed LIMIT 1
) AS ahead ON true
WHERE mine.replay_id = r.id
"""
_STANDING: Final = f"""
SELECT r.id, r.handler, r.state, r.side_effects, r.rate, r.events, r.put, r.busy, r.taken_back,
       r.started_at, r.started_by, r.ended_at, w.waiting, w.failed, w.asked, d.dead, d.unresolved
FROM replays r
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE standing = 'waiting') AS waiting,
           count(*) FILTER (WHERE standing = 'failed') AS failed,
           count(*) FILTER (WHERE standing = 'asked') AS asked
    FROM ({_IN_RETRIES}) AS one
) AS w
CROSS JOIN LATERAL (
    SELECT count(*) AS dead, count(*) FILTER (WHERE resolved_at IS NULL) AS unresolved
    FROM dead_letters WHERE replay_id = r.id
) AS d
WHERE ($1::bigint[] IS NULL OR r.id = ANY ($1)) AND ($2 OR r.state = 'running') ORDER BY r.id DESC LIMIT $3
"""
_FAILED_SINCE: Final = f"""
SELECT r.id, (SELECT count(*) FROM ({_IN_RETRIES}) AS one WHERE standing = 'failed' AND since >= $2)
             + (SELECT count(*) FROM dead_letters WHERE replay_id = r.id AND dead_at >= $2) AS failures
FROM unnest($1::bigint[]) AS r (id)
"""

_KNOWN: Final = "SELECT DISTINCT handler FROM cursors WHERE handler NOT LIKE '%/%' ORDER BY 1"
_REMOVED: Final = """
SELECT DISTINCT handler FROM cursors
WHERE EXISTS (SELECT FROM workers WHERE expires_at > clock_timestamp())
  AND NOT EXISTS (SELECT FROM workers WHERE handler = ANY (handlers) AND expires_at > clock_timestamp())
"""


class Obstacle(StrEnum):
    """Why nothing is handed to a handler at present."""

    PAUSED = "it is paused"
    BROKEN = "its breaker is open, because it failed for everything"
    RESTING = "it rests, as it has asked to"
    IDLE = "no worker runs it now"


_OBSTACLE: Final = f"""
SELECT CASE
    WHEN h.state = 'paused' THEN '{Obstacle.PAUSED}'
    WHEN h.breaker_since IS NOT NULL THEN '{Obstacle.BROKEN}'
    WHEN NOT EXISTS (SELECT FROM workers WHERE $1 = ANY (handlers) AND expires_at > clock_timestamp())
        THEN '{Obstacle.IDLE}'
    WHEN h.breaker_probe_at > clock_timestamp() THEN '{Obstacle.RESTING}'
END
FROM (SELECT) AS one LEFT JOIN handlers h ON h.name = $1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which events. `since` and `until` bound `received_at`: an outage of ours is known by our own clock."""

    types: list[str] | None = None
    sources: list[str] | None = None
    providers: list[str] | None = None
    recipient: str | None = None
    events: list[UUID] | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def everything(self) -> bool:
        """Whether nothing was said."""
        return self == Selection()


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepts:
    """A handler's own filter, as data; None: any."""

    types: list[str] | None = None
    providers: list[str] | None = None
    sources: list[str] | None = None
    streams: list[str] | None = None
    tags: list[str] | None = None
    machines: bool = True
    tests: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class OfType:
    """How many events of one type a replay would hand over, by when they were received. `unread`: left out."""

    type: str
    events: int
    unread: int
    first: datetime | None
    last: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far a replay has come, by what has become of the events that were `put`; the rest of those are handled.

    `waiting` for a worker; `failed` and to be tried again, or held behind one that has; likewise `asked`: the handler
    wants it later; `dead`: given up, of which `unresolved` are open letters still. Not put, but `busy`: those that
    waited in `retries` for a reason of their own. `taken_back`: put, and taken out again when it was cancelled, or its
    handler removed; None: neither, or by a release that did not count. `rate`: events a second at most.
    """

    id: int
    handler: str
    state: str
    side_effects: bool
    rate: float | None
    events: int
    put: int
    busy: int
    taken_back: int | None
    started_at: datetime
    started_by: str
    ended_at: datetime | None
    waiting: int
    failed: int
    asked: int
    dead: int
    unresolved: int

    @property
    def handled(self) -> int:
        if self.state == "cancelled" and self.taken_back is None:
            return 0  # nobody knows: its retries went with the handler
        return max(self.put - self.left - self.dead - (self.taken_back or 0), 0)

    @property
    def left(self) -> int:
        """Events that are in `retries`."""
        return self.waiting + self.failed + self.asked

    @property
    def seen(self) -> int:
        """Events that it has come past."""
        return self.put + self.busy

    @property
    def settled(self) -> int:
        """Events that need nothing more of the replay."""
        return self.seen - self.waiting

    @property
    def over(self) -> bool:
        """Whether everything was handed over and tried at least once."""
        return self.state != "running" and self.waiting == 0

    @property
    def ended(self) -> bool:
        """Whether nothing is left to cancel."""
        return self.state != "running" and self.left == 0


async def known_handlers(sql: Sql) -> list[str]:
    """The handlers that have run on this database."""
    return [row[0] for row in await sql.fetch(_KNOWN)]


async def removed_handlers(sql: Sql) -> set[str]:
    """Those whose cursors are kept though no worker has them any more; none while no worker runs at all."""
    return {row[0] for row in await sql.fetch(_REMOVED)}


async def obstacle(sql: Sql, handler: str) -> Obstacle | None:
    """Why nothing is handed to the handler at present; None: it runs."""
    found = await sql.fetchval(_OBSTACLE, handler)
    return None if found is None else Obstacle(found)


async def count_events(sql: Sql, handler: str, selection: Selection, accepts: Accepts) -> list[OfType]:
    """What a replay would hand over, by type, the most first."""
    rows = await sql.fetch(_COUNT, *_values(selection, accepts, _THE_END), handler)
    return [OfType(**dict(row)) for row in rows]


async def sample_events(sql: Sql, handler: str, selection: Selection, accepts: Accepts) -> list[asyncpg.Record]:
    """The newest few of what a replay would hand over."""
    return await sql.fetch(_SAMPLE, *_values(selection, accepts, _THE_END), handler)


async def start_replay(
    sql: Sql,
    handler: str,
    selection: Selection,
    accepts: Accepts,
    *,
    side_effects: bool,
    events: int,
    by: str,
    rate: float | None = None,
) -> int:
    """Make a replay that stands at the beginning; returns its number."""
    texts = (_encode(selection).decode(), _encode(accepts).decode())
    id_: int = await sql.fetchval(_START, handler, *texts, side_effects, rate, events, by)
    return id_


async def put_events(connection: asyncpg.Connection, id_: int, *, limit: int, seen: int | None = None) -> int:
    """Put the replay's next events into `retries`; returns how many were looked at.

    A replay that is at its end becomes `done`. Several processes may do this for one replay. `seen`: `Standing.seen`
    when `limit` was made up; where another process has put events since then, nothing is done.
    """
    async with connection.transaction():
        await connection.execute(_OWN_PLANS)
        row = await connection.fetchrow(_PLACE, id_, seen)
        if row is None:
            return 0
        selection, accepts = _selection(row["selection"]), _accepts(row["accepts"])
        values = _values(selection, accepts, row["started_at"])
        place = (row["shard"], row["gen"], row["txid"], row["position"])
        page = await connection.fetchrow(_PUT, *values, row["handler"], *place, limit, row["side_effects"], id_)
        if page is not None:
            last = (page["shard"], page["gen"], page["txid"], page["position"])
            await connection.execute(_MOVE, id_, *last, page["put"], page["seen"] - page["put"])
        looked_at: int = 0 if page is None else page["seen"]
        if looked_at < limit:
            await connection.execute(_END, id_, "done")
        return looked_at


async def set_rate(sql: Sql, ids: Sequence[int], rate: float) -> None:
    """Let these go on with another rate, also after the next stop."""
    await sql.execute("UPDATE replays SET rate = $2 WHERE id = ANY ($1) AND state = 'running'", list(ids), rate)


async def cancel_replay(connection: asyncpg.Connection, id_: int) -> int | None:
    """End a replay, and take back what was put and is not handled; returns how many events that are.

    None: it has ended, and nothing was changed.
    """
    async with connection.transaction():
        state = await connection.fetchval(_STATE, id_)
        taken: int = await connection.fetchval(_TAKE_BACK, id_)
        if state != "running" and not taken:
            return None
        await connection.execute(_CANCEL, id_, taken)
        return taken


async def list_replays(
    sql: Sql, ids: Sequence[int] | None = None, *, ended: bool = True, limit: int = 1000
) -> list[Standing]:
    """The latest first; without `ended`, those that have not put all their events yet."""
    rows = await sql.fetch(_STANDING, None if ids is None else list(ids), ended, limit)
    return [Standing(**dict(row)) for row in rows]


async def failures_since(sql: Sql, ids: Sequence[int], since: datetime) -> dict[int, int]:
    """Of each replay, how many events have failed, are held back behind one that has, or were given up since then."""
    return {row["id"]: row["failures"] for row in await sql.fetch(_FAILED_SINCE, list(ids), since)}


async def clock(sql: Sql) -> datetime:
    """The time by which failures are noted."""
    now: datetime = await sql.fetchval("SELECT clock_timestamp()")
    return now


_encode: Final = msgspec.json.Encoder().encode
_selection: Final = msgspec.json.Decoder(Selection).decode
_accepts: Final = msgspec.json.Decoder(Accepts).decode
_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _values(selection: Selection, accepts: Accepts, end: datetime) -> tuple[object, ...]:
    """The parameters 1 to 14. `end`: nothing that was received later."""
    until = min(selection.until or end, end)
    return (
        *(selection.types, selection.sources, selection.providers, selection.recipient, selection.events),
        *(selection.since or _LONG_AGO, until),
        *(accepts.types, accepts.providers, accepts.sources, accepts.streams, accepts.tags),
        *(accepts.machines, accepts.tests),
    )
