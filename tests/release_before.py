"""What the release before this one (schema 1) says to the database, and as much around it as makes it work.

The statements are its own, word for word: they are here because this release has others. What it does with `events`
alone is the same in both releases, and is taken from this one. When a release has been made from schema 2, this file
becomes that release's.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import msgspec

from receiver.cli import main
from receiver.event import Event
from receiver.store import schema
from receiver.store.leases import share
from receiver.store.log import END_OF_TRANSACTION, Cursor, find_event, pending_text, read_pages
from receiver.store.schema import MIGRATIONS, migration_sql
from tests.log_events import store

VERSION: Final = 1
OLDEST: Final = "SELECT oldest_version FROM schema_versions ORDER BY version DESC LIMIT 1"
NEW_IDS: Final = "INSERT INTO event_ids (id) SELECT unnest($1::uuid[]) ON CONFLICT DO NOTHING RETURNING id"
QUARANTINE: Final = """
    INSERT INTO quarantine (source, provider, kind, why, fingerprint, size, headers, body, accepted_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    ON CONFLICT (source, fingerprint) WHERE resolved_at IS NULL DO NOTHING
"""
CREATE: Final = """
INSERT INTO cursors (handler, shard, gen, txid, position, pending, read_from)
SELECT handler, shard, $3, (pg_snapshot_xmax(pg_current_snapshot())::text::numeric - 1)::text::xid8, $2,
       ARRAY(SELECT pg_snapshot_xip(pg_current_snapshot())), now()
FROM unnest($1::text[]) AS handler, generate_series(0, $4::int - 1) AS shard
ORDER BY handler, shard
ON CONFLICT DO NOTHING
"""
TAKE: Final = """
WITH free AS MATERIALIZED (
    SELECT shard FROM cursors
    WHERE handler = $1 AND (lease_until < clock_timestamp() OR (owner = $2 AND NOT shard = ANY ($4::int2[])))
    ORDER BY shard LIMIT $5 FOR UPDATE SKIP LOCKED
)
UPDATE cursors SET owner = $2, epoch = cursors.epoch + 1, lease_until = clock_timestamp() + $3 * interval '1 second'
FROM free WHERE cursors.handler = $1 AND cursors.shard = free.shard
RETURNING cursors.shard, cursors.epoch, cursors.ctid, gen, txid, position, pending, read_from
"""
RENEW: Final = """
WITH mine AS MATERIALIZED (
    SELECT handler, shard FROM cursors WHERE owner = $1 AND lease_until < clock_timestamp() + $2 * interval '0.7 second'
    ORDER BY handler, shard FOR UPDATE SKIP LOCKED
)
UPDATE cursors SET lease_until = clock_timestamp() + $2 * interval '1 second'
FROM mine WHERE cursors.handler = mine.handler AND cursors.shard = mine.shard
"""
RELEASE: Final = """
UPDATE cursors SET owner = NULL, lease_until = '-infinity'
FROM unnest($3::int2[], $4::bigint[]) AS gone (shard, epoch)
WHERE cursors.handler = $1 AND cursors.owner = $2 AND cursors.shard = gone.shard AND cursors.epoch = gone.epoch
"""
RELEASE_ALL: Final = "UPDATE cursors SET owner = NULL, lease_until = '-infinity' WHERE owner = $1"
LEAVE: Final = "DELETE FROM workers WHERE id = $1"
JOIN: Final = """
INSERT INTO workers (id, name, handlers, expires_at) VALUES ($1, $2, $3, clock_timestamp() + $4 * interval '1 second')
ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at
"""
PEERS: Final = "SELECT id, handlers FROM workers WHERE expires_at > clock_timestamp()"
ACK: Final = """
UPDATE cursors
SET gen = u.gen, txid = u.txid, position = u.position, pending = u.pending::xid8[], read_from = u.read_from,
    updated_at = clock_timestamp(), lease_until = clock_timestamp() + $3 * interval '1 second'
FROM unnest($4::int2[], $5::bigint[], $6::tid[], $7::int2[], $8::xid8[], $9::int8[], $10::text[], $11::timestamptz[])
     AS u (shard, epoch, tid, gen, txid, position, pending, read_from)
WHERE u.tid IS NOT NULL AND cursors.handler = $1 AND cursors.owner = $2
  AND cursors.shard = u.shard AND cursors.epoch = u.epoch
RETURNING cursors.shard, cursors.ctid
"""
RETRY: Final = """
INSERT INTO retries (handler, event_id, event_received_at, shard, cause, attempt, next_at, error, first_failed_at)
VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp() + $7 * interval '1 second', $8,
        CASE WHEN $5 = 'failed' THEN clock_timestamp() END)
