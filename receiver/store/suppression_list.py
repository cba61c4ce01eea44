"""Suppressions as people look at them: listed with what they come to now, added by hand, and lifted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, TypeAlias
from uuid import UUID

import asyncpg

from receiver.classify.addresses import domain_of
from receiver.classify.mailboxes import mailbox_provider
from receiver.store import moves
from receiver.store.address_keys import KEY_ID, NORMALIZATION
from receiver.store.consent import SAID, Statement, record
from receiver.store.sql import Sql

Reason: TypeAlias = Literal["hard_bounce", "soft_bounce", "complaint", "unsubscribe", "manual", "imported"]
State: TypeAlias = Literal["active", "provisional", "released", "expired", "lifted"]
NOT_LIFTED: Final[Sequence[State]] = ("active", "provisional", "released", "expired")

# By the rule of sendable(): what rests on a mailbox provider's bad day alone counts until that day's release. Of
# several such days the one that holds longest is shown: one that is confirmed, then one that goes on.
_STANDING: Final = """
    SELECT s.*, c.address, coalesce(s.recipient_domain, split_part(c.address, '@', 2)) AS domain, bad.id AS incident,
           bad.release_at,
           CASE WHEN NOT s.active THEN 'lifted'
                WHEN s.expires_at <= now() THEN 'expired'
                WHEN bad.release_at <= now() THEN 'released'
                WHEN bad.provisional THEN 'provisional'
                ELSE 'active' END AS state
    FROM suppressions s
    LEFT JOIN contacts c ON c.address_hash = s.address_hash
    LEFT JOIN LATERAL (
        SELECT i.id, i.release_at, i.decision IS NULL AS provisional FROM bounce_incidents i
        WHERE s.reason = 'hard_bounce' AND i.mailbox_provider = s.mailbox_provider
          AND s.since >= i.began_at AND s.last_at <= coalesce(i.ended_at, 'infinity')
        ORDER BY i.release_at DESC NULLS FIRST, i.decision LIMIT 1
    ) AS bad ON true
"""
_FILTER: Final = """
    ($1::bytea IS NULL OR s.address_hash = $1) AND ($2::text IS NULL OR s.reason = $2)
    AND ($3::text IS NULL OR s.domain = $3) AND ($4::text IS NULL OR s.mailbox_provider = $4)
    AND ($5::text IS NULL OR s.source = $5)
    AND ($6::timestamptz IS NULL OR s.since >= $6) AND ($7::timestamptz IS NULL OR s.last_at < $7)
    AND ($8::text[] IS NULL OR s.state = ANY ($8))
    AND ($9::text IS NULL OR EXISTS (
        SELECT FROM events e
        WHERE e.id = s.event_id AND e.received_at >= s.since - interval '5 minutes'
          AND strpos(lower(concat_ws(' ', e.smtp_code, e.enhanced_code, e.diagnostic)), lower($9)) > 0))
"""
_SHOWN: Final = """
    s.address_hash, s.address, s.domain, s.reason, s.scope, s.brand, s.topic, s.state, s.since, s.last_at, s.expires_at,
    s.incident, s.release_at, s.mailbox_provider, s.source, s.event_id, s.note, s.lifted_at, s.lifted_by, s.lift_reason
