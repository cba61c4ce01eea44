"""What another bounce policy would change: stored bounces judged by it, beside the suppressions in force."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, NamedTuple, TypeAlias
from uuid import UUID

import asyncpg

from receiver.contacts.policy import AT_ONCE, Bounced, Policy, Repeated, Streak, rule_of, streak
from receiver.store import policy_preview as store
from receiver.vault import Vault

BATCH: Final = 500  # people
SAMPLE: Final = 5

Kind: TypeAlias = Literal["suppressed", "released", "changed"]
Reason: TypeAlias = Literal["hard_bounce", "soft_bounce"]


class Change(NamedTuple):
    """What the policy would do that is not so. `rule`: the class of the bounce that is the reason.

    changed: suppressed before and after, for the other reason (`reason` is the new one).
    """

    kind: Kind
    reason: Reason
    rule: str


@dataclass(slots=True)
class Preview:
    """`people`: addresses with a bounce. `sample`: some addresses of each change."""

    people: int = 0
    changes: Counter[Change] = field(default_factory=Counter)
    sample: dict[Change, list[str]] = field(default_factory=dict)

    def add(self, address: str, change: Change | None) -> None:
        """Count one person."""
        self.people += 1
        if change is not None:
            self.changes[change] += 1
            some = self.sample.setdefault(change, [])
            if len(some) < SAMPLE:
                some.append(address)


class Seen(NamedTuple):
    """A bounce, or mail held back because of one. `action`: what the policy makes of it."""

    bounced: Bounced
    action: str | Repeated
    echo: bool


class Held(NamedTuple):
    """A suppression by bounces. `holds`: it counts now."""

    since: datetime
    event_id: UUID | None
    lifted_at: datetime | None
    holds: bool


@dataclass(slots=True)
class Person:
    """One address: its bounces, its last sign of life, and its suppressions by reason."""

    address: str
    seen: list[Seen] = field(default_factory=list)
    earlier: list[Bounced] = field(default_factory=list)
    life: datetime | None = None
    held: dict[str, Held] = field(default_factory=dict)


async def preview(
    connection: asyncpg.Connection, vault: Vault, policy: Policy, since: datetime, progress: Callable[[int], None]
) -> Preview:
    """Judge all bounces since then, in the connection's transaction. `progress` is told how many were read."""
    now = await connection.fetchval("SELECT now()")
    found = Preview()
    async for people in _batches(connection, policy, since, progress):
        await _complete(connection, vault, people, since)
        for one in people:
            found.add(one.address, judge(one, policy, now))
    return found


async def _batches(
    connection: asyncpg.Connection, policy: Policy, since: datetime, progress: Callable[[int], None]
) -> AsyncIterator[list[Person]]:
    people, read = list[Person](), 0
    async for row in store.bounces(connection, since):
        read += 1
        if not people or people[-1].address != row["recipient"]:
            if len(people) == BATCH:
                progress(read)
                yield people
                people = []
            people.append(Person(row["recipient"]))
        people[-1].seen.append(_seen(row, policy))
    progress(read)
    if people:
        yield people


def _seen(row: asyncpg.Record, policy: Policy) -> Seen:
    rule, stream = rule_of(row["bounce_class"], row["bounce_category"]), row["stream"] or ""
    bounced = Bounced(row["occurred_at"], row["message"], rule, stream, row["id"])
    if row["type"] == "rejected":
        return Seen(bounced, AT_ONCE, echo=True)
    verdict = row["provider_verdict"]
    action = policy.action(row["bounce_class"], row["bounce_category"], verdict=verdict, stream=stream)
    return Seen(bounced, action, row["echo"])


async def _complete(connection: asyncpg.Connection, vault: Vault, people: Sequence[Person], since: datetime) -> None:
    by_hash = {vault.address_hash(one.address): one for one in people}
    for row in await store.held(connection, list(by_hash)):
        held = Held(row["since"], row["event_id"], row["lifted_at"], row["holds"])
        by_hash[row["address_hash"]].held[row["reason"]] = held
    for row in await store.earlier(connection, list(by_hash), since):
        bounced = Bounced(row["at"], row["message"], row["bounce_class"], row["stream"], row["event_id"])
        by_hash[row["address_hash"]].earlier.append(bounced)
    counting = [one.address for one in people if any(isinstance(seen.action, Repeated) for seen in one.seen)]
    lives = await store.lives(connection, counting, since)
    for one in people:
        one.life = lives.get(one.address)


def judge(person: Person, policy: Policy, now: datetime) -> Change | None:
    """What would become otherwise for one person. Suppressions that rest on something older are left alone."""
    hard, soft = _hard(person), _soft(person, policy)
    if soft is not None and soft.expires_at is not None and soft.expires_at <= now:
        soft = None
    rules = {seen.bounced.event_id: seen.bounced.rule for seen in person.seen}
    rules |= {one.event_id: one.rule for one in person.earlier}
    holding: dict[str, Held] = {reason: one for reason, one in person.held.items() if one.holds}
    reason: Reason = "soft_bounce" if hard is None else "hard_bounce"
    if hard is not None or soft is not None:
        because = rules[hard.bounced.event_id if hard is not None else soft.event_id]  # type: ignore[union-attr]  # one is there
        if not holding:
            return Change("suppressed", reason, because)
        return None if reason in holding else Change("changed", reason, because)
    if holding and all(one.event_id in rules for one in holding.values()):
        before: Reason = "hard_bounce" if "hard_bounce" in holding else "soft_bounce"
        return Change("released", before, rules[holding[before].event_id])  # type: ignore[index]  # all are in it
    return None


def _hard(person: Person) -> Seen | None:
    """What suppresses by itself; not what was lifted since."""
    lifted = person.held["hard_bounce"].lifted_at if "hard_bounce" in person.held else None
    return next(
        (
            one
            for one in person.seen
            if one.action == AT_ONCE and (lifted is None or (one.bounced.at > lifted and not one.echo))
        ),
        None,
    )


def _soft(person: Person, policy: Policy) -> Streak | None:
    """What suppresses by repetition since the last sign of life, and the last lift."""
    lifted = person.held["soft_bounce"].lifted_at if "soft_bounce" in person.held else None
    after = max((at for at in (person.life, lifted) if at is not None), default=None)
    latest: dict[str, Bounced] = {one.message: one for one in person.earlier}
    latest |= {
        one.bounced.message: one.bounced for one in person.seen if isinstance(one.action, Repeated) and not one.echo
    }
    return streak(policy, [one for one in latest.values() if after is None or one.at > after])
