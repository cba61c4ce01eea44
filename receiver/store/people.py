"""What is known of one person, under all the addresses that are theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from receiver.store.sql import Sql

_CONTACT: Final = """
SELECT * FROM contacts c WHERE c.address = $1
UNION ALL
SELECT c.* FROM contacts c WHERE c.id IN (SELECT contact_id FROM contact_addresses WHERE address_hash = $2)
    AND NOT EXISTS (SELECT FROM contacts WHERE address = $1)
ORDER BY id LIMIT 1
"""
# An address that somebody else has now is theirs.
_BEFORE: Final = """
SELECT address, until, who, reason FROM contact_addresses a
WHERE contact_id = $1 AND NOT EXISTS (SELECT FROM contacts c WHERE c.address = a.address AND c.id <> a.contact_id)
ORDER BY until DESC
"""
_ERASED: Final = "SELECT max(erased_at) FROM erasures WHERE address_hash = ANY ($1)"
_ENGAGEMENT: Final = """
SELECT count(DISTINCT message_id) FILTER (WHERE type = 'delivered') AS delivered,
       count(DISTINCT message_id) FILTER (WHERE type = 'opened' AND actor IS DISTINCT FROM 'machine') AS opened,
       count(DISTINCT message_id) FILTER (WHERE type = 'clicked' AND actor IS DISTINCT FROM 'machine') AS clicked,
       count(DISTINCT message_id) FILTER (WHERE type = 'bounced') AS bounced
FROM events WHERE recipient = ANY ($1) AND attribution IS NULL AND NOT echo AND NOT is_test
"""
_SUBSCRIPTIONS: Final = """
SELECT topic, state, requested_at, subscribed_at, unsubscribed_at FROM subscriptions
WHERE address_hash = ANY ($1) ORDER BY topic
"""
# Each topic with its stream, and mail that is about none.
_SENDABLE: Final = """
SELECT asked.topic, asked.stream, answer.sendable, answer.reason, answer.since, answer.until, answer.event_id
FROM (
    SELECT NULL AS topic, stream FROM unnest('{marketing,transactional}'::text[]) AS stream
    UNION ALL
    SELECT name, stream FROM topics WHERE archived_at IS NULL
    UNION ALL
    SELECT s.topic, 'marketing' FROM subscriptions s
    WHERE s.address_hash = $1 AND NOT EXISTS (SELECT FROM topics t WHERE t.name = s.topic AND t.archived_at IS NULL)
) AS asked, LATERAL sendable($1, asked.topic, asked.stream) AS answer
ORDER BY asked.topic NULLS FIRST, asked.stream
"""
_SUPPRESSIONS: Final = """
SELECT s.reason, s.scope, s.brand, s.topic, s.active AND coalesce(s.expires_at > now(), true) AS active, s.since,
       s.last_at, s.source, s.echo, s.expires_at, s.note, s.lifted_at, s.lifted_by, s.lift_reason, s.event_id,
       e.type AS event_type, e.occurred_at AS event_at, e.provider, e.message_id, e.bounce_category, e.bounce_class,
       e.smtp_code, e.enhanced_code, e.reject_reason, e.diagnostic, e.raw
FROM suppressions s LEFT JOIN LATERAL (SELECT * FROM events WHERE id = s.event_id LIMIT 1) AS e ON true
WHERE s.address_hash = ANY ($1) ORDER BY active DESC, s.last_at DESC
"""
_TIMELINE: Final = """
SELECT at, what, source, detail, id FROM (
    (SELECT occurred_at AS at, type AS what, source, concat_ws(' ', bounce_category, bounce_class, reject_reason,
            enhanced_code, actor, topic, CASE WHEN echo THEN '(echo)' END, attribution, left(url, 80)) AS detail,
            id::text AS id
     FROM events WHERE recipient = ANY ($2) ORDER BY occurred_at DESC LIMIT $3)
    UNION ALL
    (SELECT created_at, 'send ' || state, handler, concat_ws(' ', template, topic), id::text
     FROM sends WHERE recipient = ANY ($2) ORDER BY created_at DESC LIMIT $3)
    UNION ALL
    SELECT occurred_at, 'consent: ' || action, source,
           concat_ws(' ', coalesce(nullif(topic, ''), 'all marketing'), nullif(brand, ''), '(' || method || ')',
           wording), event_id::text
    FROM consent_log WHERE address_hash = ANY ($1)
    UNION ALL
    SELECT until, 'address changed', who, concat_ws(' ', address, nullif(reason, '')), NULL
    FROM contact_addresses WHERE address_hash = ANY ($1)
    UNION ALL
    SELECT since, 'suppressed', source, concat_ws(' ', reason, 'for', scope, nullif(brand, ''), nullif(topic, ''),
           nullif(note, '')), event_id::text
    FROM suppressions WHERE address_hash = ANY ($1)
    UNION ALL
    SELECT lifted_at, 'lifted', lifted_by, concat_ws(' ', reason, lift_reason), NULL
    FROM suppressions WHERE address_hash = ANY ($1) AND lifted_at IS NOT NULL
    UNION ALL
    SELECT erased_at, 'erased', who, NULL, NULL FROM erasures WHERE address_hash = ANY ($1)
) AS everything
ORDER BY at DESC, what, id LIMIT $3
"""


@dataclass(frozen=True, slots=True)
class Person:
    """`address`: the one that was asked for, or the contact's present one. `before`: rows of `contact_addresses`."""

    address: str
    address_hash: bytes
    contact: asyncpg.Record | None
    before: Sequence[asyncpg.Record]
    addresses: list[str]
    hashes: list[bytes]


async def find_person(sql: Sql, address: str, hash_of: Callable[[str], bytes]) -> Person:
    """Who has the normalized address, or had it before, with all their addresses."""
    contact = await sql.fetchrow(_CONTACT, address, hash_of(address))
    before = [] if contact is None else await sql.fetch(_BEFORE, contact["id"])
    present = address if contact is None else contact["address"]
    addresses = list(dict.fromkeys([present, address, *(row["address"] for row in before)]))
    return Person(present, hash_of(present), contact, before, addresses, [hash_of(one) for one in addresses])


async def erased_at(sql: Sql, person: Person) -> Any:
    """When the person was erased, or None."""
    return await sql.fetchval(_ERASED, person.hashes)


async def engagement(sql: Sql, person: Person) -> asyncpg.Record:
    """Messages that were delivered, opened and clicked (not by machines), and that bounced."""
    row = await sql.fetchrow(_ENGAGEMENT, person.addresses)
    assert row is not None
    return row


async def subscriptions(sql: Sql, person: Person) -> list[asyncpg.Record]:
    return await sql.fetch(_SUBSCRIPTIONS, person.hashes)


async def sendable(sql: Sql, person: Person) -> list[asyncpg.Record]:
    """What `sendable()` says of the present address for each topic, and for mail about none."""
    return await sql.fetch(_SENDABLE, person.address_hash)


async def suppressions(sql: Sql, person: Person) -> list[asyncpg.Record]:
    """Each with the event that it rests on, where that is still there."""
    return await sql.fetch(_SUPPRESSIONS, person.hashes)


async def timeline(sql: Sql, person: Person, limit: int) -> list[asyncpg.Record]:
    """What happened, the newest first: events of all sources, sends, consent, changes and suppressions."""
    return await sql.fetch(_TIMELINE, person.hashes, person.addresses, limit)
