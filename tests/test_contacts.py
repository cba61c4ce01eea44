"""Contacts through the handlers: what events mean for who may be mailed, and what nothing may undo."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import asyncpg
import pytest

from receiver import Event, Sendable
from receiver.contacts.handling import Contacts
from receiver.contacts.rules import Rules
from receiver.contacts.suppressing import Suppression
from receiver.testing import Result, Trial, event
from tests.test_handlers import ENGAGEMENT, SUPPRESSION
from tests.workers import VAULT, value

ANN = "ann@example.com"
NOW = datetime.now(UTC).replace(microsecond=0)
HARD: dict[str, Any] = {"type_": "bounced", "bounce_class": "invalid_recipient", "bounce_category": "hard"}
FULL: dict[str, Any] = {"type_": "bounced", "bounce_class": "mailbox_full", "bounce_category": "soft"}
TOPICS = """
INSERT INTO topics (name, title, brand, stream, archived_at) VALUES
    ('news', 'News', 'acme', 'marketing', NULL), ('offers', 'Offers', 'acme', 'marketing', NULL),
    ('other', 'Other', 'other', 'marketing', NULL), ('receipts', 'Receipts', 'acme', 'transactional', NULL),
    ('old', 'Old', 'acme', 'marketing', now())
"""


def ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


@pytest.fixture
async def trial(database: str) -> AsyncIterator[Trial]:
    async with Trial(database) as made:
        await made.sql.execute(TOPICS)
        for topic in ("news", "offers", "other"):
            await made.contacts.subscribe(ANN, topic, at=ago(100))
        yield made


async def happens(trial: Trial, *events: Event) -> Result:
    """Both handlers see the events."""
    await trial.run(ENGAGEMENT, *events)
    return await trial.run(SUPPRESSION, *events)


async def why(trial: Trial, topic: str | None = "news", stream: Any = "marketing", address: str = ANN) -> str | None:
    answer: Sendable = await trial.contacts.sendable(address, topic, stream)
    assert bool(answer) == (answer.reason is None)
    return answer.reason


async def log(trial: Trial) -> list[tuple[str, str, str]]:
    rows = await trial.sql.fetch(
        "SELECT action, topic, brand FROM consent_log WHERE occurred_at > $1 ORDER BY id", ago(99)
    )
    return [tuple(row) for row in rows]


# What nothing may undo --------------------------------------------------------------------------------------------


async def test_a_late_delivery_changes_no_consent(trial: Trial) -> None:
    """what was delivered after an unsubscribe or complaint was sent before it, and means nothing for either"""
    await happens(trial, event("unsubscribed", topic="news", brand="acme", occurred_at=ago(2)))
    await happens(trial, event("complained", brand="other", occurred_at=ago(2)))
    late = [event(word, occurred_at=ago(1), topic="news", brand="acme") for word in ("delivered", "opened", "clicked")]
    await happens(trial, *late)
    assert (await why(trial, "news"), await why(trial, "other")) == ("unsubscribed", "complaint")
    assert await why(trial, "offers") is None


async def test_an_old_bounce_after_a_lift(trial: Trial) -> None:
    """after a lift by hand the old bounce, however often it is reported, suppresses nobody; a new one does"""
    old = event(**HARD, occurred_at=ago(2))
    await happens(trial, old)
    assert await why(trial) == "hard_bounce"
    assert await trial.contacts.lift(ANN, reason="hard_bounce", why="they have asked for it", who="maria") == 1
    await happens(trial, old)
    await happens(trial, event(**HARD, occurred_at=ago(1)))
    assert await why(trial) is None
    row = await trial.sql.fetchrow("SELECT lifted_by, lift_reason FROM suppressions")
    assert row is not None
    assert tuple(row) == ("maria", "they have asked for it")
    assert await log(trial) == [("lifted", "", "")]
    await happens(trial, event(**HARD, occurred_at=NOW + timedelta(hours=1)))
    assert await why(trial) == "hard_bounce"


async def test_a_lift_is_of_one_reason(trial: Trial) -> None:
    """who had unsubscribed stays so when the bounce that came later is lifted"""
    await happens(trial, event("unsubscribed", brand="acme", occurred_at=ago(3)), event(**HARD, occurred_at=ago(2)))
    await trial.contacts.lift(ANN, reason="hard_bounce", why="a new server")
    assert await why(trial) == "unsubscribe"
    assert await why(trial, "other") is None


async def test_coming_back_after_a_complaint(trial: Trial) -> None:
    """a complaint outlives the deletion of the contact, and a plain sign-up under any form of the address"""
    await happens(trial, event("complained", brand="acme", occurred_at=ago(2)))
    await trial.sql.execute("DELETE FROM contacts")
    await trial.contacts.subscribe("Ann@Example.COM", "news", at=ago(1))
    assert (await trial.contacts.get(ANN)) is not None
    assert await why(trial) == "complaint"
    assert await why(trial, "other") is None


async def test_the_same_event_many_times(trial: Trial) -> None:
    """an event that comes 46 times, at once and one by one, counts once"""
    ones = [event(**FULL, message_id="m", occurred_at=ago(8)), event("complained", brand="acme", occurred_at=ago(1))]
    await happens(trial, *ones)
    state = (
        "SELECT jsonb_agg(c) FROM contacts c",
        "SELECT jsonb_agg(s) FROM suppressions s",
        "SELECT jsonb_agg(b) FROM bounces b",
    )
    before = [await trial.sql.fetchval(query) for query in state]
    for _ in range(5):
        await happens(trial, *ones * 4)
        await happens(trial, *ones)
    await happens(trial, *ones * 20)
    assert [await trial.sql.fetchval(query) for query in state] == before
    assert await log(trial) == [("complained", "", "acme")]
    contact = await trial.contacts.get(ANN)
    assert contact is not None
    assert contact.soft_streak == 1


async def test_a_bounce_after_the_delivery(trial: Trial) -> None:
    """a bounce that is reported out of band, after the delivery, is one; a delivery of an older message is no excuse"""
    await happens(trial, event("delivered", message_id="m", occurred_at=ago(2)))
    await happens(trial, event(**HARD, message_id="m", occurred_at=ago(1)))
    await happens(trial, event("delivered", message_id="n", occurred_at=ago(0.5)))
    assert await why(trial) == "hard_bounce"


@pytest.mark.parametrize(("reason", "expected"), [("bounced", "hard_bounce"), ("complained", "complaint")])
async def test_mail_held_back_is_an_echo(trial: Trial, reason: str, expected: str) -> None:
    """a provider that holds mail back tells of an older outcome: it suppresses, but is no bounce and no statement"""
    result = await happens(trial, event("rejected", reject_reason=reason, occurred_at=ago(1)))
    contact = result.contacts[ANN]
    assert (contact.last_bounced_at, contact.complained_at, contact.soft_streak) == (None, None, 0)
    assert await why(trial) == expected
    assert await log(trial) == []
    await happens(trial, event("complained", occurred_at=ago(3)), event(**HARD, occurred_at=ago(3)))
    await happens(trial, event("rejected", reject_reason=reason, occurred_at=ago(4)))
    row = await trial.sql.fetchrow("SELECT since, last_at FROM suppressions WHERE reason = $1", expected)
    assert row is not None
    assert tuple(row) == (ago(3), ago(3))


async def test_a_list_of_the_provider(trial: Trial) -> None:
    """mail held back because of one list ends that list, not everything"""
    await happens(trial, event("rejected", reject_reason="unsubscribed", topic="news", occurred_at=ago(1)))
    assert (await why(trial), await why(trial, "offers")) == ("unsubscribe", None)


async def test_leaving_one_topic(trial: Trial) -> None:
    """an unsubscribe from a group leaves the others alone; one without a group ends the brand's marketing"""
    await happens(trial, event("unsubscribed", topic="news", brand="acme", occurred_at=ago(2)))
    assert [await why(trial, topic) for topic in ("news", "offers", "other")] == ["unsubscribed", None, None]
    await happens(trial, event("unsubscribed", brand="acme", occurred_at=ago(1)))
    assert [await why(trial, topic) for topic in ("offers", "other")] == ["unsubscribe", None]
    assert await why(trial, "receipts", "transactional") is None
    assert await log(trial) == [("unsubscribed", "news", "acme"), ("unsubscribed", "", "acme")]


