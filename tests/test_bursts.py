"""The detector's second stage: bursts of scanners are found, people are not wronged, in whatever order clicks come."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from receiver.classify.bursts import Click, judge_clicks
from receiver.event import Actor

DELIVERED = datetime(2026, 11, 26, 12, tzinfo=UTC)
LINKS = ["https://a.example/offer", "https://a.example/blog", "https://a.example/more", "https://a.example/unsubscribe"]


def click(seconds: float, url: str, actor: Actor = Actor.UNKNOWN, crowd: int = 1) -> Click:
    return Click(UUID(int=random.getrandbits(128)), DELIVERED + timedelta(seconds=seconds), url, actor, crowd)


def scanner(rng: random.Random) -> Sequence[Click]:
    """A gateway: every link of the mail within at most five seconds, some time after delivery."""
    links = [f"https://a.example/{number}" for number in range(rng.randint(2, 8))] + [LINKS[3]]
    start = rng.choice([0.5, 3, 20, 300])
    return [click(start + rng.uniform(0, 5), link) for link in links]


def person(rng: random.Random) -> Sequence[Click]:
    """Somebody who reads: a click or a few, with a log-normal delay after delivery and between them."""
    at, clicks = rng.lognormvariate(6, 1.5) + 3, []
    for _ in range(rng.choices([1, 2, 3, 4], [70, 20, 7, 3])[0]):
        clicks.append(click(at, rng.choice(LINKS[:3])))
        at += rng.lognormvariate(3, 1)
    return clicks


def test_bursts_are_found_and_people_are_not_wronged() -> None:
    """of simulated scanners' bursts at least 95 % are found, of people at most 1 % are wronged"""
    rng = random.Random(20261126)
    bursts = [judge_clicks(scanner(rng), delivered_at=DELIVERED) for _ in range(2000)]
    found = sum(all(one.actor is Actor.MACHINE for one in judged.values()) for judged in bursts)
    readers = [judge_clicks(person(rng), delivered_at=DELIVERED) for _ in range(5000)]
    wronged = sum(any(one.actor is Actor.MACHINE for one in judged.values()) for judged in readers)
    assert found / len(bursts) >= 0.95
    assert wronged / len(readers) <= 0.01


def test_order_makes_no_difference() -> None:
    """shuffled clicks have the same verdicts"""
    rng = random.Random(1)
    for _ in range(50):
        clicks = [*scanner(rng), *person(rng)]
        judged = judge_clicks(clicks, delivered_at=DELIVERED)
        assert judge_clicks(rng.sample(clicks, len(clicks)), delivered_at=DELIVERED) == judged


def test_a_person_after_the_burst() -> None:
    """a click long after the burst of a scanner is a person's"""
    burst = [click(4 + number / 4, link) for number, link in enumerate(LINKS)]
    later = click(900, LINKS[0])
    judged = judge_clicks([*burst, later], delivered_at=DELIVERED)
    assert [judged[one.id].actor for one in burst] == [Actor.MACHINE] * 4
    assert judged[later.id].actor is Actor.HUMAN
    assert "several links at once" in judged[burst[0].id].reasons


def test_the_quick_and_the_early() -> None:
    """a click three seconds after delivery may be a person's; one before it cannot be"""
    quick, early = click(3, LINKS[0]), click(-1, LINKS[0])
    assert judge_clicks([quick], delivered_at=DELIVERED)[quick.id].actor is Actor.HUMAN
    assert judge_clicks([early], delivered_at=DELIVERED)[early.id].actor is Actor.MACHINE


def test_what_was_said_before_and_crowds() -> None:
    """a provider's word stays, and one address that clicks for many recipients is a machine's"""
    said, crowd = click(500, LINKS[0], Actor.MACHINE), click(500, LINKS[0], crowd=25)
    judged = judge_clicks([said, crowd], delivered_at=DELIVERED)
    assert (judged[said.id].score, judged[crowd.id].actor) == (100, Actor.MACHINE)
