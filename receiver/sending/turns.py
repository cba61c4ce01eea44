"""The limits of an account for an hour and a day: a message takes its turn out of both, for all processes together."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil

from receiver.sending.accounts import Account
from receiver.store import outbox
from receiver.store.sql import Sql


@dataclass(frozen=True, slots=True)
class Full:
    """There is no turn before `until`: the account's limit for one `per` is reached."""

    per: str
    until: datetime


async def take_turn(sql: Sql, account: Account, stream: str) -> list[str] | Full:
    """The windows that the turn was taken out of."""
    taken = list[str]()
    for per, span, most in (
        ("day", timedelta(days=1), account.settings.per_day),
        ("hour", timedelta(hours=1), account.settings.per_hour),
    ):
        if most is not None:
            until = await outbox.take_from_window(sql, account.name, per, span, _share(most, account, stream))
            if until is not None:
                await outbox.give_back(sql, account.name, taken)
                return Full(per, until)
            taken.append(per)
    return taken


def _share(most: int, account: Account, stream: str) -> int:
    """How much of a window a stream may use up: of marketing, a newsletter leaves a tenth for passwords."""
    alone = "transactional" not in account.settings.streams
    return most if stream == "transactional" or alone else max(most - ceil(most / 10), 1)
