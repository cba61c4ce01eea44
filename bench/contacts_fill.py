"""A database of a million contacts and five million events, made in large statements.

Events: the very rows that the service would write for the simulator's posts, repeated with ids, recipients, messages
and times of their own. Contacts: hashed as the service hashes; some subscribed, some suppressed, some erased.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import asyncpg
from rich.console import Console

from bench import work
from bench.database import connect_for_rows
from receiver.contract import Delivery, Item, Occurrence
from receiver.event import EventType
from receiver.ingest.normalize import row_of
from receiver.store.intake import COLUMNS
from receiver.vault import Vault

CHUNK: Final = 100_000  # rows of one statement
DOMAINS: Final = 997
DAYS: Final = 25  # over which the events are spread; all in one partition
# In a hundred events. What is left of a real day when the bench ends: most mail arrives, some of it is opened.
MIX: Final = {
    EventType.QUEUED: 25,
    EventType.DELIVERED: 40,
    EventType.OPENED: 22,
    EventType.CLICKED: 7,
    EventType.BOUNCED: 5,
    EventType.UNSUBSCRIBED: 1,
}
VAULT: Final = Vault(work.SECRET_KEY)
say: Final = Console(stderr=True)

_ROOM: Final = "SET work_mem = '256MB'; SET maintenance_work_mem = '512MB'; SET statement_timeout = 0"
_TOPICS: Final = """
INSERT INTO topics (name, title, stream, archived_at) VALUES
    ('newsletter', 'Monthly news', 'marketing', NULL), ('product-news', 'What is new', 'marketing', NULL),
    ('receipts', 'Receipts', 'transactional', NULL), ('old', 'Given up', 'marketing', now())
"""
_SUBSCRIPTIONS: Final = """
INSERT INTO subscriptions (address_hash, topic, requested_at, subscribed_at, unsubscribed_at)
SELECT address_hash, 'newsletter', now() - interval '90 days',
       CASE WHEN id % 20 > 0 THEN now() - interval '80 days' END,
       CASE WHEN id % 25 = 0 THEN now() - interval '8 days' END
FROM contacts WHERE id % 10 < 8
UNION ALL
SELECT address_hash, 'product-news', NULL, now() - interval '70 days', NULL FROM contacts WHERE id % 10 < 3
"""
_SUPPRESSIONS: Final = """
INSERT INTO suppressions (address_hash, reason, scope, since, last_at, source, recipient_domain, mailbox_provider,
                          expires_at, lifted_at)
SELECT c.address_hash, of.reason, of.scope, now() - interval '9 days', now() - interval '8 days', 'sendgrid',
       substring(c.address FROM '@(.*)'), (ARRAY['google', 'microsoft', 'yahoo', 'apple'])[c.id % 4 + 1], of.expires_at,
       CASE WHEN c.id % 10 = 7 THEN now() - interval '1 day' END
FROM contacts c
JOIN (VALUES ('hard_bounce', 'all', 3, 25, NULL), ('complaint', 'marketing', 5, 250, NULL),
             ('soft_bounce', 'all', 11, 100, now() + interval '20 days'), ('soft_bounce', 'all', 12, 200, now()),
             ('unsubscribe', 'marketing', 13, 50, NULL), ('manual', 'all', 17, 2000, NULL)
     ) AS of (reason, scope, rest, every, expires_at) ON c.id % of.every = of.rest
ON CONFLICT DO NOTHING
"""
_INCIDENTS: Final = """
INSERT INTO bounce_incidents (mailbox_provider, began_at, ended_at, release_at, hard, attempted, baseline)
SELECT (ARRAY['google', 'microsoft', 'yahoo', 'apple'])[n % 4 + 1], now() - (10 * n || ' days')::interval,
       now() - (10 * n - 1 || ' days')::interval, now() - interval '1 day', 900, 10000, 0.01
