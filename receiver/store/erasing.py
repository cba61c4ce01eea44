"""Removing one person, in SQL: the tombstone, the wait for who may not have seen it, and what keys lead to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import msgspec

from receiver.event import shard_of
from receiver.store.privacy import ATTRIBUTION, CHECKED, EMPTIED, EMPTIED_INBOUND
from receiver.store.searching import OURS
from receiver.store.sql import Sql

CHUNK: Final = 500  # events of one transaction

_BURY: Final = """
INSERT INTO erasures (address_hash, who) SELECT unnest($1::bytea[]), $2 ON CONFLICT (address_hash) DO NOTHING
"""
_TOMBSTONES: Final = "SELECT address_hash FROM erasures"

# Who has locked a table to write into it may have looked for tombstones before this one was committed. Those that come
# later lock first and look then.
_WRITERS: Final = """
SELECT DISTINCT virtualtransaction FROM pg_locks
WHERE locktype = 'relation' AND granted AND mode NOT IN ('AccessShareLock', 'ShareUpdateExclusiveLock')
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND relation IN (SELECT c.oid FROM pg_class c JOIN pg_class e ON e.relnamespace = c.relnamespace
                   WHERE e.oid = 'events'::regclass AND c.relname = ANY ($1))
  AND pid IS DISTINCT FROM pg_backend_pid()
"""
_STILL: Final = """
SELECT l.virtualtransaction, a.pid, a.application_name FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
WHERE l.virtualtransaction = ANY ($1) LIMIT 1
"""

# Leases are given up, so that no worker commits what it did with events that it had read before.
_FENCE: Final = """
UPDATE cursors SET epoch = epoch + 1, owner = NULL, lease_until = '-infinity'
WHERE (handler, shard) IN (SELECT handler, shard FROM cursors WHERE shard = ANY ($1::int2[]) ORDER BY 1, 2 FOR UPDATE)
"""


def _emptied(names: Sequence[str]) -> str:
    """The assignments that make an event anonymous."""
    nothing = {"metadata": "'{}'", "tags": "'{}'"}
    parts = [f"{name} = {nothing.get(name, 'NULL')}" for name in names]
    parts += [
        f"{name} = CASE WHEN {name}::text ~ $2 THEN {nothing.get(name, 'NULL')} ELSE {name} END"
        for name in CHECKED
        if name not in names
    ]
    return ", ".join([*parts, f"attribution = '{ATTRIBUTION}'"])


_EVENTS: Final = f"""
WITH chosen AS (SELECT id, received_at FROM events WHERE recipient = ANY ($1) AND type <> 'inbound'
                LIMIT {CHUNK} FOR UPDATE)