async def test_an_older_unsubscribe(trial: Trial) -> None:
    """what was said last counts, whenever it arrives; at the same time, no"""
    await happens(trial, event("unsubscribed", topic="news", occurred_at=ago(200)))
    assert await why(trial) is None
    await happens(trial, event("unsubscribed", topic="news", occurred_at=ago(100)))
    assert await why(trial) == "unsubscribed"


async def test_subscribed_at_the_provider(database: str) -> None:
    """a provider's `subscribed` does nothing, unless its source is trusted; it lifts nothing even then"""
    async with Trial(database, rules=Rules(trusted=frozenset({"shop"}))) as trial:
        await trial.sql.execute(TOPICS)
        columns: dict[str, Any] = {"topic": "news", "brand": "acme", "occurred_at": ago(1)}
        await happens(trial, event("subscribed", **columns))
        assert await why(trial) == "not_subscribed"
        await happens(trial, event("subscribed", source="shop", **columns | {"topic": None}))
        await happens(trial, event("subscribed", source="shop", attribution="ambiguous", **columns))
        assert await why(trial) == "not_subscribed"
        await happens(trial, event("subscribed", source="shop", **columns))
        assert await why(trial) is None
        await happens(trial, event("complained", brand="acme", occurred_at=ago(3)))
        await happens(trial, event("subscribed", source="shop", **columns | {"occurred_at": NOW}))
        assert await why(trial) == "complaint"