"""
_LIST: Final = f"""
SELECT {_SHOWN} FROM ({_STANDING}) AS s WHERE {_FILTER} ORDER BY s.last_at DESC, s.address_hash, s.reason LIMIT $10
"""
_COUNT: Final = f"SELECT count(*) FROM ({_STANDING}) AS s WHERE {_FILTER}"

# Locked in the order in which batches of events take them; first the contacts, where bounces in a row are then counted
# anew. Goes on at the address where the last batch ended: what was lifted is not found again, and the rest is not
# searched twice. A last_at ahead of our clock would keep the row active.
_LIFT: Final = f"""
WITH chosen AS (
    SELECT s.address_hash, s.reason, s.scope, s.brand, s.topic, s.address FROM ({_STANDING}) AS s
    WHERE {_FILTER} AND s.address_hash >= $10 ORDER BY s.address_hash LIMIT $11
), people AS (
    SELECT FROM contacts WHERE address_hash IN (SELECT address_hash FROM chosen WHERE reason = 'soft_bounce')
    ORDER BY address FOR UPDATE
), locked AS (
    SELECT s.address_hash, s.reason, s.scope, s.brand, s.topic, chosen.address
    FROM suppressions s JOIN chosen USING (address_hash, reason, scope, brand, topic)
    WHERE s.active AND (SELECT count(*) FROM people) >= 0 ORDER BY 1, 2, 3, 4, 5 FOR UPDATE OF s
)
UPDATE suppressions s SET lifted_at = greatest(clock_timestamp(), s.last_at), lifted_by = $12, lift_reason = $13
FROM locked l
WHERE (s.address_hash, s.reason, s.scope, s.brand, s.topic) = (l.address_hash, l.reason, l.scope, l.brand, l.topic)
RETURNING s.address_hash, s.reason, s.scope, s.brand, s.topic, s.lifted_at, s.event_id, l.address
"""

# What is said by hand again holds again: it is not older than the lift. Of an erased person no domain is kept.
_ADD: Final = f"""
INSERT INTO suppressions AS s (address_hash, reason, scope, brand, topic, since, last_at, source, note,
                               recipient_domain, mailbox_provider, key_id, normalization)
VALUES ($1, $2, $3, $4, $5, $6, $6, $7, $8,
        CASE WHEN NOT EXISTS (SELECT FROM erasures WHERE address_hash = $1) THEN $9 END, $10, {KEY_ID}, {NORMALIZATION})
ON CONFLICT (address_hash, reason, scope, brand, topic) DO UPDATE SET
    last_at = greatest(s.last_at, excluded.last_at, s.lifted_at + interval '1 microsecond'), note = excluded.note,
    expires_at = NULL, echo = false
"""
# What a provider could hold back as well: not what ends by itself, or may turn out to be a mistake.
_FIRM: Final = f"""
SELECT s.address_hash, s.address, bool_or(s.scope = 'all') AS all_mail FROM ({_STANDING}) AS s
WHERE s.state = 'active' AND s.scope IN ('all', 'marketing') AND s.brand = '' AND s.reason <> 'soft_bounce'
GROUP BY 1, 2 ORDER BY 1
"""
_PUSHED: Final = """
SELECT address_hash FROM (
    SELECT DISTINCT ON (address_hash) address_hash, action FROM consent_log
    WHERE source = $1 AND method = 'push' ORDER BY address_hash, id DESC
) AS last WHERE action = 'suppressed'
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Which:
    """Which suppressions; None everywhere: all of them.

    `since` and `until`: everything that they rest on happened in that time. `match`: part of what the bounce said.
    """

    address_hash: bytes | None = None
    reason: Reason | None = None
    domain: str | None = None
    mailbox_provider: str | None = None
    source: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    states: Sequence[State] | None = None
    match: str | None = None

    @property
    def values(self) -> tuple[object, ...]:
        """The parameters of `_FILTER`."""
        where = self.address_hash, self.reason, self.domain, self.mailbox_provider, self.source
        return *where, self.since, self.until, None if self.states is None else list(self.states), self.match


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppressed:
    """A suppression and what it comes to now.

    `address`: None where there is no contact with this hash. `state`: `provisional` rests on a bad day of the mailbox
    provider (`incident`) and counts until its `release_at`; `released` no longer counts for that reason.
    """

    address_hash: bytes
    address: str | None
    domain: str | None
    reason: Reason
    scope: str
    brand: str
    topic: str
    state: State
    since: datetime
    last_at: datetime
    expires_at: datetime | None
    incident: int | None
    release_at: datetime | None
    mailbox_provider: str | None
    source: str
    event_id: UUID | None
    note: str
    lifted_at: datetime | None
    lifted_by: str | None
    lift_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class By:
    """Who adds or lifts: an account or an API key, and `source` and `method` as in `consent_log`."""

    who: str
    source: str
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """A suppression by hand. `address`: normalized. `brand`: empty for every brand."""

    address: str
    address_hash: bytes
    reason: Reason
    scope: Literal["all", "marketing"]
    at: datetime
    brand: str = ""
    note: str = ""


