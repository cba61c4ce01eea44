"""Reading the log with gap-list cursors.

Transactions become visible in another order than they drew their ids and positions, so `position > last` loses events.
A cursor therefore remembers, besides the last event's place, which transactions at or below it were still running in
the very snapshot that the rows were read with: their events are looked up by transaction once they have committed.

Why that loses nothing and repeats nothing: a snapshot lists every transaction below its xmax that was running (xip).
A transaction below the last row that is not in the list had ended, so its rows were visible and were read. One that is
in the list is `pending`: its rows come as late rows of the first read that sees it ended, or never if it rolled back.
Nothing else can appear at or below the cursor, because ids are given out in order. It rests on this:

- rows and snapshot come from one statement;
- it runs on the primary: a standby reports running transactions as ended;
- no transaction that writes events lasts longer than `SLACK`;
- cursors in memory are dropped when the connection is lost;
- transaction ids do not go backwards: see `check_generation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Final

import asyncpg

from receiver.errors import SchemaError
from receiver.event import SHARDS, Event
from receiver.store.rows import event_of, select_list, to_event
from receiver.store.sql import Sql

SLACK: Final = timedelta(hours=1)  # how much longer than this no transaction that writes events may take
END_OF_TRANSACTION: Final = 2**63 - 1  # a position after every event of its transaction

# The row with ordinal 0 holds the snapshot and the clock; each other one an event of the cursor of that number.
# Cursors with nothing pending are spared the second probe by its one-time filter.
_READ: Final = f"""
SELECT {select_list("(NULL::events)")}, 0::bigint, false, pg_current_snapshot()::text, now()
UNION ALL
SELECT {select_list("e")}, u.ordinal, e.late, NULL, NULL
FROM unnest($1::int2[], $2::int2[], $3::xid8[], $4::int8[], $5::text[])
     WITH ORDINALITY AS u (shard, gen, txid, position, pending, ordinal)
CROSS JOIN LATERAL (
    (SELECT false AS late, events.* FROM events
     WHERE events.shard = u.shard AND (events.gen, events.txid, events.position) > (u.gen, u.txid, u.position)
       AND events.received_at >= $6
     ORDER BY events.gen, events.txid, events.position LIMIT $7)
    UNION ALL
    (SELECT true, events.* FROM events
     WHERE u.pending <> '{{}}' AND events.shard = u.shard AND events.gen = u.gen
       AND events.txid = ANY (u.pending::xid8[]) AND events.received_at >= $6)
) AS e
"""

# Everything that this statement's snapshot shows is before the cursor, everything else is after it or pending.
_CREATE: Final = """
INSERT INTO cursors (handler, shard, gen, txid, position, pending, read_from)
SELECT handler, shard, $3, (pg_snapshot_xmax(pg_current_snapshot())::text::numeric - 1)::text::xid8, $2,
       ARRAY(SELECT pg_snapshot_xip(pg_current_snapshot())), now()
FROM unnest($1::text[]) AS handler, generate_series(0, $4::int - 1) AS shard
ORDER BY handler, shard
ON CONFLICT DO NOTHING
"""

_GENERATION: Final = """
SELECT substring(pg_get_expr(adbin, adrelid) FROM '[0-9]+')::int FROM pg_attrdef
JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum
WHERE adrelid = 'events'::regclass AND attname = 'gen'
"""
_HIGHEST_CURSOR: Final = "SELECT txid FROM cursors WHERE gen >= $1 ORDER BY gen DESC, txid DESC LIMIT 1"
_HIGHEST_EVENT: Final = """
SELECT e.txid FROM generate_series(0, $2::int - 1) AS shard
CROSS JOIN LATERAL (
    SELECT txid FROM events WHERE events.shard = shard.shard AND gen >= $1
    ORDER BY gen DESC, txid DESC, position DESC LIMIT 1
) AS e ORDER BY e.txid DESC LIMIT 1
"""
_NEXT_TRANSACTION: Final = "SELECT pg_snapshot_xmax(pg_current_snapshot())"


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far one shard has been read. `pending`: transactions at or below `txid` that were still running, sorted."""

    gen: int
    txid: int
    position: int
    pending: tuple[int, ...]
    read_from: datetime

    def key(self, shard: int) -> CursorKey:
        """What two cursors have in common when the same events come next."""
        return shard, self.gen, self.txid, self.position, self.pending


