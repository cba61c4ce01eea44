"""The bounce policy: which bounces suppress at once, which when they repeat, for how long, and which never."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.classify.bounce_rules import CATEGORY
from receiver.contacts.policy import AT_ONCE, DEFAULT, NEVER, Action, Bounced, Policy, Repeated, Streak, streak
from receiver.event import BounceCategory

START = datetime(2026, 3, 1, tzinfo=UTC)
SOFT = Repeated()


def day(number: float) -> datetime:
    return START + timedelta(days=number)


def bounced(at: float, rule: str = "mailbox_full", *, message: str | None = None, stream: str = "") -> Bounced:
    return Bounced(day(at), message or f"message {at:08.2f}", rule, stream, UUID(int=int(at * 100) + 1))


@pytest.mark.parametrize("bounce_class", CATEGORY)
def test_the_default(bounce_class: str) -> None:
    """only classes of the address act: a dead one at once, a full or silent one when it repeats, the sender's never"""
    expected: dict[str, Action] = {
        "invalid_recipient": AT_ONCE,
        "bad_domain": Repeated(messages=2, over=timedelta(days=1), expires=(), unless_provider_agrees=True),
        **dict.fromkeys(("inactive_mailbox", "mailbox_full", "expired", "transient"), SOFT),
    }
    assert Policy().action(bounce_class, CATEGORY[bounce_class]) == expected.get(bounce_class, NEVER)
    if CATEGORY[bounce_class] in (BounceCategory.BLOCK, BounceCategory.ADMIN):
        assert bounce_class not in DEFAULT


@pytest.mark.parametrize(
    ("bounce_class", "category", "verdict", "expected"),
    [
        ("undetermined", "hard", "hard", AT_ONCE),
        ("undetermined", "soft", "soft", SOFT),
        ("undetermined", "block", "block", NEVER),
        ("undetermined", "undetermined", None, NEVER),
        (None, "hard", None, AT_ONCE),
        (None, None, None, NEVER),
        ("bad_domain", "hard", "hard", AT_ONCE),
        ("policy", "block", "hard", NEVER),
        ("mailbox_full", "soft", "hard", SOFT),
        ("a_class_of_a_later_release", "hard", "hard", NEVER),
    ],
)
def test_what_the_provider_says(
    bounce_class: str | None, category: str | None, verdict: str | None, expected: Action
) -> None:
    """without a class the provider's word decides; with one it counts only where the rule asks for it"""
    assert Policy().action(bounce_class, category, verdict=verdict) == expected


def test_streams() -> None:
    """a kind of mail may have rules of its own; what it does not name is as everywhere"""
    policy = Policy(streams={"transactional": {"mailbox_full": NEVER, "inactive_mailbox": AT_ONCE}})
    assert policy.action("mailbox_full", "soft", stream="transactional") == NEVER
    assert policy.action("inactive_mailbox", "soft", stream="transactional") == AT_ONCE
    assert policy.action("expired", "soft", stream="transactional") == SOFT
    assert policy.action("mailbox_full", "soft", stream="marketing") == SOFT
    ones = [bounced(2 * number, stream="transactional") for number in range(6)]
    assert streak(policy, ones) is None
    assert streak(policy, [one._replace(stream="marketing") for one in ones]) is not None


def test_how_many_over_how_long() -> None:
    """it takes both: enough messages, and enough time between the first and the last of them"""
    assert streak(Policy(), []) is None
    assert streak(Policy(), [bounced(0), bounced(3), bounced(6), bounced(9)]) is None
    assert streak(Policy(), [bounced(number) for number in range(7)]) is None
    week = [bounced(0), bounced(1), bounced(2), bounced(3), bounced(7)]
    assert streak(Policy(), week) == Streak(day(7), day(7), day(37), week[-1].event_id)
    assert streak(Policy(), [bounced(number, "policy") for number in range(30)]) is None


def test_it_expires_and_comes_back_for_longer() -> None:
    """the first suppression lasts 30 days, the second 90, the third for good; bounces within one do not prolong it"""
    ones = [bounced(number) for number in (0, 1, 2, 3, 7, 8, 20)]
    assert streak(Policy(), ones) == Streak(day(7), day(20), day(37), ones[4].event_id)
    ones.append(bounced(37))
    assert streak(Policy(), ones) == Streak(day(37), day(37), day(127), ones[7].event_id)
    ones.append(bounced(200))
    assert streak(Policy(), ones) == Streak(day(200), day(200), None, ones[8].event_id)
    ones.append(bounced(900))
    assert streak(Policy(), ones) == Streak(day(200), day(900), None, ones[8].event_id)


def test_a_domain_that_is_not_there() -> None:
    """two messages a day apart to a missing domain suppress for good; within a day they may be one bad hour of DNS"""
    assert streak(Policy(), [bounced(0, "bad_domain"), bounced(0.9, "bad_domain")]) is None
    ones = [bounced(0, "bad_domain"), bounced(1, "bad_domain")]
    assert streak(Policy(), ones) == Streak(day(1), day(1), None, ones[1].event_id)


def test_several_rules() -> None:
    """equal rules are counted together, others for themselves; what two say is one suppression, the longer one"""
    mixed = [bounced(0), bounced(1, "expired"), bounced(2, "soft"), bounced(3, "transient"), bounced(8)]
    assert streak(Policy(), mixed) == Streak(day(8), day(8), day(38), mixed[-1].event_id)
    assert streak(Policy(), [*mixed[:4], bounced(8, "bad_domain")]) is None
    both = [*mixed, bounced(5, "bad_domain"), bounced(9, "bad_domain")]
    assert streak(Policy(), both) == Streak(day(8), day(9), None, mixed[-1].event_id)


@given(
    st.lists(
        st.tuples(st.integers(0, 150), st.sampled_from(["mailbox_full", "bad_domain", "soft", "policy"])),
        max_size=20,
        unique_by=lambda one: one[0],
    ),
    st.randoms(use_true_random=False),
)
def test_order_makes_no_difference(rows: list[tuple[int, str]], chance: random.Random) -> None:
    """the same bounces in any order mean the same, and what they mean lies within them"""
    ones = [bounced(at, rule) for at, rule in rows]
    found = streak(Policy(), ones)
    chance.shuffle(ones)
    assert streak(Policy(), iter(ones)) == found
    if found is not None:
        assert found.since <= found.last_at <= max(one.at for one in ones)
        assert found.expires_at is None or found.expires_at > found.since