async def list_suppressions(sql: Sql, which: Which, *, limit: int) -> list[Suppressed]:
    """The latest first."""
    return [Suppressed(**dict(row)) for row in await sql.fetch(_LIST, *which.values, limit)]


async def count_suppressions(sql: Sql, which: Which) -> int:
    found: int = await sql.fetchval(_COUNT, *which.values)
    return found


async def add(sql: Sql, one: Added, by: By) -> None:
    """Suppress an address; where it was lifted it holds again.

    What a person says by an earlier address of theirs suppresses the present one too.
    """
    said = Statement(
        address_hash=one.address_hash,
        address=one.address,
        action=SAID.get(one.reason, "suppressed"),
        at=one.at,
        brand=one.brand,
        source=by.source,
        method=by.method,
        wording=one.note or None,
        detail={"reason": one.reason, "scope": one.scope},
    )
    statements = await moves.also(sql, [said])
    for each in statements:
        domain = domain_of(each.address or "")
        key = each.address_hash, one.reason, one.scope, one.brand, ""
        await sql.execute(_ADD, *key, one.at, by.source, one.note, domain, mailbox_provider(domain))
    await record(sql, statements)


async def lift(sql: Sql, which: Which, *, by: By, why: str, after: bytes, limit: int) -> list[bytes]:
    """Lift the next `limit` from the hash `after` on; returns the hashes, in order (none: that was all).

    Each leaves a row in `consent_log`; `by` and `why` also stand in the suppression.
    """
    rows = await sql.fetch(_LIFT, *replace(which, states=NOT_LIFTED).values, after, limit, by.who, why)
    await record(sql, _statements(rows, why, by))
    return sorted(row["address_hash"] for row in rows)


def _statements(rows: Sequence[asyncpg.Record], why: str, by: By) -> list[Statement]:
    """One for each brand and topic of an address, whatever number of suppressions it had there."""
    found: dict[tuple[bytes, str, str], Statement] = {}
    for row in rows:
        key = row["address_hash"], row["brand"], row["topic"]
        before: Mapping[str, Any] = found[key].detail if key in found else {"lifted": []}
        found[key] = Statement(
            address_hash=row["address_hash"],
            address=row["address"],
            action="lifted",
            at=row["lifted_at"],
            brand=row["brand"],
            topic=row["topic"],
            wording=why,
            event_id=row["event_id"],
            detail={"lifted": [*before["lifted"], {"reason": row["reason"], "scope": row["scope"]}]},
            source=by.source,
            method=by.method,
        )
    return list(found.values())


_KEY: Final = "s.address_hash, s.reason, s.scope, s.brand, s.topic"
_PAGE: Final = f"""
SELECT {_SHOWN} FROM ({_STANDING}) AS s
WHERE {_FILTER} AND ($10::bytea IS NULL OR ({_KEY}) > ($10, $11::text, $12::text, $13::text, $14::text))
ORDER BY {_KEY} LIMIT $15
"""


async def page(sql: Sql, which: Which, *, after: Sequence[object] | None, limit: int) -> list[Suppressed]:
    """By their key, which no event changes. `after`: the key of the last one of the page before."""
    rows = await sql.fetch(_PAGE, *which.values, *(after or (None,) * 5), limit)
    return [Suppressed(**dict(row)) for row in rows]


class Firm(NamedTuple):
    """Somebody who is suppressed for good. `address`: None where nobody knows it. `all_mail`: not marketing alone."""

    address_hash: bytes
    address: str | None
    all_mail: bool


async def firm_suppressions(sql: Sql) -> list[Firm]:
    """Everybody whom a provider could hold back as well: of every brand's mail."""
    return [Firm(*row) for row in await sql.fetch(_FIRM)]


async def pushed(sql: Sql, source: str) -> frozenset[bytes]:
    """Whom we have put on a provider's list ourselves, and not taken off it again."""
    return frozenset(row["address_hash"] for row in await sql.fetch(_PUSHED, source))
