"""The shipped handlers: any order, duplication and batching of the same events ends in the same contacts."""

from __future__ import annotations

import ast
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import receiver
from receiver import Context, Done, Event, EventType, RetryAfter, Skip
from receiver.plugins.handlers import Handler
from receiver.plugins.loading import load_handlers
from receiver.testing import Result, Trial, event
from tests.log_events import store_rows
from tests.workers import VAULT, prepared, running, value

HANDLERS = Path(__file__).parents[1] / "handlers"
SHIPPED = {one.name: one for one in load_handlers(HANDLERS)}
ENGAGEMENT, SUPPRESSION, FOLLOW_UP = SHIPPED["engagement"], SHIPPED["suppression"], SHIPPED["follow_up"]
START = datetime(2026, 3, 1, tzinfo=UTC)


def at(hours: int) -> datetime:
    return START + timedelta(hours=hours)


async def tried(dsn: str, handler: Handler, *events: Event) -> Result:
    async with Trial(dsn) as trial:
        return await trial.run(handler, *events)


def test_they_use_the_public_interface_alone() -> None:
    """the shipped handlers import `receiver` and the standard library, nothing behind it"""
    files = sorted(HANDLERS.glob("*.py"))
    assert len(files) >= 3
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith("receiver.")], path


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"type_": "bounced", "bounce_category": "hard"}, ("hard_bounce", "all", "", "")),
        (
            {"type_": "bounced", "bounce_class": "invalid_recipient", "bounce_category": "hard"},
            ("hard_bounce", "all", "", ""),
        ),
        ({"type_": "bounced", "bounce_class": "bad_domain", "bounce_category": "hard"}, None),
        ({"type_": "bounced", "bounce_class": "policy", "bounce_category": "block", "provider_verdict": "hard"}, None),
        ({"type_": "bounced", "bounce_category": "soft"}, None),
        ({"type_": "bounced", "bounce_category": "block"}, None),
        ({"type_": "bounced"}, None),
        ({"type_": "deferred"}, None),
        ({"type_": "complained", "brand": "acme"}, ("complaint", "marketing", "acme", "")),
        ({"type_": "complained"}, ("complaint", "marketing", "", "")),
        ({"type_": "complained", "attribution": "ambiguous"}, None),
        ({"type_": "bounced", "bounce_category": "hard", "attribution": "ambiguous"}, None),
        ({"type_": "unsubscribed", "brand": "acme", "topic": "news"}, None),
        ({"type_": "unsubscribed", "brand": "acme"}, ("unsubscribe", "marketing", "acme", "")),
        ({"type_": "rejected", "reject_reason": "bounced", "brand": "acme"}, ("hard_bounce", "all", "", "")),
        ({"type_": "rejected", "reject_reason": "invalid"}, ("hard_bounce", "all", "", "")),
        ({"type_": "rejected", "reject_reason": "complained"}, ("complaint", "marketing", "", "")),
        ({"type_": "rejected", "reject_reason": "unsubscribed"}, ("unsubscribe", "marketing", "", "")),
        ({"type_": "rejected", "reject_reason": "unsubscribed", "topic": "news"}, ("unsubscribe", "topic", "", "news")),
        ({"type_": "rejected", "reject_reason": "content"}, None),
        ({"type_": "bounced", "bounce_category": "hard", "recipient": None}, None),
        ({"type_": "bounced", "bounce_category": "hard", "is_test": True}, None),
    ],
)
async def test_what_suppresses(database: str, columns: dict[str, Any], expected: tuple[str, ...] | None) -> None:
    """hard bounces concern all mail, complaints the brand's marketing, unsubscribes the topic or that marketing"""
    result = await tried(database, SUPPRESSION, event(columns.pop("type_"), **columns))
    found = [(one.reason, one.scope, one.brand, one.topic) for one in result.suppressions]
    assert found == ([] if expected is None else [expected])


