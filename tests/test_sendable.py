"""The one rule of who may be mailed: every reason, which goes first, and how far each reaches."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest

from receiver.store import consent, suppression_list
from receiver.store.consent import Statement
from receiver.store.suppression_list import Which
from tests.workers import VAULT

NOW: Final = datetime.now(UTC)
ANN: Final = VAULT.address_hash("ann@example.com")
EVENT: Final = UUID(int=7)
TOPICS: Final = """
INSERT INTO topics (name, title, brand, stream, archived_at) VALUES
    ('news', 'News', 'acme', 'marketing', NULL), ('other', 'Other', 'other', 'marketing', NULL),
    ('plain', 'Plain', '', 'marketing', NULL), ('old', 'Old', 'acme', 'marketing', now()),
    ('receipts', 'Receipts', 'acme', 'transactional', NULL)
"""
SUPPRESS: Final = """
INSERT INTO suppressions (address_hash, reason, scope, brand, topic, since, last_at, source, event_id, expires_at,
                          mailbox_provider, lifted_at, echo)
VALUES ($1, $2, $3, $4, $5, $6, $7, 'test', $8, $9, 'google', $10, $11)
"""


def ago(hours: float) -> datetime:
    return NOW - timedelta(hours=hours)


class Asked:
    """Statements and suppressions of Ann, and what the rule answers."""

    def __init__(self, sql: asyncpg.Connection) -> None:
        self.sql = sql

    async def says(self, action: Any, topic: str, hours: float = 10) -> None:
        one = Statement(
            address_hash=ANN, address=None, action=action, at=ago(hours), topic=topic, source="test", method="event"
        )
        await consent.record(self.sql, [one])

    async def suppressed(self, reason: str, scope: str = "all", **more: Any) -> None:
        since, last = more.get("since", ago(5)), more.get("last_at", ago(5))
        places = more.get("brand", ""), more.get("topic", "")
        end, lifted = more.get("expires_at"), more.get("lifted_at")
        await self.sql.execute(
            SUPPRESS, ANN, reason, scope, *places, since, last, EVENT, end, lifted, more.get("echo", False)
        )

    async def why(self, topic: str | None = "news", stream: Any = "marketing") -> str | None:
        return (await self.answer(topic, stream))["reason"]  # type: ignore[no-any-return]  # a column

    async def answer(self, topic: str | None = "news", stream: Any = "marketing") -> asyncpg.Record:
        (row,) = await consent.sendable(self.sql, [ANN], topic, stream)
        assert row["sendable"] == (row["reason"] is None)
        return row


@pytest.fixture
async def ann(database: str) -> AsyncIterator[Asked]:
    connection = await asyncpg.connect(database)
    await connection.execute(TOPICS)
    try:
        yield Asked(connection)
    finally:
        await connection.close()


async def test_consent(ann: Asked) -> None:
    """marketing needs a subscription that was confirmed and not left since; what was said last counts"""
    assert await ann.why() == "not_subscribed"
    await ann.says("requested", "news", 9)
    assert await ann.why() == "pending"
    await ann.says("subscribed", "news", 8)
    assert await ann.why() is None
    await ann.says("unsubscribed", "news", 7)
    answer = await ann.answer()
    assert (answer["reason"], answer["since"]) == ("unsubscribed", ago(7))
    await ann.says("requested", "news", 6)
    answer = await ann.answer()
    assert (answer["reason"], answer["since"]) == ("pending", ago(6))
    await ann.says("subscribed", "news", 5)
    assert (await ann.why(), await ann.why("other")) == (None, "not_subscribed")


async def test_transactional_mail(ann: Asked) -> None:
    """transactional mail needs no subscription, but ends with an unsubscribe from its topic"""
    assert await ann.why("receipts", "transactional") is None
    await ann.says("requested", "receipts", 9)
    assert await ann.why("receipts", "transactional") is None
    await ann.says("unsubscribed", "receipts", 8)
    assert await ann.why("receipts", "transactional") == "unsubscribed"


async def test_a_topic_keeps_its_stream(ann: Asked) -> None:
    """mail about a topic of marketing is marketing, whatever the sender calls it"""
    assert await ann.why("news", "transactional") == "not_subscribed"
    await ann.says("subscribed", "news")
    await ann.suppressed("complaint", "marketing", brand="acme")
    assert await ann.why("news", "transactional") == "complaint"
    assert await ann.why("receipts", "transactional") is None
    assert await ann.why("receipts", "marketing") == "complaint"


async def test_topics_that_are_not_there(ann: Asked) -> None:
    """marketing about an unknown or archived topic is sent to nobody; an unknown one may be transactional"""
    for topic in ("old", "nothing"):
        await ann.says("subscribed", topic)
    assert (await ann.why("old"), await ann.why("nothing")) == ("archived_topic", "unknown_topic")
    assert await ann.why("nothing", "transactional") is None
    await ann.says("unsubscribed", "nothing", 1)
    assert await ann.why("nothing", "transactional") == "unsubscribed"


async def test_which_reason_goes_first(ann: Asked) -> None:
    """of several reasons the gravest is told: erasure, the address, complaint, count, hand, import, consent"""
    await ann.says("unsubscribed", "news")
    assert await ann.why() == "unsubscribed"
    for reason in ("unsubscribe", "imported", "manual", "soft_bounce", "complaint", "hard_bounce"):
        scope = "marketing" if reason in ("unsubscribe", "complaint") else "all"
        await ann.suppressed(reason, scope)
        answer = await ann.answer()
        assert (answer["reason"], answer["since"], answer["event_id"]) == (reason, ago(5), EVENT)
        assert await ann.why(None) == reason
    await ann.sql.execute("INSERT INTO erasures (address_hash, who) VALUES ($1, 'maria')", ANN)
    for topic in ("news", None):
        assert await ann.why(topic) == "erased"


async def test_how_far_it_reaches(ann: Asked) -> None:
    """a suppression ends all mail, a brand's marketing or a topic, and nothing else"""
    for topic in ("news", "other", "plain"):
        await ann.says("subscribed", topic)
    await ann.suppressed("complaint", "marketing", brand="acme")
    assert [await ann.why(topic) for topic in ("news", "other", None)] == ["complaint", None, "complaint"]
    assert (await ann.why(None, "transactional"), await ann.why("receipts", "transactional")) == (None, None)
    await ann.suppressed("unsubscribe", "topic", topic="other")
    assert await ann.why("other") == "unsubscribe"


