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
- the server's clock does not go back for longer than that unnoticed: see `_SINCE`, and `server_clock`;
- cursors in memory are dropped when the connection is lost;
- transaction ids do not go backwards: see `check_generation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Final

import msgspec

from receiver.errors import SchemaError
from receiver.event import SHARDS, Event
from receiver.store.rows import event_of, select_list, to_event
from receiver.store.sql import Sql, array

SLACK: Final = timedelta(hours=1)  # how much longer than this no transaction that writes events may take
END_OF_TRANSACTION: Final = 2**63 - 1  # a position after every event of its transaction

FRESH: Final = 2.0  # seconds that a process keeps what it has read for a handler that comes later

# Where the server's clock has gone back, events are stored before the time that cursors have read up to.
_SINCE: Final = f"least($6, now() - interval '{SLACK.total_seconds():.0f} s')"

# The row with ordinal 0 holds the snapshot and the clock; each other one an event of the cursor of that number.
# Cursors with nothing pending are spared the second probe by its one-time filter.
_READ: Final = f"""
SELECT {select_list("(NULL::events)")}, 0::bigint, false, pg_current_snapshot()::text, now()
UNION ALL
SELECT {select_list("e")}, u.ordinal, e.late, NULL, NULL
FROM unnest($1::text::int2[], $2::text::int2[], $3::text::xid8[], $4::text::int8[], $5::text::text[])
     WITH ORDINALITY AS u (shard, gen, txid, position, pending, ordinal)
CROSS JOIN LATERAL (
    (SELECT false AS late, events.* FROM events
     WHERE events.shard = u.shard AND (events.gen, events.txid, events.position) > (u.gen, u.txid, u.position)
       AND events.received_at >= {_SINCE}
     ORDER BY events.gen, events.txid, events.position LIMIT $7)
    UNION ALL
    (SELECT true, events.* FROM events
     WHERE u.pending <> '{{}}' AND events.shard = u.shard AND events.gen = u.gen
       AND events.txid = ANY (u.pending::xid8[]) AND events.received_at >= {_SINCE})
) AS e
"""

# A cursor at this place, with those pending, has before it all that the statement's snapshot shows, and nothing else.
LAST_TRANSACTION: Final = "(pg_snapshot_xmax(pg_current_snapshot())::text::numeric - 1)::text::xid8"
RUNNING: Final = "ARRAY(SELECT pg_snapshot_xip(pg_current_snapshot()))"

_CREATE: Final = f"""
WITH made AS (
    INSERT INTO cursors (handler, shard, gen, txid, position, pending, read_from)
    SELECT handler, shard, $3, {LAST_TRANSACTION}, $2, {RUNNING}, now()
    FROM unnest($1::text[]) AS handler, generate_series(0, $4::int - 1) AS shard
    ORDER BY handler, shard
    ON CONFLICT DO NOTHING
    RETURNING handler, shard, gen, txid, pending
)
INSERT INTO handlers (name, began_at, began_gen, began_txid, began_pending)
SELECT handler, now(), gen, txid, pending FROM made WHERE shard = 0
ON CONFLICT (name) DO UPDATE SET
    began_at = excluded.began_at, began_gen = excluded.began_gen, began_txid = excluded.began_txid,
    began_pending = excluded.began_pending
RETURNING name
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


class Cursor(msgspec.Struct, frozen=True):
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


class Snapshot(msgspec.Struct, frozen=True):
    """Which transactions were running when rows were read, of which generation, and when by Postgres's clock."""

    running: frozenset[int]
    read_at: datetime
    gen: int


class Page(msgspec.Struct, frozen=True):
    """The next events of one shard after `start`: first the `late` ones, then the others in the log's order.

    `full`: there may be more. A page that is not full holds all that was visible. `end`: of a lane's page, where its
    cursor stands when everything is done.
    """

    shard: int
    start: Cursor
    events: Sequence[Event]
    late: int
    full: bool
    snapshot: Snapshot
    end: Cursor | None = None

    @property
    def more(self) -> bool:
        """Whether to read on at once: there may be more, or another shard's turn in a lane."""
        return self.full or self.end is not None

    def after(self, count: int) -> Cursor:
        """The cursor when the first `count` events are done. Late events are done together: `count` >= `late`."""
        if self.end is not None and count == len(self.events) and not self.full:
            return self.end
        last: Event | Cursor = self.events[count - 1] if count > self.late else self.start
        # Ids of another generation are those of another server: what was pending there has ended.
        old = self.start.pending if last.gen == self.start.gen else ()
        running = self.snapshot.running if last.gen >= self.snapshot.gen else frozenset[int]()
        pending = running.intersection(old)
        if count > self.late:
            pending |= {x for x in running if x <= last.txid}
        return Cursor(last.gen, last.txid, last.position, tuple(sorted(pending)), self._read_from(count))

    def _read_from(self, count: int) -> datetime:
        """Where all is done that was visible, what is left was not committed when the page was read.

        No event's own time says more: while the server's clock was back, later events were given earlier times.
        """
        if count == len(self.events) and not self.full:
            return max(self.start.read_from, self.snapshot.read_at)
        return self.start.read_from


async def read_pages(sql: Sql, cursors: Sequence[tuple[int, Cursor]], *, limit: int, gen: int) -> list[Page]:
    """The next page of each (shard, cursor), in one statement; at most `limit` events each, besides late ones.

    `gen`: the generation of new events, from `check_generation`.
    """
    since = min(cursor.read_from for _, cursor in cursors) - SLACK
    rows = await sql.fetch(
        _READ,
        array(shard for shard, _ in cursors),
        array(cursor.gen for _, cursor in cursors),
        array(cursor.txid for _, cursor in cursors),
        array(cursor.position for _, cursor in cursors),
        array(pending_text(cursor.pending) for _, cursor in cursors),
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
            snapshot = Snapshot(running_of(text), read_at, gen)
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


async def create_cursors(sql: Sql, handlers: Sequence[str]) -> list[str]:
    """Give handlers that have no cursors yet some that stand at the log's present end; returns which those were.

    Exact: an event whose transaction had committed when this ran is before it, every other one will be read.
    """
    gen = await generation(sql)
    return [row[0] for row in await sql.fetch(_CREATE, list(handlers), END_OF_TRANSACTION, gen, SHARDS)]


async def generation(sql: Sql) -> int:
    """The generation that new events get: the default of `events.gen`."""
    return int(await sql.fetchval(_GENERATION))


async def check_generation(sql: Sql) -> int:
    """The generation of new events. Raises SchemaError when transaction ids have gone backwards.

    That happens when a dump is restored into a new server: new events would sort before the cursors and be lost.
    """
    gen = await generation(sql)
    if await went_backwards(sql, gen):
        raise SchemaError(
            "the database's transaction ids have gone backwards (was it restored from a dump?), so new events would "
            "be taken for old ones. Stop every service that uses it and run `receiver cursors rebase`, once"
        )
    return gen


async def went_backwards(sql: Sql, gen: int) -> bool:
    """Whether an event or a cursor of this generation lies ahead of every transaction of this server."""
    highest = [await sql.fetchval(_HIGHEST_CURSOR, gen), await sql.fetchval(_HIGHEST_EVENT, gen, SHARDS)]
    # Asked for last: others write meanwhile, and their transactions must not look as if they came from the future.
    following = await sql.fetchval(_NEXT_TRANSACTION)
    return any(found is not None and found >= following for found in highest)


EVENT_BY_ID: Final = f"SELECT {select_list('events')} FROM events WHERE id = $1 AND received_at = $2"


async def find_event(sql: Sql, event_id: object, received_at: datetime) -> Event | None:
    """The event, or None when its partition is gone."""
    record = await sql.fetchrow(EVENT_BY_ID, event_id, received_at)
    return None if record is None else to_event(record)
