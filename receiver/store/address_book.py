"""Contacts as people and programs keep them: listed, made, changed and removed by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import asyncpg

from receiver.store.sql import Sql
from receiver.store.where import Where

COLUMNS: Final = """
    c.id, c.address, c.display_address, c.external_id, c.name, c.locale, c.time_zone, c.tags,
    c.attributes::text AS attributes, c.created_at, c.updated_at, c.last_event_at, c.last_sent_at, c.last_delivered_at,
    c.last_opened_at, c.last_clicked_at, c.last_bounced_at, c.complained_at, c.unsubscribed_at, c.soft_streak,
    c.prefetched_at
"""
_SAVE: Final = f"""
INSERT INTO contacts AS c
    (address, address_hash, display_address, external_id, name, locale, time_zone, attributes, tags, updated_at)
VALUES ($1, $2, nullif($3, $1), $4, $5, $6, $7, $8::jsonb, coalesce($10::text[], '{{}}'), now())
ON CONFLICT (address) DO UPDATE SET
    display_address = coalesce(excluded.display_address, c.display_address),
    external_id = coalesce($4, c.external_id), name = coalesce($5, c.name), locale = coalesce($6, c.locale),
    time_zone = coalesce($7, c.time_zone),
    attributes = (c.attributes || excluded.attributes) - $9::text[],
    tags = coalesce($10::text[], c.tags), updated_at = now()
RETURNING {COLUMNS}, xmax = 0 AS made
"""
_BY: Final = {"id": "c.id = $1::bigint", "address": "c.address = $1::text", "external_id": "c.external_id = $1::text"}
_DELETE: Final = "DELETE FROM contacts WHERE id = $1"
_TAG: Final = f"""
UPDATE contacts AS c SET updated_at = now(), tags = ARRAY(
    SELECT DISTINCT one FROM unnest(c.tags || $2::text[]) AS one WHERE one <> ALL ($3::text[]) ORDER BY one)
WHERE id = $1 RETURNING {COLUMNS}
"""
_SUBSCRIPTIONS: Final = """
SELECT s.topic, s.state, s.requested_at, s.subscribed_at, s.unsubscribed_at, t.title, t.stream, t.brand
FROM subscriptions s LEFT JOIN topics t ON t.name = s.topic WHERE s.address_hash = $1 ORDER BY s.topic
"""
_CONSENT: Final = """
SELECT id, occurred_at, recorded_at, action, topic, brand, source, method, wording, host(client_ip) AS client_ip,
       user_agent, event_id, detail::text AS detail
FROM consent_log WHERE address_hash = $1 AND ($2::bigint IS NULL OR id > $2) ORDER BY id LIMIT $3
"""
_EDITED: Final = ("external_id", "name", "locale", "time_zone")


async def list_contacts(sql: Sql, wanted: Mapping[str, Any], *, after: int | None, limit: int) -> list[asyncpg.Record]:
    """By number. `wanted`: address, external_id, domain, tag, topic, state, created_since, updated_since; None: any."""
    where = Where()
    where.add("c.id > {}::bigint", after)
    where.add("c.address = {}::text", wanted["address"])
    where.add("c.external_id = {}::text", wanted["external_id"])
    where.add("split_part(c.address, '@', 2) = {}::text", wanted["domain"])
    where.add("c.tags @> ARRAY[{}::text]", wanted["tag"])
    where.add("c.created_at >= {}::timestamptz", wanted["created_since"])
    where.add("c.updated_at >= {}::timestamptz", wanted["updated_since"])
    if wanted["topic"] is not None:
        topic, state = where.parameter(wanted["topic"]), where.parameter(wanted["state"])
        where.conditions.append(
            "EXISTS (SELECT FROM subscriptions s WHERE s.address_hash = c.address_hash"
            f" AND s.topic = {topic}::text AND s.state = {state}::text)"
        )
    most = where.parameter(limit)
    return await sql.fetch(f"SELECT {COLUMNS} FROM contacts c WHERE {where} ORDER BY c.id LIMIT {most}", *where.values)


async def find(sql: Sql, by: str, value: object, *, lock: bool = False) -> asyncpg.Record | None:
    """One contact, by `id`, `address` or `external_id`; with its address_hash."""
    lock_ = "FOR UPDATE" if lock else ""
    return await sql.fetchrow(f"SELECT {COLUMNS}, c.address_hash FROM contacts c WHERE {_BY[by]} {lock_}", value)


async def save(sql: Sql, address: str, address_hash: bytes, display: str, values: Mapping[str, Any]) -> asyncpg.Record:
    """Make the contact, or set what `values` has; `made` says which. `attributes` are merged, those that are None go.

    Raises asyncpg.UniqueViolationError where the external id is another contact's.
    """
    given = [values.get(name) for name in _EDITED]
    attributes = _attributes(values.get("attributes") or {})
    row = await sql.fetchrow(_SAVE, address, address_hash, display, *given, *attributes, values.get("tags"))
    assert row is not None
    return row


async def edit(sql: Sql, id_: int, values: Mapping[str, Any]) -> asyncpg.Record | None:
    """Set what `values` has, None included; attributes are merged, those that are None go."""
    where = Where()
    sets = [f"{name} = {where.parameter(values[name])}::text" for name in _EDITED if name in values]
    if "tags" in values:
        sets.append(f"tags = {where.parameter(values['tags'])}::text[]")
    if "attributes" in values:
        set_, gone = map(where.parameter, _attributes(values["attributes"]))
        sets.append(f"attributes = (c.attributes || {set_}::jsonb) - {gone}::text[]")
    number = where.parameter(id_)
    return await sql.fetchrow(
        f"UPDATE contacts AS c SET {', '.join([*sets, 'updated_at = now()'])} WHERE id = {number} RETURNING {COLUMNS}",
        *where.values,
    )


async def delete(sql: Sql, id_: int) -> bool:
    """Remove the contact; what the address has said about mail stays."""
    return await sql.execute(_DELETE, id_) == "DELETE 1"


async def tag(sql: Sql, id_: int, add: Sequence[str], remove: Sequence[str]) -> asyncpg.Record | None:
    return await sql.fetchrow(_TAG, id_, list(add), list(remove))


async def subscriptions(sql: Sql, address_hash: bytes) -> list[asyncpg.Record]:
    """By topic, with what the topic is."""
    return await sql.fetch(_SUBSCRIPTIONS, address_hash)


async def consent(sql: Sql, address_hash: bytes, *, after: int | None, limit: int) -> list[asyncpg.Record]:
    """What was said about mail to the address, as it was recorded."""
    return await sql.fetch(_CONSENT, address_hash, after, limit)


def _attributes(given: Mapping[str, Any]) -> tuple[str, list[str]]:
    """What is set, as JSON text, and what is removed."""
    return json.dumps({name: one for name, one in given.items() if one is not None}), [
        name for name, one in given.items() if one is None
    ]
