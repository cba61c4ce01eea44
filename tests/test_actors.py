"""Who opened or clicked, judged by the provider's flag and by real user agents."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from receiver.classify.actors import DETECTOR_VERSION, judge
from receiver.event import Actor, EventType

HUMAN, MACHINE, PROXY, UNKNOWN = Actor.HUMAN, Actor.MACHINE, Actor.PROXY, Actor.UNKNOWN
OPEN, CLICK = EventType.OPENED, EventType.CLICKED

FIXTURE = Path(__file__).parent / "fixtures" / "classify" / "user_agents.jsonl"
# User agents as they are on the wire.
CORPUS = [
    (case["user_agent"], Actor(case["actor"]), case["reason"])
    for case in map(json.loads, FIXTURE.read_text(encoding="utf-8").splitlines())
]
BROWSERS = [user_agent for user_agent, _, reason in CORPUS if reason == "browser"]
FROZEN_EDGE = next(user_agent for user_agent, _, reason in CORPUS if reason == "gmail prefetch")


@pytest.mark.parametrize(("user_agent", "actor", "reason"), CORPUS)
def test_opens_by_real_user_agents(user_agent: str, actor: Actor, reason: str) -> None:
    """An open is judged by its user agent: programs and prefetchers are machines, image proxies are not."""
    assert judge(OPEN, user_agent=user_agent) == (actor, (reason,))


OPEN_ONLY = {"apple mpp", "gmail prefetch"}


@pytest.mark.parametrize(("user_agent", "actor", "reason"), [row for row in CORPUS if row[2] not in OPEN_ONLY])
def test_clicks_by_real_user_agents(user_agent: str, actor: Actor, reason: str) -> None:
    """A click is judged as an open is, but for what only loads images."""
    assert judge(CLICK, user_agent=user_agent) == (actor, (reason,))


def test_a_click_is_never_image_loading() -> None:
    """Apple's proxy follows no links, so the bare agent proves nothing; the frozen Edge is a scanner."""
    assert judge(CLICK, user_agent="Mozilla/5.0") == (UNKNOWN, ("bare user agent",))
    assert judge(CLICK, user_agent=FROZEN_EDGE) == (MACHINE, ("frozen browser",))


@pytest.mark.parametrize("flag", list(Actor))
@pytest.mark.parametrize("user_agent", [None, "curl/8.5.0", BROWSERS[0]])
def test_the_providers_flag_wins(flag: Actor, user_agent: str | None) -> None:
    """What the provider says itself is taken, whatever the user agent."""
    assert judge(OPEN, provider_flag=flag, user_agent=user_agent) == (flag, ("provider flag",))


def test_without_a_user_agent_nobody_knows() -> None:
    """An open without a user agent is unknown, not a person."""
    assert judge(OPEN) == (UNKNOWN, ("no user agent",))


def test_the_type_may_be_plain_text() -> None:
    """The event type counts by its value, so that a stored row can be judged again."""
    assert judge("opened", user_agent="Mozilla/5.0") == (MACHINE, ("apple mpp",))
    assert DETECTOR_VERSION >= 1


@given(st.sampled_from([OPEN, CLICK]), st.text())
@example(OPEN, "\ud800")
def test_any_text_gets_a_judgement(event_type: EventType, user_agent: str) -> None:
    """Any user agent gives an actor and at least one reason."""
    actor, reasons = judge(event_type, user_agent=user_agent)
    assert isinstance(actor, Actor)
    assert reasons


@pytest.mark.parametrize("piece", ["a", " ", "5.", "mozilla/5.0 (", "opera/1", "bot", "\x00"])
def test_long_texts_take_no_time(piece: str) -> None:
    """100 kB of anything takes milliseconds at most: only the first 512 characters are read."""
    text = piece * (100_000 // len(piece))
    started = time.process_time()
    judge(OPEN, user_agent=text)
    assert time.process_time() - started < 0.05