async def test_what_unsubscribes(database: str) -> None:
    """an unsubscribe from a topic is kept as the topic's subscription, and is none from everything"""
    result = await tried(database, SUPPRESSION, event("unsubscribed", topic="news", brand="acme"))
    assert (result.suppressions, result.subscriptions) == ([], {("ann@example.com", "news"): "unsubscribed"})


async def test_lifting(database: str) -> None:
    """a lifted suppression stays lifted for older events and for echoes, and comes back with a later event"""
    async with Trial(database) as trial:

        async def active(*events: Event) -> bool:
            result = await trial.run(SUPPRESSION, *events)
            return result.suppressions[0].active

        now = datetime.now(UTC)
        hard: dict[str, Any] = {"type_": "bounced", "bounce_category": "hard"}
        assert await active(event(**hard, occurred_at=now - timedelta(days=3)))
        assert await trial.contacts.lift("ann@example.com", reason="hard_bounce", why="a new mailbox") == 1
        assert not await active(event(**hard, occurred_at=now - timedelta(days=3)))
        assert not await active(event(**hard, occurred_at=now - timedelta(days=1)))
        later = now + timedelta(hours=1)
        assert not await active(event("rejected", reject_reason="bounced", occurred_at=later))
        assert not await active(event(**hard, echo=True, occurred_at=later))
        assert await active(event(**hard, occurred_at=later))


async def test_follow_up(database: str) -> None:
    """a click in a tagged message queues one send, however often it happens; others queue none"""
    async with Trial(database) as trial:
        assert (await trial.run(FOLLOW_UP, event("clicked"))).outcome is None
        assert (await trial.run(FOLLOW_UP, event("clicked", tags=["trial"], actor="machine"))).outcome is None
        nobody = await trial.run(FOLLOW_UP, event("clicked", tags=["trial"], recipient=None))
        assert isinstance(nobody.outcome, Skip)
        link = "https://example.com/plan"
        clicks = [event("clicked", tags=["x", "trial"], url=link) for _ in range(3)]
        early = await trial.run(FOLLOW_UP, clicks[0])
        assert isinstance(early.outcome, RetryAfter)
        assert 100 < early.outcome.seconds <= 120
        result = await trial.run(FOLLOW_UP, *clicks, now=datetime.now(UTC) + timedelta(minutes=3))
    assert result.outcome == Done()
    (send,) = result.sends
    assert (send.recipient, send.template, send.data) == ("ann@example.com", "trial-tips", {"link": link})
    assert send.delay == timedelta(days=2)


async def test_what_makes_a_message_pointless(database: str) -> None:
    """`cancel_on` takes event types, and types with a tag; a word that no event has is refused"""
    words: list[str] = [EventType.UNSUBSCRIBED, "clicked:offer"]

    @receiver.handler(types=[EventType.CLICKED])
    async def offer(event: Event, ctx: Context) -> None:
        await ctx.send(template="x", topic="news", to=event.recipient or "", key="k", cancel_on=words)

    async with Trial(database) as trial:
        (send,) = (await trial.run(offer, event("clicked"))).sends
        assert send.cancel_on == ["unsubscribed", "clicked:offer"]
        words.append("click")
        with pytest.raises(ValueError, match="'click' is no event type"):
            await trial.run(offer, event("clicked"))


async def test_marketing_needs_a_topic(database: str) -> None:
    """whose consent counts has to be said; only transactional mail needs none"""

    @receiver.handler(types=[EventType.CLICKED])
    async def offer(event: Event, ctx: Context) -> None:
        await ctx.send(template="x", to=event.recipient or "", key="r", stream="transactional")
        await ctx.send(template="x", to=event.recipient or "", key="k")

    async with Trial(database) as trial:
        with pytest.raises(ValueError, match="topic: say whose consent counts"):
            await trial.run(offer, event("clicked"))


