"""Bounces that say more about somebody else than about the address: a provider's bad day, a bad list, a bad name.

A mailbox provider that suddenly says of living mailboxes that they do not exist (Gmail did in December 2020) has a bad
day: what is suppressed by it alone is provisional. The same jump among addresses that mail never reached is a bad list,
whichever providers it is spread over: that is the sender's problem, and those suppressions are right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from math import sqrt
from typing import Final

import asyncpg
import structlog

from receiver.alert_settings import AlertSettings
from receiver.store import bounce_hours, incidents
from receiver.store.bounce_hours import HOUR, KEPT, Blocked, Hour, hour_of
from receiver.store.incidents import Incident
from receiver.watching.troubles import Trouble

log = structlog.get_logger("bounces")

KINDS: Final = ("bad_day", "bad_list", "blocked")
RECENT: Final = timedelta(hours=6)  # in which a jump is looked for, and refusals are counted
LEAST_HARD: Final = 20  # hard bounces; fewer are noise whatever their share
LEAST_MAIL: Final = 50  # messages of a day that count for what is usual, and that prove a calm
LEAST_DAYS: Final = 3
STILL_HARD: Final = 5  # hard bounces of an hour that keep an incident going
CALM: Final = timedelta(hours=2)  # with mail, until it is over
SILENT: Final = timedelta(hours=24)  # without
WAVES: Final = timedelta(hours=24)  # between two of one bad day
KNOWN: Final = 0.25  # share of the bounced addresses that mail has reached lately, on a bad day
LATELY: Final = timedelta(days=180)


@dataclass(frozen=True, slots=True)
class Jump:
    """Far more hard bounces than usual, in the hours from `began_at` on."""

    mailbox_provider: str
    began_at: datetime
    attempted: int
    hard: int
    usual: float


async def watch(
    connection: asyncpg.Connection, settings: AlertSettings, now: datetime, *, release_after: timedelta
) -> list[Trouble]:
    """One look, in the connection's transaction: opens, extends and closes incidents; returns what is wrong."""
    await bounce_hours.count_lately(connection, now)
    open_ = {one.mailbox_provider: one for one in await incidents.going_on(connection)}
    bad_lists = list[Jump]()
    for jump in await _jumps(connection, now):
        if jump.mailbox_provider in open_:
            continue
        since = now - LATELY
        until = hour_of(now) + HOUR
        known = await incidents.known_share(
            connection, jump.mailbox_provider, jump.began_at, until, delivered_since=since
        )
        if known < KNOWN:
            bad_lists.append(jump)
        elif (one := await _begin(connection, jump, now)) is not None:
            open_[one.mailbox_provider] = one
    going_on = await _follow(connection, list(open_.values()), now, release_after)
    refused = await bounce_hours.blocked(
        connection, hour_of(now) - RECENT + HOUR, least_mail=settings.block_volume, rate=settings.block_rate
    )
    return [*_bad_days(going_on), *_bad_list(bad_lists), *_blocked(refused)]


async def _jumps(connection: asyncpg.Connection, now: datetime) -> list[Jump]:
    this = hour_of(now)
    usual = await bounce_hours.usual_rates(
        connection, this - KEPT, this - RECENT, least_mail=LEAST_MAIL, least_days=LEAST_DAYS
    )
    hours = await bounce_hours.by_provider(connection, this + HOUR - RECENT, this + HOUR)
    over = await incidents.ended(connection, this - RECENT)
    found = list[Jump | None]()
    for name, rate in sorted(usual.items()):
        since = over.get(name, this - RECENT)  # what belonged to an incident is no new one
        found.append(jump_in(name, [one for one in hours.get(name, []) if one.hour >= since], rate))
    return [jump for jump in found if jump is not None]


def jump_in(mailbox_provider: str, hours: Sequence[Hour], usual: float) -> Jump | None:
    """Far more hard bounces than usual in the last one, two, ... of these hours, or None. The oldest hour comes first.

    However chance may have helped, the share must lie above the threshold. The jump began with the first of the hours
    in a row that lie there.
    """
    for first in reversed(range(len(hours))):
        attempted, hard = _total(hours[first:])
        if hard < LEAST_HARD or least_share(hard, attempted) < threshold(usual):
            continue
        began = first - len([*takewhile(lambda one: _is_bad(one, usual), reversed(hours[:first]))])
        return Jump(mailbox_provider, hours[began].hour, *_total(hours[began:]), usual)
    return None


def _total(hours: Sequence[Hour]) -> tuple[int, int]:
    return sum(one.attempted for one in hours), sum(one.hard for one in hours)


