"""Rules: what follows a click, a silence, or nothing at all; scanners set nothing off, and no rule sets off itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr

from receiver import Event, EventType
from receiver.event import Actor
from receiver.plugins.outcomes import RetryAfter, Skip
from receiver.sending.proving import HANDLER as PROVING
from receiver.sending.rules import ask_the_silent, find_rules, handler_of
from receiver.settings import Settings
from receiver.store.clicks import judge_click
from receiver.testing import Trial, event

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
RULE = {"when": "clicked", "tag": "welcome", "after": "2d", "unless": ["unsubscribed", "clicked:offer"], "send": "next"}


def settings(directory: Path, **rules: Any) -> Settings:
    for name, meta in (("next", 'topic = "news"'), ("alarm", 'stream = "transactional"')):
        (directory / name).mkdir(exist_ok=True)
        (directory / name / "subject.txt").write_text("x")
        (directory / name / "body.txt").write_text("x")
        (directory / name / "meta.toml").write_text(meta)
    return Settings.model_validate(
        {"database": SecretStr("embedded"), "rules": rules, "sending": {"templates_dir": directory}}
    )


@pytest.fixture
async def trial(database: str) -> AsyncIterator[Trial]:
    async with Trial(database) as one:
        yield one


async def stored(trial: Trial, *clicks: Event) -> Sequence[Event]:
    for one in clicks:
        await trial.sql.execute(
            "INSERT INTO events (id, received_at, occurred_at, type, source, provider, provider_type, recipient, "
            "message_id, url, actor, shard, tags) "
            "VALUES ($1, now(), $2, $3, 's', 'p', 'x', $4, $5, $6, 'unknown', 1, '{}')",
            one.id,
            one.occurred_at,
            one.type,
            one.recipient,
            one.message_id,
            one.url,
        )
    return clicks


def clicked(seconds: float = 0, url: str = "https://a.example/1", **changes: Any) -> Event:
    at = NOW + timedelta(seconds=seconds)
    values = {"recipient": "ann@example.com", "message_id": "m1", "tags": ["welcome"], "actor": Actor.UNKNOWN}
    return event(EventType.CLICKED, id=uuid4(), occurred_at=at, received_at=at, url=url, **values | changes)


async def test_a_click_leads_to_one_message(trial: Trial, tmp_path: Path) -> None:
    """a click waits until it has settled, then queues one message for its message, however often it is handled"""
    (rule,), problems = find_rules(settings(tmp_path, welcome_2=RULE))
    assert problems == []
    handler = handler_of(rule)
    (one,) = await stored(trial, clicked())
    early = await trial.run(handler, one, now=NOW + timedelta(seconds=20))
    assert early.outcome == RetryAfter(timedelta(seconds=100), "whether it was a scanner shows a little later")
    late = NOW + timedelta(minutes=5)
    done = await trial.run(handler, one, now=late)
    await trial.run(handler, one, now=late)
    (send,) = done.sends
    assert (send.template, send.topic, send.stream, send.key) == (
        "next",
        "news",
        "marketing",
        "welcome_2:1:ann@example.com:m1",
    )
    assert list(send.cancel_on) == ["unsubscribed", "clicked:offer"]
    verdict = await trial.sql.fetchrow("SELECT actor, score FROM click_verdicts WHERE event_id = $1", one.id)
    assert verdict is not None
    assert tuple(verdict) == ("human", 0)


async def test_somebody_who_clicks_for_ever(trial: Trial) -> None:
    """of a message with any number of clicks a hundred are looked at: the one that is asked about, and the nearest"""
    clicks = await stored(trial, *(clicked(n * 10) for n in range(120)))
    assert (await judge_click(trial.sql, clicks[0])).actor is Actor.HUMAN
    judged = await trial.sql.fetchval("SELECT array_agg(event_id) FROM click_verdicts")
    assert set(judged) == {one.id for one in clicks[:100]}


async def test_a_scanner_sets_nothing_off(trial: Trial, tmp_path: Path) -> None:
    """clicks of a burst queue nothing, and say why; a replay queues nothing either"""
    handler = handler_of(find_rules(settings(tmp_path, welcome_2=RULE))[0][0])
    burst = await stored(trial, *(clicked(n / 5, f"https://a.example/{n}") for n in range(4)))
    late = NOW + timedelta(minutes=5)
    result = await trial.run(handler, burst[0], now=late)
    assert isinstance(result.outcome, Skip)
    assert "several links at once" in result.outcome.reason
    (person,) = await stored(trial, clicked(3600, message_id="m2"))
    assert (await trial.run(handler, person, now=late + timedelta(hours=2), replaying=True)).sends == []


async def test_the_kind_of_mail(trial: Trial, tmp_path: Path) -> None:
    """`event_stream` is what the outbox knows of its own message, and of other mail what the event says"""
    rule = {"when": "bounced", "event_stream": "transactional", "send": "alarm"}
    handler = handler_of(find_rules(settings(tmp_path, alarm=rule))[0][0])
    queue = "INSERT INTO sends (key, recipient, template, stream, handler) VALUES ($1, 'a@x.test', '', $1, 'h')"
    ids = {one: await trial.sql.fetchval(f"{queue} RETURNING id", one) for one in ("transactional", "marketing")}
    bounces = [
        event("bounced", message_id="ours", stream="outbound", metadata={"send_id": str(ids["transactional"])}),
        event("bounced", message_id="newsletter", stream="transactional", metadata={"send_id": str(ids["marketing"])}),
        event("bounced", message_id="elsewhere", stream="transactional"),
        event("bounced", message_id="unsaid"),
    ]
    sends = (await trial.run(handler, *bounces)).sends
    assert [send.key.rpartition(":")[2] for send in sends] == ["elsewhere", "ours"]


async def test_a_rule_does_not_set_off_itself(trial: Trial, tmp_path: Path) -> None:
    """a click in the rule's own message leads to none, and in another rule's message counts one step further"""
    own, other = {**RULE, "tag": None, "after": None}, {**RULE, "tag": None, "after": None, "send": "alarm"}
    rules, _ = find_rules(settings(tmp_path, own=own, other=other))
    (first,) = await stored(trial, clicked())
    late = NOW + timedelta(minutes=5)
    (send,) = (await trial.run(handler_of(rules[0]), first, now=late)).sends
    (again,) = await stored(trial, clicked(60, message_id="m2", metadata={"send_id": str(send.id)}))
    result = await trial.run(handler_of(rules[0]), again, now=late)
    assert result.outcome == Skip("the rule's own message")
    await trial.run(handler_of(rules[1]), again, now=late)
    assert await trial.sql.fetchval("SELECT depth FROM sends WHERE rule = 'other'") == 1


async def test_who_has_not_opened(trial: Trial, tmp_path: Path) -> None:
    """a delivery queues a message for later, which an open, a click or a prefetching mail client makes pointless"""
    rule = find_rules(settings(tmp_path, remind={"when": "not_opened", "after": "72h", "send": "next"}))[0][0]
    one = event(EventType.DELIVERED, recipient="ann@example.com", message_id="m1")
    (send,) = (await trial.run(handler_of(rule), one)).sends
    assert list(send.cancel_on) == ["opened", "clicked", "prefetched"]
    due = await trial.sql.fetchval("SELECT not_before - created_at FROM sends WHERE id = $1", send.id)
    assert due == timedelta(hours=72)


async def test_the_silent_are_asked_once(trial: Trial, tmp_path: Path) -> None:
    """who gets mail and has not stirred is asked once for each silence; prefetching clients are left out"""
    rule = find_rules(settings(tmp_path, sunset={"when": "silent", "after": "90d", "send": "next"}))[0][0]
    await trial.sql.execute("INSERT INTO topics (name, title) VALUES ('news', 'News')")
    for name, opened, prefetched in (("ann", 100, None), ("bob", 10, None), ("sue", 100, 5)):
        await trial.sql.execute(
            "INSERT INTO contacts "
            "(address, address_hash, created_at, last_delivered_at, last_opened_at, prefetched_at) "
            "VALUES ($1, $2, now() - interval '1 year', now(), now() - $3::interval, now() - $4::interval)",
            f"{name}@example.com",
            trial.vault.address_hash(name),
            timedelta(days=opened),
            None if prefetched is None else timedelta(days=prefetched),
        )
        await trial.sql.execute(
            "INSERT INTO subscriptions (address_hash, topic, subscribed_at) VALUES ($1, 'news', now())",
            trial.vault.address_hash(name),
        )
    assert await ask_the_silent(trial.sql, rule, 0) is None
    assert await ask_the_silent(trial.sql, rule, 0) is None
    rows = await trial.sql.fetch("SELECT recipient FROM sends")
    assert [row["recipient"] for row in rows] == ["ann@example.com"]


async def test_an_event_proves_a_send(trial: Trial) -> None:
    """an event with our id settles a message of which nobody knew; one that anybody can forge does not"""
    id_: UUID = await trial.sql.fetchval(
        "INSERT INTO sends (key, recipient, template, stream, handler, state, attempts) "
        "VALUES ('k', 'ann@example.com', 't', 'marketing', 'h', 'unknown', 1) RETURNING id"
    )
    state = "SELECT state FROM sends WHERE id = $1"
    told = {"recipient": "ann@example.com", "metadata": {"send_id": str(id_)}, "message_id": "m1"}
    await trial.run(PROVING, event(EventType.BOUNCED, attribution="unverified", **told))
    await trial.run(PROVING, event(EventType.DELIVERED, recipient="a@example.com", metadata={"send_id": "no uuid"}))
    assert await trial.sql.fetchval(state, id_) == "unknown"
    await trial.run(PROVING, event(EventType.DELIVERED, **told), event(EventType.OPENED, **told | {"message_id": None}))
    row = await trial.sql.fetchrow("SELECT state, provider_message_id FROM sends WHERE id = $1", id_)
    assert row is not None
    assert tuple(row) == ("sent", "m1")


@pytest.mark.parametrize(
    ("changes", "key", "word"),
    [
        ({"when": "clickd"}, "rules.r.when", "clicked"),
        ({"send": "nothing"}, "rules.r.send", "nothing"),
        ({"after": "soon"}, "rules.r.after", "length of time"),
        ({"unless": ["left"]}, "rules.r.unless", "left"),
        ({"colour": "red"}, "rules.r.colour", ""),
        ({"when": "not_opened", "after": None}, "rules.r", "72h"),
    ],
)
def test_mistakes_show_at_the_start(tmp_path: Path, changes: dict[str, Any], key: str, word: str) -> None:
    """a rule that cannot work is named before the service starts"""
    table = {name: value for name, value in (RULE | changes).items() if value is not None}
    _, (problem, *_) = find_rules(settings(tmp_path, r=table))
    assert problem.key.startswith(key)
    assert word in f"{problem.wrong} {problem.right}"
