"""The guard: whether a message may go to this person now. Asked before each attempt; every answer is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, Literal, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from receiver.sending_settings import SendingSettings

MAX_DEPTH: Final = 3  # sends that sends have led to
LATER: Final = timedelta(minutes=1)  # for what somebody has to set right

Verdict: TypeAlias = Literal["go", "skip", "hold"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the database knows at the moment, of one send and of who gets it.

    `paused_until`: of the account or the kill switch; `paused`: why. `sendable`, `why_not`: of the SQL function.
    `done`: the first of `cancel_on` that the recipient has done since. `depth`: how many sends of rules led to it.
    `recent`: when the marketing messages of the last 7 days went to the person.
    `suppression`: what keeps the suppression handler from its work; None: nothing.
    """

    marketing: bool
    now: datetime
    depth: int = 0
    paused: str | None = None
    paused_until: datetime | None = None
    sendable: bool = True
    why_not: str | None = None
    done: str | None = None
    recent: tuple[datetime, ...] = ()
    time_zone: str | None = None
    expires_at: datetime | None = None
    suppression: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One question and its answer. `until`: when a held message may be asked for again."""

    name: str
    verdict: Verdict
    why: str = ""
    until: datetime | None = None


def check(facts: Facts, rules: SendingSettings) -> list[Check]:
    """The questions in their order, up to the first that keeps the message. Held beyond its time, it is skipped."""
    checks = []
    for one in _questions(facts, rules):
        late = one.until is not None and facts.expires_at is not None and one.until >= facts.expires_at
        checks.append(replace(one, verdict="skip") if late and one.name != "switch" else one)
        if one.verdict != "go":
            break
    return checks


def _questions(facts: Facts, rules: SendingSettings) -> Iterator[Check]:
    yield _switch(facts)
    expired = facts.expires_at is not None and facts.expires_at <= facts.now
    yield Check("deadline", "skip", "too_late") if expired else Check("deadline", "go")
    yield Check("sendable", "go") if facts.sendable else Check("sendable", "skip", facts.why_not or "not_sendable")
    yield Check("relevant", "skip", f"cancelled_by_{facts.done}") if facts.done else Check("relevant", "go")
    yield Check("loop", "skip", "loop") if facts.depth > MAX_DEPTH else Check("loop", "go")
    if facts.marketing:
        yield _suppressing(facts)
        yield _frequency(facts, rules)
        yield _hours(facts, rules)


def _switch(facts: Facts) -> Check:
    if facts.paused is None:
        return Check("switch", "go")
    return Check("switch", "hold", facts.paused, facts.paused_until or facts.now + LATER)


def _suppressing(facts: Facts) -> Check:
    """A complaint that is stored but not handled yet must not be overtaken by the next newsletter."""
    if facts.suppression is None:
        return Check("suppression", "go")
    return Check("suppression", "hold", facts.suppression, facts.now + LATER)


def _frequency(facts: Facts, rules: SendingSettings) -> Check:
    for most, span in ((rules.per_day, timedelta(days=1)), (rules.per_week, timedelta(days=7))):
        within = sorted(at for at in facts.recent if at > facts.now - span)
        if most is not None and len(within) >= most:
            return Check("frequency", "hold", "frequency_cap", within[-most] + span)
    return Check("frequency", "go")


def _hours(facts: Facts, rules: SendingSettings) -> Check:
    if rules.quiet_hours is None:
        return Check("hours", "go")
    until = quiet_until(facts.now, rules.quiet_hours, zone_of(facts.time_zone, rules.time_zone))
    return Check("hours", "go") if until is None else Check("hours", "hold", "quiet_hours", until)


def zone_of(name: str | None, otherwise: str) -> ZoneInfo:
    """The contact's time zone, or the one for those that have none, or one that nobody knows."""
    try:
        return ZoneInfo(name or otherwise)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return ZoneInfo(otherwise)


def quiet_until(now: datetime, hours: tuple[time, time], zone: ZoneInfo) -> datetime | None:
    """When the quiet hours around `now` end (aware, UTC); None: there are none now.

    By the clock on the person's wall: where summer time begins or ends in the night, the night is as long as it is.
    """
    start, end = hours
    today = now.astimezone(zone).date()
    for day in (today - timedelta(days=1), today):
        begins = _instant(day, start, zone)
        ends = _instant(day if end > start else day + timedelta(days=1), end, zone)
        if begins <= now < ends:
            return ends
    return None


def _instant(day: date, at: time, zone: ZoneInfo) -> datetime:
    """When a wall clock first shows it; a time that is skipped is when it is skipped."""
    return datetime.combine(day, at, zone).astimezone(UTC)