FROM generate_series(1, 12) AS n
"""
_ERASURES: Final = (
    "INSERT INTO erasures (address_hash, who) SELECT address_hash, 'bench' FROM contacts WHERE id % 1000 = 19"
)
_BOUNCES: Final = """
INSERT INTO bounces (address_hash, message, bounce_class, at, source, event_id)
SELECT address_hash, 'm' || id, 'mailbox_full', now() - interval '5 days', 'sendgrid', gen_random_uuid()
FROM contacts WHERE id % 50 = 21
"""
_PATTERNS: Final = "CREATE TEMPORARY TABLE patterns AS SELECT * FROM events LIMIT 0"
_AT: Final = f"(now() - {DAYS} * interval '1 day' * (($3 - n)::float8 / $3))"
_ID: Final = f"""
(lpad(to_hex((extract(epoch FROM {_AT}) * 1000)::bigint), 12, '0') || '8' || substr(md5(n::text), 1, 19))::uuid
"""
_OWN: Final = {
    "id": _ID,
    "occurred_at": _AT,
    "recipient": "c.address",
    "recipient_domain": "substring(c.address FROM '@(.*)')",
    "message_id": "substr(md5((n / 4)::text), 1, 22)",
    "internet_message_id": "substr(md5((n / 4)::text), 1, 22) || '@mail.example.net'",
    "provider_event_id": "md5((n + 1)::text)",
    "shard": "n % 64",
}
# A contact's events lie apart, as they do when many people get many mails.
_EVENTS: Final = f"""
INSERT INTO events ({", ".join(COLUMNS)})
SELECT {", ".join(_OWN.get(name, f"p.{name}") for name in COLUMNS)}
FROM generate_series($1::bigint, $2::bigint) AS n
JOIN patterns p ON p.position = abs(hashint8(n)::bigint) % $4
JOIN contacts c ON c.id = n * 7919 % $5 + 1
"""
_IDS: Final = (
    f"INSERT INTO event_ids (id) SELECT {_ID.format(days=DAYS)} FROM generate_series($1::bigint, $2::bigint) AS n"
)


def address(number: int) -> str:
    """Of the contact of this number, from 0."""
    return f"u{number}@d{number % DOMAINS}.test"


async def fill(dsn: str, directory: Path, contacts: int, events: int) -> None:
    """Into an empty schema; `directory` has the sources. Tells how far it is."""
    await fill_contacts(dsn, contacts)
    connection = await connect_for_rows(dsn)
    try:
        await connection.execute(_ROOM)
        await _fill_events(connection, directory, contacts, events)
        await _settle(connection)
    finally:
        await connection.close()


async def fill_contacts(dsn: str, count: int) -> None:
    """Contacts, what they subscribed to, and why some must not be mailed, into an empty schema."""
    connection = await connect_for_rows(dsn)
    try:
        await connection.execute(_ROOM)
        await _fill_contacts(connection, count)
        for what, statement in (
            ("topics", _TOPICS), ("subscriptions", _SUBSCRIPTIONS), ("suppressions", _SUPPRESSIONS),
            ("incidents", _INCIDENTS), ("erasures", _ERASURES), ("bounces", _BOUNCES),
        ):  # fmt: skip
            say.print(f"{what}: {(await connection.execute(statement, timeout=900)).rpartition(' ')[2]}")
        await _settle(connection)
    finally:
        await connection.close()


async def _settle(connection: asyncpg.Connection) -> None:
    for statement in ("VACUUM (FREEZE, ANALYZE)", "CHECKPOINT"):
        say.print(statement)
        await connection.execute(statement, timeout=3600)


async def _fill_contacts(connection: asyncpg.Connection, count: int) -> None:
    columns = ("address", "address_hash", "tags", "attributes", "created_at", "last_delivered_at", "last_opened_at",
               "last_clicked_at", "prefetched_at")  # fmt: skip
    for first in _chunks(count, "contacts"):
        rows = list(_contacts(first, min(first + CHUNK, count)))
        await connection.copy_records_to_table("contacts", records=rows, columns=columns)


def _contacts(first: int, end: int) -> Iterator[tuple[Any, ...]]:
    now = datetime.now(UTC)
    for number in range(first, end):
        tags = [tag for tag, every in (("customer", 5), ("trial", 20), ("vip", 100)) if number % every == 1]
        plan = ("free", "free", "free", "pro", "team")[number % 5]
        opened = now - timedelta(days=number % 400) if number % 3 else None
        yield (
            address(number),
            VAULT.address_hash(address(number)),
            tags,
            f'{{"plan": "{plan}", "seats": {number % 97}, "city": "c{number % 5003}"}}',
            now - timedelta(days=number % 900),
            now - timedelta(days=number % 40),
            opened,
            opened if number % 7 == 0 else None,
            now - timedelta(days=number % 30) if number % 4 == 0 else None,
        )


async def _fill_events(connection: asyncpg.Connection, directory: Path, contacts: int, count: int) -> None:
    await connection.execute(_PATTERNS)
    patterns = [(*row, number) for number, row in enumerate(_rows(directory))]
    await connection.copy_records_to_table("patterns", records=patterns, columns=(*COLUMNS, "position"))
    await connection.execute("ANALYZE patterns")
    for first in _chunks(count, "events"):
        last = min(first + CHUNK, count) - 1
        await connection.execute(_IDS, first, last, count, timeout=900)
        await connection.execute(_EVENTS, first, last, count, len(patterns), contacts, timeout=900)


def _rows(directory: Path) -> list[tuple[Any, ...]]:
    """What the service would write for a hundred events of the mix, as SendGrid posts them."""
    source, now = work.sources(directory)["sendgrid"], datetime.now(UTC)
    simulation = source.provider.simulation
    items = [simulation.sample(one) for one in occurrences(sum(MIX.values()), 1, "fill", now)]
    at = Delivery(source=source.name, headers={}, body=b"").at
    return [
        row_of(source, item, reading, at)
        for post in simulation.post(items, simulation.demo(directory)[1], now)
        for item in source.provider.parse(post.body)
        if isinstance(item, Item)
        for reading in source.provider.read(item)
    ]


def occurrences(count: int, contacts: int, run: str, at: datetime) -> Sequence[Occurrence]:
    """Events of the mix, for contacts here and there."""
    kinds = [type_ for type_, share in MIX.items() for _ in range(share)]
    return [
        Occurrence(
            type=kinds[number * 31 % len(kinds)],
            recipient=address(number * 7919 % contacts),
            at=at,
            run=run,
            number=number,
        )
        for number in range(count)
    ]


def _chunks(count: int, what: str) -> Iterator[int]:
    started = time.perf_counter()
    for first in range(0, count, CHUNK):
        yield first
        done = min(first + CHUNK, count)
        say.print(f"{done:,} of {count:,} {what}, {done / (time.perf_counter() - started):,.0f}/s", end="\r")
    say.print()