CursorKey = tuple[int, int, int, int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Which transactions were running when rows were read, and when that was by Postgres's clock."""

    running: frozenset[int]
    read_at: datetime


@dataclass(frozen=True, slots=True)
class Page:
    """The next events of one shard after `start`: first the `late` ones, then the others in the log's order.

    `full`: there may be more. A page that is not full holds all that was visible.
    """

    shard: int
    start: Cursor
    events: Sequence[Event]
    late: int
    full: bool
    snapshot: Snapshot

    def after(self, count: int) -> Cursor:
        """The cursor when the first `count` events are done. Late events are done together: `count` >= `late`."""
        last: Event | Cursor = self.events[count - 1] if count > self.late else self.start
        # Ids of another generation are those of another server: what was pending there has ended.
        old = self.start.pending if last.gen == self.start.gen else ()
        running = self.snapshot.running
        pending = {x for x in old if x in running}
        if count > self.late:
            pending.update(x for x in running if x <= last.txid)
        return Cursor(last.gen, last.txid, last.position, tuple(sorted(pending)), self._read_from(count))

    def _read_from(self, count: int) -> datetime:
        """Whatever is not read yet was not committed when the page was read, or comes after its last event."""
        if count == len(self.events) and not self.full:
            return max(self.start.read_from, self.snapshot.read_at)
        if count == self.late:
            return self.start.read_from
        return max(self.start.read_from, self.events[count - 1].received_at)


async def read_pages(sql: Sql, cursors: Sequence[tuple[int, Cursor]], *, limit: int) -> list[Page]:
    """The next page of each (shard, cursor), in one statement; at most `limit` events each, besides late ones."""
    since = min(cursor.read_from for _, cursor in cursors) - SLACK
    rows = await sql.fetch(
        _READ,
        [shard for shard, _ in cursors],
        [cursor.gen for _, cursor in cursors],
        [cursor.txid for _, cursor in cursors],
        [cursor.position for _, cursor in cursors],
        [pending_text(cursor.pending) for _, cursor in cursors],
        since,
        limit,
    )
    late: list[list[Event]] = [[] for _ in cursors]
    ordered: list[list[Event]] = [[] for _ in cursors]
    for row in rows:
        *fields, ordinal, is_late, text, read_at = row
        if ordinal:
            (late if is_late else ordered)[ordinal - 1].append(event_of(fields))
        else:
            snapshot = Snapshot(running_of(text), read_at)
    return [_page(shard, cursor, late[n], ordered[n], limit, snapshot) for n, (shard, cursor) in enumerate(cursors)]


_place: Final = attrgetter("gen", "txid", "position")


def _page(shard: int, start: Cursor, late: list[Event], ordered: list[Event], limit: int, snapshot: Snapshot) -> Page:
    ordered.sort(key=_place)  # they come sorted, but SQL does not promise it through the join
    late.sort(key=_place)
    return Page(shard, start, late + ordered, len(late), len(ordered) >= limit, snapshot)


def running_of(snapshot: str) -> frozenset[int]:
    """The running transactions (xip) of a snapshot's text, `xmin:xmax:xip,xip,...`."""
    xip = snapshot.rpartition(":")[2]
    return frozenset(map(int, xip.split(","))) if xip else frozenset()


def pending_text(pending: Sequence[int]) -> str:
    """The text of an xid8[]."""
    return "{" + ",".join(map(str, pending)) + "}"


async def create_cursors(sql: Sql, handlers: Sequence[str]) -> None:
    """Give handlers that have no cursors yet some that stand at the log's present end.

    Exact: an event whose transaction had committed when this ran is before it, every other one will be read.
    """
    gen = await generation(sql)
    await sql.execute(_CREATE, list(handlers), END_OF_TRANSACTION, gen, SHARDS)


async def generation(sql: Sql) -> int:
    """The generation that new events get: the default of `events.gen`."""
    return int(await sql.fetchval(_GENERATION))


async def check_generation(sql: Sql) -> None:
    """Raises SchemaError when transaction ids have gone backwards.

    That happens when a dump is restored into a new server: new events would sort before the cursors and be lost.
    """
    gen = await generation(sql)
    highest = [await sql.fetchval(_HIGHEST_CURSOR, gen), await sql.fetchval(_HIGHEST_EVENT, gen, SHARDS)]
    # Asked for last: others write meanwhile, and their transactions must not look as if they came from the future.
    following = await sql.fetchval(_NEXT_TRANSACTION)
    if any(found is not None and found >= following for found in highest):
        raise SchemaError(
            "the database's transaction ids have gone backwards (was it restored from a dump?), so new events would "
            "be taken for old ones. With no service running, say once: "
            f"ALTER TABLE events ALTER COLUMN gen SET DEFAULT {gen + 1}"
        )


EVENT_BY_ID: Final = f"SELECT {select_list('events')} FROM events WHERE id = $1 AND received_at = $2"


async def find_event(sql: Sql, event_id: object, received_at: datetime) -> Event | None:
    """The event, or None when its partition is gone."""
    record = await sql.fetchrow(EVENT_BY_ID, event_id, received_at)
    return None if record is None else to_event(record)


# handler_states ---------------------------------------------------------------------------------------------------

_LAG_LIMIT: Final = 1000  # events counted per shard; more is "at least so many"

_STATES: Final = """
SELECT c.handler, count(*) AS shards, count(*) FILTER (WHERE c.lease_until > clock_timestamp()) AS leased,
       array_remove(array_agg(DISTINCT w.name ORDER BY w.name), NULL) AS owners,
       coalesce(sum(behind.events), 0)::bigint AS lag_events, max(now() - behind.oldest) AS lag,
       (SELECT count(*) FROM retries r WHERE r.handler = c.handler) AS retries,
       (SELECT count(*) FROM retries r WHERE r.handler = c.handler AND r.next_at <= clock_timestamp()) AS retries_due,
       (SELECT count(*) FROM dead_letters d WHERE d.handler = c.handler AND d.resolved_at IS NULL) AS dead_letters
FROM cursors c
LEFT JOIN workers w ON w.id = c.owner AND c.lease_until > clock_timestamp()
CROSS JOIN LATERAL (
    SELECT count(*) AS events, min(received_at) AS oldest FROM (
        SELECT e.received_at FROM events e
        WHERE e.shard = c.shard AND (e.gen, e.txid, e.position) > (c.gen, c.txid, c.position)
          AND e.received_at >= c.read_from - $2::interval
        ORDER BY e.gen, e.txid, e.position LIMIT $1
    ) AS unread
) AS behind
GROUP BY c.handler ORDER BY c.handler
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerState:
    """How one handler stands. `lag_events` counts at most 1000 per shard; `lag`: age of the oldest unread event."""

    handler: str
    shards: int
    leased: int
    owners: list[str]
    lag_events: int
    lag: timedelta | None
    retries: int
    retries_due: int
    dead_letters: int


async def handler_states(sql: Sql) -> list[HandlerState]:
    """Every handler that has cursors, by name."""
    rows: list[asyncpg.Record] = await sql.fetch(_STATES, _LAG_LIMIT, SLACK)
    return [HandlerState(**dict(row)) for row in rows]