ON CONFLICT (handler, event_id) DO UPDATE SET
    cause = CASE WHEN retries.cause = 'replay' THEN 'replay' ELSE excluded.cause END,
    attempt = excluded.attempt, next_at = excluded.next_at, error = excluded.error,
    first_failed_at = coalesce(retries.first_failed_at, excluded.first_failed_at)
"""
BURY: Final = """
INSERT INTO dead_letters (handler, event_id, event, event_type, source, attempts, error_type, error, traceback,
                          first_failed_at)
VALUES ($1, $2, $3::jsonb, $4, $5, $6, $7, $8, $9,
        coalesce((SELECT first_failed_at FROM retries WHERE handler = $1 AND event_id = $2), clock_timestamp()))
ON CONFLICT (handler, event_id) WHERE resolved_at IS NULL DO UPDATE SET
    attempts = excluded.attempts, error_type = excluded.error_type, error = excluded.error,
    traceback = excluded.traceback, dead_at = now()
"""
TAKE_DUE: Final = """
SELECT event_id, event_received_at, cause, attempt, dead_letter_id FROM retries
WHERE handler = $1 AND next_at <= clock_timestamp()
ORDER BY next_at LIMIT 1 FOR UPDATE SKIP LOCKED
"""
SETTLE: Final = "DELETE FROM retries WHERE handler = $1 AND event_id = $2"
OPEN: Final = "SELECT handler, event_id, event FROM dead_letters WHERE id = $1 AND resolved_at IS NULL FOR UPDATE"
RETRY_LETTER: Final = """
INSERT INTO retries (handler, event_id, event_received_at, shard, cause, next_at, dead_letter_id)
VALUES ($1, $2, $3, $4, 'failed', clock_timestamp(), $5)
ON CONFLICT (handler, event_id) DO UPDATE SET
    attempt = 0, next_at = excluded.next_at, dead_letter_id = excluded.dead_letter_id