async def test_a_topic_of_no_brand(ann: Asked) -> None:
    """a topic without a brand is every brand's: what stands against the mail of one stands against it"""
    for topic in ("news", "plain"):
        await ann.says("subscribed", topic)
    assert await ann.why("plain") is None
    await ann.suppressed("complaint", "marketing", brand="other")
    assert (await ann.why("plain"), await ann.why("news")) == ("complaint", None)


async def test_what_is_not_said(ann: Asked) -> None:
    """mail that nobody called transactional is marketing, and to no address nothing may be sent"""
    await ann.suppressed("unsubscribe", "marketing")
    for stream in (None, "Marketing", "newsletter"):
        assert await ann.why(None, stream) == "unsubscribe"
    await ann.sql.execute("DELETE FROM suppressions")
    assert [await ann.why(topic, None) for topic in ("news", "nothing")] == ["not_subscribed", "unknown_topic"]
    assert await ann.sql.fetchval("SELECT reason FROM sendable(NULL)") == "no_address"
    await ann.suppressed("unsubscribe", "marketing")
    assert await ann.why("plain") == "unsubscribe"
    await ann.suppressed("hard_bounce")
    assert (await ann.why(None, "transactional"), await ann.why("receipts", "transactional")) == ("hard_bounce",) * 2


async def test_until_when(ann: Asked) -> None:
    """what has expired does not count; what will expire says when"""
    await ann.says("subscribed", "news")
    await ann.suppressed("soft_bounce", expires_at=ago(1))
    assert await ann.why() is None
    await ann.sql.execute("UPDATE suppressions SET expires_at = $1", ago(-1))
    answer = await ann.answer()
    assert (answer["reason"], answer["until"]) == ("soft_bounce", ago(-1))