async def test_how_far_a_complaint_goes(database: str) -> None:
    """a complaint ends the brand's marketing, or all mail where its source says so"""
    async with Trial(database, rules=Rules(total_complaints=frozenset({"strict"}))) as trial:
        await trial.sql.execute(TOPICS)
        await happens(
            trial, event("complained", brand="acme"), event("complained", source="strict", recipient="b@x.example")
        )
        assert [await why(trial, stream=stream, topic=None) for stream in ("marketing", "transactional")] == [
            "complaint",
            None,
        ]
        assert await why(trial, None, "transactional", "b@x.example") == "complaint"


# Bounces that repeat ----------------------------------------------------------------------------------------------


def bounces(*days: float, **columns: Any) -> list[Event]:
    return [event(**FULL | columns, message_id=f"m{one}", occurred_at=ago(one)) for one in days]


async def streak(trial: Trial) -> tuple[int, str | None]:
    contact = await trial.contacts.get(ANN)
    assert contact is not None
    return contact.soft_streak, await why(trial)


async def test_repeated_bounces(trial: Trial) -> None:
    """five full mailboxes over a week suppress for a month; a person's open or a delivery starts the count anew"""
    await happens(trial, *bounces(20, 19, 18, 17))
    assert await streak(trial) == (4, None)
    await happens(trial, *bounces(12))
    answer = await trial.contacts.sendable(ANN, "news")
    assert (answer.reason, answer.since, answer.until) == ("soft_bounce", ago(12), ago(12) + timedelta(days=30))
    row = await trial.sql.fetchrow("SELECT source, recipient_domain, key_id, normalization FROM suppressions")
    assert row is not None
    assert tuple(row) == ("test", "example.com", 1, 1)
    await happens(trial, event("opened", actor="machine", occurred_at=ago(11)))
    assert await streak(trial) == (5, "soft_bounce")
    await happens(trial, event("delivered", occurred_at=ago(18.5)))
    assert await streak(trial) == (3, None)
    assert await trial.sql.fetchval("SELECT count(*) FROM suppressions") == 0
    assert await trial.sql.fetchval("SELECT count(*) FROM bounces") == 3