def _is_bad(hour: Hour, usual: float) -> bool:
    return hour.hard >= STILL_HARD and hour.hard >= threshold(usual) * hour.attempted


def threshold(usual: float) -> float:
    """The share of hard bounces from which on it is no longer the usual one."""
    return usual + min(max(4 * usual, 0.05), (1 - usual) / 2)


def least_share(count: int, of: int) -> float:
    """The lower end of Wilson's interval (95 %) for a share."""
    if not of:
        return 0.0
    z, share = 1.96, count / of
    middle = share + z * z / (2 * of)
    spread = z * sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return max((middle - spread) / (1 + z * z / of), 0.0)


async def _begin(connection: asyncpg.Connection, jump: Jump, now: datetime) -> Incident | None:
    """With the hour before: the first wrong answers are too few in theirs to be seen."""
    began_at = jump.began_at - HOUR
    one = await incidents.open_incident(
        connection, jump.mailbox_provider, began_at, jump.usual, again_since=now - WAVES
    )
    if one is not None:
        text = "a mailbox provider has a bad day"
        log.warning(text, action="bad_day_began", mailbox_provider=jump.mailbox_provider, id=one.id)
    return one


async def _follow(
    connection: asyncpg.Connection, going_on: Sequence[Incident], now: datetime, release_after: timedelta
) -> list[tuple[Incident, Hour]]:
    """Count anew what each concerns, and close those that are over; returns the others with what was counted."""
    left = list[tuple[Incident, Hour]]()
    for one in going_on:
        hours = await bounce_hours.by_provider(connection, hour_of(one.began_at), hour_of(now) + HOUR)
        mine = hours.get(one.mailbox_provider, [])
        total = Hour(one.began_at, *_total(mine))
        await incidents.count(connection, one.id, total.attempted, total.hard)
        ended_at = end_of(one, mine, now)
        if ended_at is None:
            left.append((one, total))
        else:
            await incidents.close(connection, one.id, ended_at, release_after)
            log.info("a bad day is over", action="bad_day_ended", mailbox_provider=one.mailbox_provider, id=one.id)
    return left


def end_of(incident: Incident, hours: Sequence[Hour], now: datetime) -> datetime | None:
    """When it was over (with an hour more for the last wrong answers); None: it goes on, or who knows."""
    bad = [one for one in hours if _is_bad(one, incident.baseline)]
    calm_since = (bad[-1].hour if bad else incident.began_at) + HOUR
    mail = sum(one.attempted for one in hours if one.hour >= calm_since)
    enough = CALM if mail >= LEAST_MAIL else SILENT
    return min(calm_since + HOUR, now) if now >= calm_since + enough else None


def _bad_days(going_on: Sequence[tuple[Incident, Hour]]) -> Iterator[Trouble]:
    for one, total in going_on:
        if one.decision is None:
            yield Trouble(
                kind="bad_day",
                subject=one.mailbox_provider,
                severity="critical",
                text=f"{one.mailbox_provider} says of {total.hard} of {total.attempted} messages that there is no such "
                f"mailbox ({_percent(total.hard, total.attempted)}; {one.baseline:.1%} is usual), and mail has reached "
                "these before. Suppressions for it are provisional: receiver suppressions incidents",
                since=one.began_at,
            )


def _bad_list(jumps: Sequence[Jump]) -> Iterator[Trouble]:
    if jumps:
        attempted, hard = sum(one.attempted for one in jumps), sum(one.hard for one in jumps)
        yield Trouble(
            kind="bad_list",
            text=f"{hard} of {attempted} messages to {', '.join(one.mailbox_provider for one in jumps)} bounced hard, "
            "far more than usual, nearly all at addresses that no mail has reached lately: a bad list? Mailbox "
            "providers hold it against the sender",
            since=min(one.began_at for one in jumps),
        )


def _blocked(refused: Sequence[Blocked]) -> Iterator[Trouble]:
    for one in refused:
        whose = one.sender_domain or "senders not known"
        yield Trouble(
            kind="blocked",
            subject=f"{one.sender_domain}:{one.mailbox_provider}",
            text=f"{one.mailbox_provider or 'mailbox providers without a name here'} refused {one.block} of "
            f"{one.attempted} messages ({_percent(one.block, one.attempted)}) from {whose} in {RECENT // HOUR} hours, "
            "because of the sender or the content: receiver policy rates",
        )


def _percent(count: int, of: int) -> str:
    return f"{count / of:.1%}" if of else "-"