@pytest.mark.parametrize(
    ("last", "echo", "expected"), [(5.0, False, None), (1.0, False, "hard_bounce"), (1.0, True, None)]
)
async def test_what_was_lifted(ann: Asked, last: float, echo: bool, expected: str | None) -> None:  # noqa: FBT001 - a case
    """what was lifted does not count, until an event that is no echo says so again"""
    await ann.says("subscribed", "news")
    await ann.suppressed("hard_bounce", lifted_at=ago(3), last_at=ago(last), echo=echo)
    assert await ann.why() == expected


@pytest.mark.parametrize(
    ("bounced", "incident", "release", "expected"),
    [
        ((5, 4), (6, 3), 1, None),
        ((5, 4), (6, None), 1, None),
        ((5, 4), (6, 3), None, "hard_bounce"),
        ((5, 4), (6, 3), -1, "hard_bounce"),
        ((7, 4), (6, 3), 1, "hard_bounce"),
        ((5, 2), (6, 3), 1, "hard_bounce"),
    ],
)
async def test_a_bad_day(
    ann: Asked,
    bounced: tuple[float, float],
    incident: tuple[float, float | None],
    release: float | None,
    expected: str | None,
) -> None:
    """a hard bounce that rests on a mailbox provider's bad day alone counts until it is released, others go on"""
    await ann.says("subscribed", "news")
    await ann.suppressed("hard_bounce", since=ago(bounced[0]), last_at=ago(bounced[1]))
    await ann.sql.execute(
        "INSERT INTO bounce_incidents (mailbox_provider, began_at, ended_at, release_at, hard, attempted, baseline) "
        "VALUES ('google', $1, $2, $3, 9, 10, 0.01), ('yahoo', $4, NULL, $4, 9, 10, 0.01)",
        *(None if hours is None else ago(hours) for hours in (*incident, release)),
        ago(100),
    )
    answer = await ann.answer()
    assert answer["reason"] == expected
    if release == -1:
        assert answer["until"] == ago(-1)


@pytest.mark.parametrize(
    ("decision", "ended", "expected"),
    [("confirmed", 2, "active"), (None, None, "provisional"), ("released", None, "released")],
)
async def test_bad_days_that_overlap(ann: Asked, decision: str | None, ended: float | None, expected: str) -> None:
    """of two bad days in which it lies each has to let a bounce go: none that is confirmed, or that goes on"""
    await ann.says("subscribed", "news")
    await ann.suppressed("hard_bounce")
    await ann.sql.execute(
        "INSERT INTO bounce_incidents (mailbox_provider, began_at, ended_at, release_at, hard, attempted, baseline,"
        " decision) VALUES ('google', $1, $2, $2, 9, 10, 0.01, 'released'), ('google', $1, $3, $4, 9, 10, 0.01, $5)",
        *(ago(6), ago(3), None if ended is None else ago(ended), ago(1) if decision == "released" else None, decision),
    )
    assert await ann.why() == (None if expected == "released" else "hard_bounce")
    (shown,) = await suppression_list.list_suppressions(ann.sql, Which(), limit=9)
    assert shown.state == expected


async def test_many_at_once(ann: Asked) -> None:
    """many addresses are answered in the order they were asked, those twice that were asked twice"""
    await ann.says("subscribed", "news")
    others = [VAULT.address_hash(f"{number}@example.com") for number in range(3)]
    rows = await consent.sendable(ann.sql, [others[0], ANN, others[1], ANN, others[2]], "news", "marketing")
    assert [row["sendable"] for row in rows] == [False, True, False, True, False]


async def test_the_topic_is_looked_up_once(database: str) -> None:
    """a question about many addresses looks into topics once, and is planned as part of the query around it"""
    sql = await asyncpg.connect(database)
    try:
        plan = await sql.fetch(
            "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) "
            "SELECT a.* FROM generate_series(1, 9) AS n, sendable(int8send(n), 'news') AS a"
        )
    finally:
        await sql.close()
    lines = [row[0] for row in plan]
    assert not [line for line in lines if "Function Scan on sendable" in line]
    assert [line.partition("loops=")[2] for line in lines if " on topics " in line] == ["1)"]