async def test_bounces_that_do_not_count(trial: Trial) -> None:
    """blocks, echoes, guesses and repetitions of one message are no streak"""
    for columns in (
        {"bounce_class": "spam_block", "bounce_category": "block"},
        {"echo": True},
        {"attribution": "ambiguous"},
    ):
        await happens(trial, *bounces(*range(20), **columns))
    await happens(trial, *(event(**FULL, message_id="one", occurred_at=ago(day)) for day in range(20)))
    assert await streak(trial) == (1, None)


async def test_an_expired_suppression(trial: Trial) -> None:
    """a suppression that has expired does not count, and the next bounce brings it back for longer"""
    await happens(trial, *bounces(60, 58, 56, 54, 52))
    assert await streak(trial) == (5, None)
    await happens(trial, *bounces(1))
    answer = await trial.contacts.sendable(ANN, "news")
    assert (answer.reason, answer.until) == ("soft_bounce", ago(1) + timedelta(days=90))


async def test_the_longer_of_two_suppressions(trial: Trial) -> None:
    """what is suppressed twice is so until the later end, whichever is told first, alone or together"""
    ends = {ago(3): None, ago(2): ago(-2), ago(1): ago(-1)}
    for n, order in enumerate(permutations(ends)):
        for together in (False, True):
            address = f"{n}{together}@example.com"
            ones = [
                Suppression(address=address, reason="manual", scope="all", at=at, source="x", until=ends[at])
                for at in order
            ]
            for some in [ones[:2], ones[2:]] if together else [[one] for one in ones]:
                await trial.contacts.suppress_many(some)
    rows = await trial.sql.fetch("SELECT since, last_at, expires_at FROM suppressions")
    assert [tuple(row) for row in rows] == [(ago(3), ago(1), None)] * 12
    await trial.contacts.suppress(ANN, at=ago(1), until=ago(-1))
    await trial.contacts.suppress(ANN, at=NOW, until=ago(-0.5))
    assert (await trial.contacts.sendable(ANN)).until == ago(-1)
    await trial.contacts.lift(ANN, reason="manual", why="a test")
    await trial.contacts.suppress(ANN, at=NOW + timedelta(hours=1), until=ago(-0.5))  # it begins anew
    assert (await trial.contacts.sendable(ANN)).until == ago(-0.5)


async def test_lifting_what_lies_ahead(trial: Trial) -> None:
    """a suppression by a clock that is ahead of ours can be lifted too"""
    await trial.contacts.suppress(ANN, at=datetime.now(UTC) + timedelta(minutes=4))
    assert await trial.contacts.lift(ANN, reason="manual", why="a test") == 1
    assert await why(trial) is None


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"reason": "soft_bounce"}, "bounce policy"),
        ({"scope": "topic"}, "which topic"),
        ({"brand": "acme"}, "scope='marketing'"),
    ],
)
async def test_suppressions_that_could_not_hold(trial: Trial, columns: dict[str, Any], says: str) -> None:
    """what would be deleted, match nothing, or reach further than it says, is refused with what to do"""
    with pytest.raises(ValueError, match=says):
        await trial.contacts.suppress(ANN, at=NOW, **columns)
    assert await trial.sql.fetchval("SELECT count(*) FROM suppressions") == 0


async def test_lifting_repeated_bounces(trial: Trial) -> None:
    """after a lift the count starts anew: neither old bounces nor a single new one bring it back"""
    await happens(trial, *bounces(20, 19, 18, 17, 12))
    assert await trial.contacts.lift(ANN, reason="soft_bounce", why="they have made room") == 1
    assert await streak(trial) == (0, None)
    later = [event(**FULL, occurred_at=NOW + timedelta(days=day)) for day in (1, 2, 3, 4, 9)]
    await happens(trial, *bounces(16), *later[:4])
    assert await streak(trial) == (4, None)
    await happens(trial, later[4])
    assert await streak(trial) == (5, "soft_bounce")
    await happens(trial, event("clicked", occurred_at=NOW + timedelta(days=10)))
    assert await streak(trial) == (0, None)