"""
RESOLVE: Final = "UPDATE dead_letters SET resolved_at = now(), resolution = $2, reason = $3 WHERE id = $1"

_TTL: Final = 10.0
_BACKOFF: Final = 0.05  # seconds
_CONFLICT: Final = (asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError)  # it tries such a batch again

Handle = Callable[[asyncpg.Connection, Event, int], Awaitable[None]]


async def make_schema(connection: asyncpg.Connection, version: int = VERSION) -> None:
    """Replace whatever the database has by an earlier schema: that of the release before, or another."""
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    for migration in MIGRATIONS[:version]:
        await connection.execute(migration_sql(migration))
    await connection.execute(
        "INSERT INTO schema_versions (version, oldest_version, oldest_release) VALUES ($1, 1, '0.1.0')", version
    )


async def receive(connection: asyncpg.Connection, count: int) -> list[UUID]:
    """Store events, and one thing in quarantine, as its web processes do: whoever makes them wait makes them refuse."""
    async with connection.transaction():
        await connection.execute("SET LOCAL lock_timeout = '2s'; SET LOCAL statement_timeout = '15s'")
        ids = await store(connection, count)
        assert len(await connection.fetch(NEW_IDS, sorted(ids))) == count
        seen = (await connection.fetchval("SELECT now()"),)
        await connection.execute(
            QUARANTINE, *("test", "resend", "item", "no type"), uuid4().bytes, 2, b"headers", b"{}", *seen
        )
    return ids


async def retry_letter(connection: asyncpg.Connection, id_: int) -> None:
    """What its command line does with a dead letter."""
    async with connection.transaction():
        row = await connection.fetchrow(OPEN, id_)
        assert row is not None
        event = msgspec.json.decode(row["event"], type=Event)
        await connection.execute(RETRY_LETTER, row["handler"], row["event_id"], event.received_at, event.shard, id_)
        await connection.execute(RESOLVE, id_, "retried", None)


class LeaseLost(Exception):
    """Somebody else has the shard."""


@dataclass
class Worker:
    """One of its workers, for one handler. `handle` is its function: what it raises is a failure."""

    connection: asyncpg.Connection
    handler: str
    handle: Handle
    max_attempts: int
    id: UUID = field(default_factory=uuid4)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    conflicts: int = 0

    async def run(self) -> None:
        """Until stopped; ends by whatever the database refuses."""
        sql = self.connection
        await sql.execute(CREATE, [self.handler], END_OF_TRANSACTION, 1, 64)
        while not self.stop.is_set():
            try:
                for row in await self._balanced():
                    await self._read(row)
                while await self._retry_next():
                    pass
            except _CONFLICT:
                self.conflicts += 1
            await asyncio.sleep(0.01)
        await sql.execute(RELEASE_ALL, self.id)
        await sql.execute(LEAVE, self.id)

    async def _balanced(self) -> list[asyncpg.Record]:
        """Its shards, leased anew for this round; what is more than its part goes back."""
        sql = self.connection
        await sql.execute(JOIN, self.id, "the release before", [self.handler], _TTL)
        await sql.execute(RENEW, self.id, _TTL)
        peers = [id_ for id_, handlers in await sql.fetch(PEERS) if self.handler in handlers]
        taken = await sql.fetch(TAKE, self.handler, self.id, _TTL, [], 64)
        quota = share(peers, self.id)
        gone = taken[quota:]
        await sql.execute(
            RELEASE, self.handler, self.id, [row["shard"] for row in gone], [row["epoch"] for row in gone]
        )
        return taken[:quota]

    async def _read(self, row: asyncpg.Record) -> None:
        cursor = Cursor(row["gen"], row["txid"], row["position"], tuple(row["pending"]), row["read_from"])
        (page,) = await read_pages(self.connection, [(row["shard"], cursor)], limit=20, gen=1)
        if page.events:
            async with self.connection.transaction():
                for event in page.events:
                    await self._attempt(event, failed=0)
                await self._ack(row, page.after(len(page.events)))

    async def _ack(self, row: asyncpg.Record, to: Cursor) -> None:
        place = ([to.gen], [to.txid], [to.position], [pending_text(to.pending)], [to.read_from])
        lease: tuple[Any, ...] = ([row["shard"]], [row["epoch"]], [row["ctid"]])
        if not await self.connection.fetch(ACK, self.handler, self.id, _TTL, *lease, *place):
            raise LeaseLost

    async def _retry_next(self) -> bool:
        async with self.connection.transaction():
            row = await self.connection.fetchrow(TAKE_DUE, self.handler)
            if row is None:
                return False
            event = await find_event(self.connection, row["event_id"], row["event_received_at"])
            assert event is not None
            await self._attempt(event, failed=row["attempt"])
        return True

    async def _attempt(self, event: Event, *, failed: int) -> None:
        sql, attempts = self.connection, failed + 1
        try:
            async with sql.transaction():
                await self.handle(sql, event, attempts)
        except ValueError as error:
            if attempts < self.max_attempts:
                place = (self.handler, event.id, event.received_at, event.shard)
                await sql.execute(RETRY, *place, "failed", attempts, _BACKOFF, str(error))
                return
            copy = msgspec.json.encode(event).decode()
            letter = (self.handler, event.id, copy, str(event.type), event.source)
            await sql.execute(BURY, *letter, attempts, "ValueError", str(error), None)
        await sql.execute(SETTLE, self.handler, event.id)


# `python -m tests.release_before VERSION ARGUMENT...`: `receiver`, of which that is the schema
if __name__ == "__main__":
    vars(schema)["VERSION"] = int(sys.argv[1])
    main(sys.argv[2:])
