"""Imports: how far each has come, and what becomes of a chunk of people. All of a chunk is one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import asyncpg
import msgspec

from receiver.store.sql import Sql

_BEGIN: Final = """
INSERT INTO imports (file, fingerprint, options, who) VALUES ($1, $2, $3::jsonb, $4)
ON CONFLICT (fingerprint) WHERE finished_at IS NULL DO UPDATE SET who = excluded.who
RETURNING id, rows_done, report::text, began_at
"""
_LOCK: Final = "SELECT rows_done FROM imports WHERE id = $1 FOR UPDATE"
_ADVANCE: Final = "UPDATE imports SET rows_done = $2, report = $3::jsonb WHERE id = $1"
_FINISH: Final = "UPDATE imports SET finished_at = clock_timestamp() WHERE id = $1"

# One transaction's own table: COPY into it is the quickest way in, and it goes with the transaction.
_INCOMING: Final = """
CREATE TEMP TABLE incoming (
    number integer, address text, address_hash bytea, display_address text, external_id text, name text, locale text,
    time_zone text, tags text[], attributes jsonb, consented_at timestamptz
) ON COMMIT DROP
"""
COLUMNS: Final = (
    "number",
    "address",
    "address_hash",
    "display_address",
    "external_id",
    "name",
    "locale",
    "time_zone",
    "tags",
    "attributes",
    "consented_at",
)

# An id that is another contact's, in the database or earlier in the chunk, could only be a mistake or a changed
# address, and an address is not changed by the way.
_JUDGE: Final = """
CREATE TEMP TABLE judged ON COMMIT DROP AS
SELECT i.*,
    CASE
        WHEN NOT $1 AND EXISTS (SELECT FROM erasures e WHERE e.address_hash = i.address_hash) THEN 'erased'
        WHEN i.external_id IS NOT NULL AND (
            EXISTS (SELECT FROM contacts o WHERE o.external_id = i.external_id AND o.address <> i.address)
            OR EXISTS (SELECT FROM incoming o WHERE o.external_id = i.external_id AND o.number < i.number)) THEN 'taken'
        WHEN c.id IS NULL THEN 'new'
        WHEN i.display_address <> coalesce(c.display_address, '') OR i.external_id <> coalesce(c.external_id, '')
            OR i.name <> coalesce(c.name, '') OR i.locale <> coalesce(c.locale, '')
            OR i.time_zone <> coalesce(c.time_zone, '') OR NOT i.tags <@ c.tags
            OR c.attributes || i.attributes <> c.attributes THEN 'changed'
        ELSE 'unchanged'
    END AS outcome
FROM incoming i LEFT JOIN contacts c ON c.address = i.address
"""
_JUDGED: Final = """
SELECT j.number, j.outcome,
       EXISTS (SELECT FROM suppressions s WHERE s.address_hash = j.address_hash AND s.active
               AND (s.expires_at IS NULL OR s.expires_at > now())) AS suppressed
FROM judged j
"""

# Sorted by address, as every statement that writes contacts: two of them take their locks in the same order.
_MERGE: Final = """
INSERT INTO contacts AS c
    (address, address_hash, display_address, external_id, name, locale, time_zone, tags, attributes)
SELECT address, address_hash, display_address, external_id, name, locale, time_zone, tags, attributes
FROM judged WHERE outcome IN ('new', 'changed') ORDER BY address
ON CONFLICT (address) DO UPDATE SET
    display_address = coalesce(excluded.display_address, c.display_address),
    external_id = coalesce(excluded.external_id, c.external_id),
    name = coalesce(excluded.name, c.name),
    locale = coalesce(excluded.locale, c.locale),
    time_zone = coalesce(excluded.time_zone, c.time_zone),
    tags = c.tags || ARRAY(SELECT tag FROM unnest(excluded.tags) AS tag WHERE tag <> ALL (c.tags)),
    attributes = c.attributes || excluded.attributes,
    updated_at = now()
"""
_FORGET_ERASURE: Final = """
DELETE FROM erasures e USING judged j WHERE e.address_hash = j.address_hash AND j.outcome <> 'taken'
"""

# Nobody who has left, the topic or all marketing of its brand, is brought back by a file, whatever time it states.
_CONSENT: Final = """
SELECT j.number, t.name AS topic, t.brand,
    CASE
        WHEN s.state = 'unsubscribed' OR EXISTS (
            SELECT FROM suppressions p
            WHERE p.address_hash = j.address_hash AND p.active AND p.reason IN ('unsubscribe', 'complaint')
              AND (p.brand = '' OR t.brand IN ('', p.brand))
              AND (p.scope = 'all' OR t.stream = 'marketing')) THEN 'stays_unsubscribed'
        WHEN $2 OR NOT t.double_opt_in THEN
            CASE WHEN s.subscribed_at IS NULL OR s.subscribed_at < j.consented_at THEN 'subscribed' ELSE 'already' END
        WHEN s.state IS NULL OR s.state = 'pending' AND s.requested_at < j.consented_at THEN 'pending'
        ELSE 'already'
    END AS answer
