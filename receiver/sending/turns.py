"""The limits of an account for an hour and a day: a message takes its turn out of both, for all processes together."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from math import ceil
from typing import Final

from receiver.sending.accounts import Account
from receiver.store import outbox
from receiver.store.sql import Sql

HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Full:
    """There is no turn for `wait` seconds: the account's limit for one `per` is reached."""

    per: str
    wait: float


async def take_turn(sql: Sql, account: Account, stream: str) -> list[str] | Full:
    """The windows that the turn was taken out of."""
    taken = list[str]()
    for per, span, most in _windows(account, stream):
        wait = await outbox.take_from_window(sql, account.name, per, span, most)
        if wait is not None:
            await outbox.give_back(sql, account.name, taken)
            return Full(per, wait)
        taken.append(per)
    return taken


async def turns_free(sql: Sql, account: Account, stream: str, *, default: bool) -> int | None:
    """How many messages of the stream may join those that wait in the outbox; None: the account has no limits.

    As many as have their turn now (of a pace: within an hour), and no more than go in a day together with those that
    are held until the morning: what waited for our own limits would be too late one day.
    """
    windows = _windows(account, stream)
    now = [most - await outbox.used(sql, account.name, per, span) for per, span, most in windows]
    day = [most * (DAY // span) for _, span, most in windows]
    if (rate := account.settings.per_second) is not None:
        now.append(ceil(rate * HOUR.total_seconds()))
        day.append(ceil(rate * DAY.total_seconds()))
    if not now:
        return None
    waiting = partial(outbox.waiting, sql, account.name, stream, default=default)
    return min(
        min(now) - await waiting(within=timedelta(0), most=min(now)),
        min(day) - await waiting(within=DAY, most=min(day)),
    )


def _windows(account: Account, stream: str) -> list[tuple[str, timedelta, int]]:
    """Those that it has: (its name, how long it is, how many of the stream may go in it)."""
    limits = (
        ("day", DAY, account.settings.per_day),
        ("hour", HOUR, account.settings.per_hour),
    )
    return [(per, span, _share(most, account, stream)) for per, span, most in limits if most is not None]


def _share(most: int, account: Account, stream: str) -> int:
    """How much of a window a stream may use up: of marketing, a newsletter leaves a tenth for passwords."""
    alone = "transactional" not in account.settings.streams
    return most if stream == "transactional" or alone else max(most - ceil(most / 10), 1)