async def test_engagement(database: str) -> None:
    """each kind of event sets its time; machines, echoes, incoming mail and guesses do not count"""
    result = await tried(
        database,
        ENGAGEMENT,
        event("sent", occurred_at=at(1)),
        event("delivered", occurred_at=at(2)),
        event("opened", occurred_at=at(3), actor="proxy"),
        event("opened", occurred_at=at(9), actor="machine"),
        event("clicked", occurred_at=at(4), actor="human"),
        event("bounced", occurred_at=at(5), bounce_category="soft"),
        event("bounced", occurred_at=at(6), bounce_category="hard", echo=True),
        event("complained", occurred_at=at(10), attribution="ambiguous"),
        event("inbound", occurred_at=at(11)),
        event("delivered", occurred_at=at(0)),
    )
    contact = result.contacts["ann@example.com"]
    assert contact.last_sent_at == at(1)
    assert contact.last_delivered_at == at(2)
    assert contact.last_opened_at == at(3)
    assert contact.last_clicked_at == at(4)
    assert contact.last_bounced_at == at(5)
    assert contact.last_event_at == at(6)
    assert contact.complained_at is None
    assert contact.unsubscribed_at is None


async def test_attributes(database: str) -> None:
    """attributes are merged, under whatever form of the address"""
    async with Trial(database) as trial:
        await trial.contacts.update("Ann@Example.com", plan="free", seats=1)
        contact = await trial.contacts.update("<ann@example.com>", plan="pro")
        assert contact.attributes == {"plan": "pro", "seats": 1}
        assert await trial.contacts.get("ANN@example.com") == contact
        assert await trial.contacts.get("bob@example.com") is None
        with pytest.raises(ValueError, match="not an e-mail address"):
            await trial.contacts.get("nobody")


async def test_concurrent_workers(database: str) -> None:
    """workers that change the same contacts at the same time neither deadlock nor lose a time"""
    connection = await asyncpg.connect(database)
    handlers = (ENGAGEMENT, SUPPRESSION)
    await prepared(connection, handlers)
    chance = random.Random(1)
    rows = [
        {
            "type": chance.choice(["delivered", "opened", "clicked", "complained"]),
            "recipient": f"{chance.randint(0, 30)}@example.com",
            "occurred_at": at(chance.randint(0, 10_000)),
            "shard": n % 64,  # spread over all workers, unlike real events of one recipient
        }
        for n in range(3000)
    ]
    await store_rows(connection, rows)
    async with running(database, *handlers), running(database, *handlers), running(database, *handlers):
        await value(
            connection,
            "SELECT (SELECT sum(extract(epoch FROM last_event_at)) FROM contacts) = "
            "(SELECT sum(t) FROM (SELECT extract(epoch FROM max(occurred_at)) AS t FROM events GROUP BY recipient) x)",
            expected=True,
        )
        complained = {str(row["recipient"]) for row in rows if row["type"] == "complained"}
        await value(connection, "SELECT count(*) FROM suppressions", len(complained))
        hashes = {row[0] for row in await connection.fetch("SELECT address_hash FROM suppressions")}
    assert hashes == {VAULT.address_hash(one) for one in complained}
    assert await connection.fetchval("SELECT count(*) FROM dead_letters") == 0
    await connection.close()


async def test_a_fixed_number_of_statements(database: str) -> None:
    """engagement takes two statements for a batch and suppression three, however many events it has"""
    for handler, type_, few in ((ENGAGEMENT, EventType.DELIVERED, 2), (SUPPRESSION, EventType.COMPLAINED, 3)):
        counts = []
        for size in (1, 200):
            async with Trial(database) as trial:
                statements: list[str] = []
                run = trial._transaction.run

                async def counted(*called: Any, run: Any = run, statements: list[str] = statements) -> Any:
                    statements.append(called[2])
                    return await run(*called)

                trial._transaction.run = counted  # type: ignore[method-assign,assignment]  # counts what the handler runs
                caller = trial.caller(handler)
                context = caller.context(trial._transaction)
                await caller.call_all([event(type_, recipient=f"{n}@example.com") for n in range(size)], context)
                counts.append(len(statements))
        assert counts == [few, few]