FROM judged j
CROSS JOIN topics t
LEFT JOIN subscriptions s ON s.address_hash = j.address_hash AND s.topic = t.name
WHERE t.name = ANY ($1) AND j.outcome IN ('new', 'changed', 'unchanged')
"""

_KNOWN: Final = """
SELECT s.since, s.last_at, s.lifted_at, s.echo
FROM unnest($1::bytea[], $2::text[], $3::text[], $4::text[], $5::text[])
     WITH ORDINALITY AS g (address_hash, reason, scope, brand, topic, number)
LEFT JOIN suppressions s USING (address_hash, reason, scope, brand, topic)
ORDER BY g.number
"""
_LEAVING: Final = """
SELECT CASE WHEN s.unsubscribed_at >= g.at THEN 'unchanged'
            WHEN s.state IS NULL OR s.state = 'unsubscribed' OR greatest(s.subscribed_at, s.requested_at) <= g.at
            THEN 'unsubscribed' ELSE 'unchanged' END AS outcome
FROM unnest($1::bytea[], $2::text[], $3::timestamptz[]) AS g (address_hash, topic, at)
LEFT JOIN subscriptions s USING (address_hash, topic)
"""


class Begun(NamedTuple):
    """An import, new or interrupted. `report`: what became of the rows so far."""

    id: int
    rows_done: int
    report: dict[str, Any]
    began_at: datetime


class TakenOver(Exception):
    """Another process has gone on with the same import."""


async def begin(sql: Sql, file: str, fingerprint: bytes, options: dict[str, Any], who: str) -> Begun:
    """Note an import, or find the same one where it was interrupted."""
    row = await sql.fetchrow(_BEGIN, file, fingerprint, msgspec.json.encode(options).decode(), who)
    assert row is not None
    return Begun(row["id"], row["rows_done"], msgspec.json.decode(row["report"]), row["began_at"])


async def lock(sql: Sql, id_: int, rows_done: int) -> None:
    """Make sure that nobody else works on it. Raises TakenOver."""
    if await sql.fetchval(_LOCK, id_) != rows_done:
        raise TakenOver


async def advance(sql: Sql, id_: int, rows_done: int, report: dict[str, Any]) -> None:
    await sql.execute(_ADVANCE, id_, rows_done, msgspec.json.encode(report).decode())


async def finish(sql: Sql, id_: int) -> None:
    await sql.execute(_FINISH, id_)


async def judge(
    connection: asyncpg.Connection, people: Sequence[Sequence[Any]], *, erased: bool
) -> list[asyncpg.Record]:
    """What would become of people (values of `COLUMNS`): (number, outcome, suppressed). Within a transaction.

    Outcomes: new, changed, unchanged, erased (not with `erased`: they are let in), taken (their external id is
    another's).
    """
    await connection.execute(_INCOMING)
    await connection.copy_records_to_table("incoming", records=people, columns=COLUMNS)
    await connection.execute("ANALYZE incoming")
    await connection.execute(_JUDGE, erased)
    await connection.execute("ANALYZE judged")
    return await connection.fetch(_JUDGED)


async def merge(sql: Sql, *, erased: bool) -> None:
    """Store those who were judged new or changed."""
    await sql.execute(_MERGE)
    if erased:
        await sql.execute(_FORGET_ERASURE)


async def consent(sql: Sql, topics: Sequence[str], *, vouched: bool) -> list[asyncpg.Record]:
    """What their consent to topics means: (number, topic, brand, answer), of those who were judged.

    Answers: subscribed, pending (a confirmation is awaited), already, stays_unsubscribed. `vouched`: the words that
    they agreed to are known, which is as good as a confirmation.
    """
    return await sql.fetch(_CONSENT, list(topics), vouched)


async def known_suppressions(sql: Sql, keys: Sequence[tuple[bytes, str, str, str, str]]) -> list[asyncpg.Record]:
    """For each (hash, reason, scope, brand, topic): (since, last_at, lifted_at, echo), NULL where there is none."""
    return await sql.fetch(_KNOWN, *(map(list, zip(*keys, strict=True)) if keys else [[]] * 5))


async def leaving(sql: Sql, left: Sequence[tuple[bytes, str, datetime]]) -> list[str]:
    """What it means that addresses left topics at a time: unsubscribed, or unchanged."""
    rows = await sql.fetch(_LEAVING, *(map(list, zip(*left, strict=True)) if left else [[]] * 3))
    return [row["outcome"] for row in rows]
