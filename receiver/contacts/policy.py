"""What bounces mean for an address: at once, only when they repeat, or nothing. Data and pure functions; no clock.

A 5yz reply is no dead address: most of them concern the sender, the message or the day. So the class decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from operator import attrgetter
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, TypeAlias
from uuid import UUID

from receiver.event import BounceCategory

AT_ONCE: Final = "at_once"
NEVER: Final = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """Suppress after so many `messages` in a row, the last at least `over` later than the first.

    In a row: without a delivery, an open or a click by a person between them. Classes that have equal rules are counted
    together.
    `expires`: how long the suppression lasts, the first time, the second, ...; when they are used up, for good.
    `unless_provider_agrees`: a bounce that the provider itself calls hard acts at once.
    """

    messages: int = 5
    over: timedelta = timedelta(days=7)
    expires: tuple[timedelta, ...] = (timedelta(days=30), timedelta(days=90))
    unless_provider_agrees: bool = False


Action: TypeAlias = Literal["at_once", "never"] | Repeated

_SOFT: Final = Repeated()

# By bounce class. Where no class is known, by category: `hard` and `soft` are then the provider's own word.
DEFAULT: Final[Mapping[str, Action]] = MappingProxyType(
    {
        "hard": AT_ONCE,
        "invalid_recipient": AT_ONCE,
        "bad_domain": Repeated(messages=2, over=timedelta(days=1), expires=(), unless_provider_agrees=True),
        "soft": _SOFT,
        "inactive_mailbox": _SOFT,
        "mailbox_full": _SOFT,
        "expired": _SOFT,
        "transient": _SOFT,
    }
)


class Bounced(NamedTuple):
    """A bounce that counts, as kept in `bounces`: one for each message."""

    at: datetime
    message: str
    rule: str
    stream: str
    event_id: UUID


class Streak(NamedTuple):
    """A suppression by repeated bounces. `since`, `event_id`: the one that began it. `expires_at`: None: for good."""

    since: datetime
    last_at: datetime
    expires_at: datetime | None
    event_id: UUID


@dataclass(frozen=True, slots=True)
class Policy:
    """`actions`: by bounce class, or category where there is no class. `streams`: what is otherwise in a kind of mail.

    What neither names does nothing.
    """

    actions: Mapping[str, Action] = field(default_factory=lambda: DEFAULT)
    streams: Mapping[str, Mapping[str, Action]] = field(default_factory=dict)

    def action(
        self, bounce_class: str | None, category: str | None, *, verdict: str | None = None, stream: str | None = None
    ) -> Action:
        """What a bounce of this class and category means. `verdict`: `events.provider_verdict`."""
        found = self.rule(rule_of(bounce_class, category), stream or "")
        if isinstance(found, Repeated) and found.unless_provider_agrees and verdict == BounceCategory.HARD:
            return AT_ONCE
        return found

    def rule(self, name: str, stream: str) -> Action:
        """What is set for a class or category."""
        return self.streams.get(stream, {}).get(name) or self.actions.get(name, NEVER)


def rule_of(bounce_class: str | None, category: str | None) -> str:
    """What the policy goes by: the class, or the category where nothing but the provider's word is known."""
    if bounce_class is None or bounce_class == "undetermined":
        return category or "undetermined"
    return bounce_class


def streak(policy: Policy, bounces: Iterable[Bounced]) -> Streak | None:
    """What bounces since the last sign of life mean; None: nothing. A function of the set: their order does not matter.

    Expects each message once. The streak goes on over an expired suppression: the next bounce suppresses again at once,
    for longer.
    """
    groups: dict[Repeated, list[Bounced]] = {}
    for one in bounces:
        rule = policy.rule(one.rule, one.stream)
        if isinstance(rule, Repeated):
            groups.setdefault(rule, []).append(one)
    found = [run for rule, ones in groups.items() if (run := _follow(rule, sorted(ones))) is not None]
    return _together(found) if found else None


def _follow(rule: Repeated, bounces: Sequence[Bounced]) -> Streak | None:
    """The suppression after the last of `bounces`, which are sorted and of one rule."""
    current: Streak | None = None
    times = 0
    for number, one in enumerate(bounces, 1):
        if number < rule.messages or one.at - bounces[0].at < rule.over:
            continue
        if current is None or (current.expires_at is not None and one.at >= current.expires_at):
            expires_at = one.at + rule.expires[times] if times < len(rule.expires) else None
            times += 1
            current = Streak(one.at, one.at, expires_at, one.event_id)
        else:
            current = current._replace(last_at=one.at)
    return current


def _together(streaks: Sequence[Streak]) -> Streak:
    """One suppression by several rules: since the earliest, until the latest."""
    first = min(streaks, key=attrgetter("since", "event_id"))
    ends = [one.expires_at for one in streaks]
    return first._replace(
        last_at=max(one.last_at for one in streaks),
        expires_at=None if None in ends else max(end for end in ends if end is not None),
    )