UPDATE events SET {_emptied(EMPTIED)} FROM chosen
WHERE events.id = chosen.id AND events.received_at = chosen.received_at
"""

# What a copy of an event in a dead letter becomes; `raw` is a text there.
_COPY: Final = msgspec.json.encode(
    dict.fromkeys(EMPTIED) | {"metadata": {}, "raw": "null", "attribution": ATTRIBUTION}
).decode()
_LETTERS: Final = f"""
UPDATE dead_letters SET event = event || '{_COPY}'::jsonb
WHERE event->>'recipient' = ANY ($1) AND event->>'type' <> 'inbound'
"""


@dataclass(frozen=True, slots=True)
class Step:
    """What is done with the rows of a table that belong to the person. `count`: with the same parameter."""

    table: str
    does: str
    statement: str
    count: str
    by_hash: bool

    def parameter(self, addresses: Sequence[str], hashes: Sequence[bytes]) -> Sequence[str] | Sequence[bytes]:
        return list(hashes) if self.by_hash else list(addresses)


def _step(table: str, does: str, what: str, where: str, *, by_hash: bool = True) -> Step:
    return Step(table, does, f"{what} WHERE {where}", f"SELECT count(*) FROM {table} WHERE {where}", by_hash)


_HASH: Final = "address_hash = ANY ($1)"
STEPS: Final = (
    _step("contacts", "removed", "DELETE FROM contacts", "address = ANY ($1)", by_hash=False),
    _step("contact_addresses", "removed", "DELETE FROM contact_addresses", _HASH),
    _step("subscriptions", "removed", "DELETE FROM subscriptions", f"{_HASH} AND state <> 'unsubscribed'"),
    _step("confirmations", "removed", "DELETE FROM confirmations", _HASH),
    _step("sends", "removed", "DELETE FROM sends", "recipient = ANY ($1)", by_hash=False),
    _step(
        "consent_log", "made anonymous",
        "UPDATE consent_log SET address = NULL, client_ip = NULL, user_agent = NULL, detail = '{}'",
        f"{_HASH} AND (address, client_ip, user_agent) IS DISTINCT FROM (NULL, NULL, NULL)"
        f" OR {_HASH} AND detail <> '{{}}'",
    ),
    _step(
        "suppressions", "made anonymous", "UPDATE suppressions SET recipient_domain = NULL",
        f"{_HASH} AND recipient_domain IS NOT NULL",
    ),
    Step(
        "dead_letters", "made anonymous", _LETTERS,
        "SELECT count(*) FROM dead_letters WHERE event->>'recipient' = ANY ($1)", by_hash=False,
    ),
)  # fmt: skip
_COUNT_EVENTS: Final = "SELECT count(*) FROM events WHERE recipient = ANY ($1)"
_KEPT: Final = """
SELECT (SELECT count(*) FROM suppressions WHERE address_hash = ANY ($1)) AS suppressions,
       (SELECT count(*) FROM subscriptions WHERE address_hash = ANY ($1) AND state = 'unsubscribed') AS unsubscribed
"""


async def bury(sql: Sql, hashes: Sequence[bytes], who: str) -> None:
    """Leave the tombstones; outside of a transaction, so that everybody sees them from now on."""
    await sql.execute(_BURY, list(hashes), who)


async def tombstones(sql: Sql) -> set[bytes]:
    """The hashes of all who were erased."""
    return {row[0] for row in await sql.fetch(_TOMBSTONES)}


async def writers(sql: Sql) -> list[str]:
    """The transactions that may have written something already, and are open."""
    return [row[0] for row in await sql.fetch(_WRITERS, sorted(OURS))]


async def still_open(sql: Sql, transactions: Sequence[str]) -> asyncpg.Record | None:
    """One of those that is open still: (virtualtransaction, pid, application_name)."""
    return await sql.fetchrow(_STILL, list(transactions))


async def empty_events(sql: Sql, addresses: Sequence[str], pattern: str) -> int:
    """Make up to CHUNK events of the person anonymous; returns how many."""
    return affected(await sql.execute(_EVENTS, list(addresses), pattern))


def empty_one(table: str, *, inbound: bool) -> str:
    """The statement for one event at a place ($1), by the pattern ($2): for those that no index leads to."""
    return f"UPDATE {table} SET {_emptied(EMPTIED_INBOUND if inbound else EMPTIED)} WHERE ctid = $1"


async def fence(sql: Sql, addresses: Sequence[str]) -> None:
    """Have workers read the person's shards again, whatever they have in hand."""
    await sql.execute(_FENCE, sorted({shard_of(one, None, b"") for one in addresses}))


async def held(sql: Sql, addresses: Sequence[str], hashes: Sequence[bytes]) -> dict[tuple[str, str], int]:
    """How many rows keys lead to, by table and what is done with them."""
    counts = {("events", "made anonymous"): await sql.fetchval(_COUNT_EVENTS, list(addresses))}
    for step in STEPS:
        counts[step.table, step.does] = await sql.fetchval(step.count, step.parameter(addresses, hashes))
    return counts


async def kept(sql: Sql, hashes: Sequence[bytes]) -> dict[str, int]:
    """What stays of the person, by hash."""
    row: Any = await sql.fetchrow(_KEPT, list(hashes))
    return dict(row)


def affected(tag: str) -> int:
    return int(tag.rpartition(" ")[2])
