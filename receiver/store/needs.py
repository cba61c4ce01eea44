"""Who still needs events of a partition: what retention must not drop, and whom to tell before it would have to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from receiver.retention_settings import RetentionSettings
from receiver.store.log import SLACK
from receiver.store.partitions import Partition, list_partitions
from receiver.store.server_clock import why_wait

# Each statement has the columns (who, since): since when the oldest event was received that somebody still needs.
# `{events}` is `events` or one partition; $1 and $2 bound received_at. Another reason to keep events is one more entry.
# Dead letters are none: each has a copy of its event. Lanes have cursors of their own.
_UNREAD: Final = f"""
SELECT c.handler AS who, min(unread.received_at) AS since FROM cursors c
CROSS JOIN LATERAL (
    (SELECT received_at FROM {{events}} AS e
     WHERE e.shard = c.shard AND (e.gen, e.txid, e.position) > (c.gen, c.txid, c.position)
       AND (c.until_gen IS NULL
            OR (e.gen, e.txid, e.position) <= (c.until_gen, c.until_txid, c.until_position))
       AND e.received_at >= greatest(c.read_from - interval '{SLACK.total_seconds():.0f} s', $1) AND e.received_at < $2
     ORDER BY e.gen, e.txid, e.position LIMIT 1)
    UNION ALL
    (SELECT received_at FROM {{events}} AS e
     WHERE c.pending <> '{{{{}}}}' AND e.shard = c.shard AND e.gen = c.gen AND e.txid = ANY (c.pending)
       AND e.received_at >= $1 AND e.received_at < $2 LIMIT 1)
) AS unread
GROUP BY c.handler
"""
_WAITING: Final = """
SELECT handler AS who, min(event_received_at) AS since FROM retries
WHERE event_received_at >= $1 AND event_received_at < $2
  AND NOT EXISTS (SELECT FROM dead_letters WHERE dead_letters.id = retries.dead_letter_id)
GROUP BY handler
"""
_REPLAYED: Final = """
SELECT handler AS who, min(greatest($1::timestamptz, (selection->>'since')::timestamptz)) AS since FROM replays
WHERE state = 'running' AND least(started_at, (selection->>'until')::timestamptz) > $1
  AND coalesce((selection->>'since')::timestamptz, '-infinity') < $2::timestamptz
GROUP BY handler
"""
NEEDS: Final = {
    "has not read all of it": _UNREAD,
    "is to be given events of it again (retries)": _WAITING,
    "is being given a replay (receiver replay)": _REPLAYED,
}
WAITS: Final = "retention_clock"  # key of the warning that retention waits, because of the server's clock
LAGS: Final = (_UNREAD, _WAITING)  # that people are warned about, by their age

_UNFINISHED: Final = """
SELECT id, handler, started_at FROM replays
WHERE state = 'running' AND started_at < clock_timestamp() - interval '1 day' ORDER BY id
"""


@dataclass(frozen=True, slots=True)
class Need:
    """`who`: a handler. `why`: the rest of the sentence. `since`: when the oldest event it needs was received."""

    who: str
    why: str
    since: datetime

    def __str__(self) -> str:
        return f"{self.who} {self.why}"


async def needs(connection: asyncpg.Connection, partition: Partition) -> list[Need]:
    """What keeps the partition from being dropped, or rewritten without raw."""
    span = partition.span
    return [
        Need(row["who"], why, row["since"])
        for why, statement in NEEDS.items()
        for row in await connection.fetch(statement.format(events=partition.name), span.low, span.high)
    ]


@dataclass(frozen=True, slots=True)
class Warned:
    """Something that someone must do something about. `key` stays the same while it lasts."""

    key: str
    text: str
    severity: str  # warning or critical


async def warnings(connection: asyncpg.Connection, rules: RetentionSettings) -> list[Warned]:
    """What holds retention back, or will; replays that nobody finishes; partitions that are missing."""
    why = await why_wait(connection)
    waits = [] if why is None else [Warned(WAITS, why, "warning")]
    return [*waits, *await _late(connection, rules), *await _unfinished(connection), *await _missing(connection)]


async def _late(connection: asyncpg.Connection, rules: RetentionSettings) -> list[Warned]:
    """Handlers whose oldest unread event has used up half of the time that it, or its raw, is kept."""
    keep = min((one for one in (rules.events, rules.raw) if one is not None), default=None)
    if keep is None:
        return []
    now, partitions = await connection.fetchval("SELECT clock_timestamp()"), await list_partitions(connection)
    oldest: dict[str, datetime] = {}
    if partitions:
        for statement in LAGS:
            for row in await connection.fetch(statement.format(events="events"), partitions[0].span.low, now):
                oldest[row["who"]] = min(row["since"], oldest.get(row["who"], row["since"]))
    return [_warned(who, now - since, keep) for who, since in sorted(oldest.items()) if now - since >= keep / 2]


def _warned(who: str, age: timedelta, keep: timedelta) -> Warned:
    share = age / keep
    text = (
        f"{who} still needs an event received {age.days} days ago; events, or their raw, are kept {keep.days} days. "
        + ("Retention waits for it, and the disk fills." if share >= 1 else "Retention will wait for it.")
        + " See `receiver handlers`: resume, repair or remove it"
    )
    return Warned(f"retention_lag:{who}", text, "critical" if share >= 0.8 else "warning")


async def _unfinished(connection: asyncpg.Connection) -> list[Warned]:
    """Replays that were stopped and forgotten, or are slow: what they select cannot go."""
    return [
        Warned(
            f"replay:{id_}",
            f"replay {id_} to {handler} was begun {started_at:%Y-%m-%d %H:%M} UTC and is not finished: go on with "
            f"`receiver replay resume {id_}`, or end it with `receiver replay cancel {id_}`. "
            "Until then no event that it selects is removed",
            "warning",
        )
        for id_, handler, started_at in await connection.fetch(_UNFINISHED)
    ]


async def _missing(connection: asyncpg.Connection) -> list[Warned]:
    now = await connection.fetchval("SELECT clock_timestamp()")
    spans = [one.span for one in await list_partitions(connection) if not one.detaching]
    if not any(span.low <= now < span.high for span in spans):
        return [Warned("partition_now", "no partition of events takes what comes in now: see the log", "critical")]
    end = max(span.high for span in spans)
    if end < now + timedelta(days=3):
        text = f"partitions of events end at {end:%Y-%m-%d %H:%M} UTC and no later one can be made: see the log"
        return [Warned("partition_ahead", text, "warning")]
    return []