async def test_a_delivery_beside_a_bounce(database: str) -> None:
    """a worker that merges a delivery waits for one that merges the bounce before it, and then sees that bounce"""
    one, two = await asyncpg.connect(database), await asyncpg.connect(database)
    try:
        first = one.transaction()
        await first.start()
        await Contacts(one, VAULT).record(bounces(20, 19, 18, 17, 12))
        assert await one.fetchval("SELECT soft_streak FROM contacts") == 5
        delivery = asyncio.create_task(Contacts(two, VAULT).record([event("delivered", occurred_at=ago(1))]))
        await value(one, "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = $1", 1, two.get_server_pid())
        await first.commit()
        await delivery
        assert await one.fetchval("SELECT soft_streak FROM contacts") == 0
        assert await one.fetchval("SELECT count(*) FROM suppressions") == 0
    finally:
        await one.close()
        await two.close()


# The person -------------------------------------------------------------------------------------------------------


async def test_machine_opens(trial: Trial) -> None:
    """a machine's open is noted as such and is no sign of life; a machine's click is nothing"""
    at = ago(1)
    result = await happens(trial, event("opened", actor="machine", occurred_at=at), event("clicked", actor="machine"))
    contact = result.contacts[ANN]
    assert (contact.prefetched_at, contact.last_opened_at, contact.last_event_at) == (at, None, None)


async def test_details(trial: Trial) -> None:
    """known details and attributes are set one by one and removed by an empty text; tags come and go"""
    await trial.contacts.update(ANN, name="Ann", time_zone="Europe/Vienna", external_id="7", plan="pro", address="x")
    contact = await trial.contacts.update(ANN, locale="de-AT", time_zone="")
    assert (contact.name, contact.locale, contact.time_zone, contact.external_id) == ("Ann", "de-AT", None, "7")
    assert contact.attributes == {"plan": "pro", "address": "x"}
    assert contact.updated_at is not None
    with pytest.raises(ValueError, match="no time zone"):
        await trial.contacts.update(ANN, time_zone="Europe/Nowhere")
    await trial.contacts.tag(ANN, "vip", "beta")
    await trial.contacts.tag(ANN, "vip")
    await trial.contacts.untag(ANN, "beta", "none")
    found = await trial.contacts.get(ANN)
    assert found is not None
    assert found.tags == ["vip"]


async def test_another_address(trial: Trial) -> None:
    """what a person has said goes along to a new address, what was wrong with the old one does not"""
    await happens(
        trial,
        event("unsubscribed", topic="offers", occurred_at=ago(5)),
        event("complained", brand="other", occurred_at=ago(5)),
    )
    await happens(trial, event(**HARD, occurred_at=ago(4)), *bounces(20, 19, 18, 17, 12))
    await trial.contacts.update(ANN, plan="pro")
    await trial.contacts.update("new@example.com", external_id="7", plan="free", seats=2)
    contact = await trial.contacts.change_address(ANN, "New@example.com", at=NOW, why="married")
    assert (contact.address, contact.external_id, contact.soft_streak) == ("new@example.com", "7", 0)
    assert contact.attributes == {"plan": "pro", "seats": 2}
    assert await trial.contacts.get(ANN) is None
    told = [await why(trial, topic, address="new@example.com") for topic in ("news", "offers", "other")]
    assert told == [None, "unsubscribed", "complaint"]
    assert list(
        map(
            tuple,
            await trial.sql.fetch(
                "SELECT state FROM subscriptions WHERE address_hash = $1", trial.vault.address_hash(ANN)
            ),
        )
    ) == [("unsubscribed",)]
    row = await trial.sql.fetchrow("SELECT contact_id, address, who, reason FROM contact_addresses")
    assert row is not None
    assert tuple(row) == (contact.id, ANN, "trial", "married")
    assert (await trial.contacts.change_address("new@example.com", "new@example.com", at=NOW)).id == contact.id
    with pytest.raises(LookupError):
        await trial.contacts.change_address(ANN, "third@example.com", at=NOW)


