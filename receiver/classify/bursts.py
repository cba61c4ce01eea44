"""Clicks of scanners: what shows only once all clicks of a message are there. The second stage of the detector.

A security gateway follows the links of a mail to see where they lead: many at once, soon after delivery, the link for
unsubscribing among them, often from one address for many recipients. A person follows one, and then another. So a click
is judged after a while, together with its neighbours, and each on its own: a later click outside of the burst is a
person's. Nothing here rests on lists of addresses.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from receiver.event import Actor

BURSTS_VERSION: Final = 1
SETTLE: Final = timedelta(seconds=120)  # after a click all of its burst is there
THRESHOLD: Final = 60  # of 100

AT_ONCE: Final = timedelta(seconds=2)
BRIEFLY: Final = timedelta(seconds=10)
FEWEST: Final = 3  # links that make a burst
NEARLY_ALL: Final = 0.8
CROWD: Final = 20  # recipients of one campaign, within a minute, by one address

_LEAVING: Final = re.compile(r"unsub|opt-?out|abmeld|desinscri|preferences|/u/|honeypot", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Click:
    """One click within a message. `actor`: what the first stage said; `crowd`: recipients whose clicks came from the
    same address within half a minute before or after.
    """

    id: UUID
    at: datetime
    url: str | None
    actor: Actor
    crowd: int = 1


@dataclass(frozen=True, slots=True)
class Judged:
    """Who clicked, how sure (0 to 100 for a machine), and why."""

    actor: Actor
    score: int
    reasons: tuple[str, ...]


def judge_clicks(clicks: Sequence[Click], *, delivered_at: datetime | None = None) -> dict[UUID, Judged]:
    """Each click of one message by one recipient, in whatever order they come.

    What a provider or the user agent has said before outweighs what is seen here.
    """
    links = {one.url for one in clicks if one.url}
    in_order = sorted(clicks, key=lambda one: one.at)
    return {one.id: _judged(one, in_order, len(links), delivered_at) for one in clicks}


def _judged(click: Click, clicks: Sequence[Click], links: int, delivered_at: datetime | None) -> Judged:
    if click.actor is Actor.MACHINE:
        return Judged(Actor.MACHINE, 100, ("said before",))
    found = list(_signs(click, clicks, links, delivered_at))
    score = min(sum(points for points, _ in found), 100)
    reasons = tuple(reason for _, reason in found)
    actor = Actor.MACHINE if score >= THRESHOLD else Actor.HUMAN
    return Judged(actor, score, reasons)


def _signs(
    click: Click, clicks: Sequence[Click], links: int, delivered_at: datetime | None
) -> Iterable[tuple[int, str]]:
    at_once = _most(click, clicks, AT_ONCE)
    briefly = _most(click, clicks, BRIEFLY)
    if len(at_once) >= FEWEST:
        yield 60, "several links at once"
    if len(briefly) >= FEWEST and len(briefly) >= NEARLY_ALL * links:
        yield 50, "nearly every link within seconds"
    if len(briefly) > 1 and any(_LEAVING.search(url) for url in briefly):
        yield 30, "the link for leaving among them"
    if delivered_at is not None and click.at <= delivered_at + AT_ONCE:
        yield 60, "before anybody could read it"
    elif delivered_at is not None and len(briefly) > 1 and click.at <= delivered_at + timedelta(seconds=30):
        yield 20, "several links right after delivery"
    if click.crowd >= CROWD:
        yield 60, "the same address for many recipients"


def _most(click: Click, clicks: Sequence[Click], span: timedelta) -> set[str]:
    """The most links of any stretch of that length that the click lies in. `clicks`: in order of time."""
    near = [(one.at, one.url) for one in clicks if one.url and abs(one.at - click.at) <= span]
    best: set[str] = set()
    within: Counter[str] = Counter()
    end = 0
    for start, url in near:
        if start > click.at:
            break
        while end < len(near) and near[end][0] <= start + span:
            within[near[end][1]] += 1
            end += 1
        if len(within) > len(best):
            best = set(within)
        within[url] -= 1
        if not within[url]:
            del within[url]
    return best
