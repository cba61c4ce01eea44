"""What the guard is told, of a send and of the service that sends it."""

from __future__ import annotations

from typing import Any, Final

import asyncpg

from receiver.sending.guard import Facts
from receiver.sending.outcomes import deadline_of
from receiver.sending_settings import SendingSettings
from receiver.store.sql import Sql
from receiver.store.standing import standings

SUPPRESSION: Final = "suppression"  # the handler that marketing mail waits for
LATE: Final = 60.0  # seconds that it may lag behind


def facts_of(row: asyncpg.Record, found: Any, suppression: str | None, rules: SendingSettings) -> Facts:
    """`found`: a row of `outbox.facts`; `suppression`: of `behind`."""
    return Facts(
        marketing=row["stream"] == "marketing",
        now=found["now"],
        depth=row["depth"],
        paused=found["paused"],
        paused_until=found["paused_until"],
        sendable=found["sendable"] is not False,
        why_not=found["why_not"],
        done=found["done"],
        recent=tuple(found["recent"]),
        time_zone=found["time_zone"],
        expires_at=deadline_of(row, rules),
        suppression=suppression,
    )


async def behind(sql: Sql) -> str | None:
    """What keeps the suppression handler from its work; None: nothing, or there is none."""
    for one in await standings(sql):
        if one.handler == SUPPRESSION:
            if one.state in ("paused", "broken"):
                return f"the handler {SUPPRESSION} is {one.state}"
            if one.dead_letters:
                return f"the handler {SUPPRESSION} has dead letters"
            if one.lag_seconds > LATE:
                return f"the handler {SUPPRESSION} lags behind"
    return None