async def test_what_is_said_by_mail_to_the_old_address(trial: Trial) -> None:
    """an unsubscribe or complaint that arrives after the address was changed holds for the new one; a bounce does not,
    nor what somebody says who signed up with the old address since"""
    for topic in ("news", "offers"):
        await trial.contacts.subscribe(ANN, topic, at=ago(20))
    await trial.contacts.change_address(ANN, "new@example.com", at=NOW)
    await happens(trial, event("unsubscribed", topic="news", occurred_at=ago(2)), event(**HARD, occurred_at=ago(1)))
    told = [await why(trial, topic, address="new@example.com") for topic in ("news", "offers")]
    assert told == ["unsubscribed", None]
    await trial.contacts.unsubscribe(ANN, "offers", at=NOW, wording="by a form")
    assert await why(trial, "offers", address="new@example.com") == "unsubscribed"
    said = await trial.sql.fetch("SELECT address, source, method, wording FROM consent_log ORDER BY id DESC LIMIT 2")
    assert {tuple(row) for row in said} == {(one, "trial", "handler", "by a form") for one in (ANN, "new@example.com")}
    await trial.contacts.subscribe("new@example.com", "offers", at=NOW + timedelta(seconds=1))
    await trial.contacts.subscribe(ANN, "news", at=NOW)
    await happens(trial, event("unsubscribed", topic="offers", occurred_at=NOW), event("complained", occurred_at=NOW))
    assert await why(trial, "offers", address="new@example.com") is None


async def test_a_new_address_is_no_way_around(trial: Trial) -> None:
    """what holds mail back by hand, by a list, or for good goes along, also over what had run out at the new address"""
    new = "new@example.com"
    await trial.contacts.update(ANN)
    await trial.contacts.update(new)
    await trial.contacts.suppress(ANN, at=ago(9), reason="unsubscribe", scope="marketing")
    await trial.contacts.suppress(new, at=ago(5), reason="unsubscribe", scope="marketing", until=ago(1))
    assert await why(trial, None, address=new) is None
    await trial.contacts.suppress(ANN, at=ago(9), reason="manual", note="asked us on the phone")
    await trial.contacts.suppress(ANN, at=ago(9), reason="imported")
    await trial.contacts.change_address(ANN, new, at=NOW)
    told = []
    for reason in ("manual", "imported", "unsubscribe"):
        told.append(await why(trial, None, address=new))
        assert await trial.contacts.lift(new, reason=reason, why="a test") == 1
    assert told == ["manual", "imported", "unsubscribe"]


async def test_the_erased_do_not_come_back(trial: Trial) -> None:
    """events about an erased person make no contact and name nobody; what they ask for still holds"""
    await trial.sql.execute("DELETE FROM contacts; DELETE FROM subscriptions")
    gone = trial.vault.address_hash(ANN)
    await trial.sql.execute(
        "INSERT INTO erasures (address_hash, who, erased_at) VALUES ($1, 'maria', $2)", gone, ago(1)
    )
    both = [event("delivered"), *bounces(20, 19), event("complained"), event("delivered", recipient="bob@example.com")]
    result = await happens(trial, *both, event(**HARD))
    assert set(result.contacts) == {"bob@example.com"}
    assert await trial.sql.fetchval("SELECT count(*) FROM bounces") == 0
    rows = await trial.sql.fetch("SELECT reason, recipient_domain FROM suppressions ORDER BY reason")
    assert list(map(tuple, rows)) == [("complaint", None), ("hard_bounce", None)]
    assert await trial.sql.fetchval("SELECT address FROM consent_log ORDER BY id DESC LIMIT 1") is None
    for come in (trial.contacts.subscribe, trial.contacts.request):  # told again by a replay
        await come(ANN, "news", at=ago(2))
    assert (await why(trial), await trial.contacts.get(ANN)) == ("erased", None)
    assert await trial.sql.fetchval("SELECT count(*) FROM subscriptions") == 0
    await trial.contacts.subscribe(ANN, "news", at=NOW)
    assert await trial.contacts.get(ANN) is not None
    assert await why(trial) == "hard_bounce"
