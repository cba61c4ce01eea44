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
# Dead letters are none: each has a copy of its event.
_AHEAD: Final = f"""
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
"""
_UNREAD: Final = f"""
SELECT c.handler AS who, min(unread.received_at) AS since FROM cursors c {_AHEAD}
WHERE c.until_gen IS NULL GROUP BY c.handler
"""
_IN_LANES: Final = f"""
SELECT l.handler AS who, min(unread.received_at) AS since, l.kind, max(c.updated_at) AS moved
FROM lanes l JOIN cursors c ON c.handler = l.handler || '/lane' {_AHEAD}
GROUP BY l.handler
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
    "is being given it by a rewind or backfill (receiver handlers)": _IN_LANES,
    "is to be given events of it again (retries)": _WAITING,
    "is being given a replay (receiver replay)": _REPLAYED,
}
WAITS: Final = "retention_clock"  # key of the warning that retention waits, because of the server's clock

# What was asked for within a day is no lag, however old its events are. Of replays that are being put another warning
# tells.
_LEFT_WAITING: Final = """
SELECT handler AS who, min(event_received_at) AS since, replay_id FROM retries
WHERE event_received_at >= $1 AND event_received_at < $2 AND created_at < $2 - interval '1 day'
  AND NOT EXISTS (SELECT FROM dead_letters WHERE dead_letters.id = retries.dead_letter_id)
  AND NOT EXISTS (SELECT FROM replays WHERE replays.id = retries.replay_id AND replays.state = 'running')
GROUP BY handler, replay_id
"""
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


@dataclass(frozen=True, slots=True)
class _Lag:
    """`subject`: of the key, the same for what is one problem. `what`: words before "an event received long ago"."""

    subject: str
    since: datetime
    what: str
    advice: str


async def _late(connection: asyncpg.Connection, rules: RetentionSettings) -> list[Warned]:
    """Whoever has let an event wait for half of the time that it, or its raw, is kept."""
    keep = min((one for one in (rules.events, rules.raw) if one is not None), default=None)
    if keep is None:
        return []
    now = await connection.fetchval("SELECT clock_timestamp()")
    oldest: dict[str, _Lag] = {}
    for lag in await _lags(connection, now):
        if lag.subject not in oldest or lag.since < oldest[lag.subject].since:
            oldest[lag.subject] = lag
    return [_warned(one, now - one.since, keep) for _, one in sorted(oldest.items()) if now - one.since >= keep / 2]


async def _lags(connection: asyncpg.Connection, now: datetime) -> list[_Lag]:
    low = min((one.span.low for one in await list_partitions(connection)), default=now)

    async def fetch(statement: str) -> list[asyncpg.Record]:
        return await connection.fetch(statement.format(events="events"), low, now)

    return [
        *[_of_handler(row["who"], row["since"]) for row in await fetch(_UNREAD)],
        *[_of_retries(row["who"], row["since"], row["replay_id"]) for row in await fetch(_LEFT_WAITING)],
        *[_of_lane(row) for row in await fetch(_IN_LANES) if row["moved"] < now - timedelta(days=1)],
    ]


def _of_handler(name: str, since: datetime) -> _Lag:
    advice = (
        f"`receiver handlers` says why: repair {name}; `receiver handlers resume {name}` where it is paused; "
        f"`receiver handlers remove {name}` where it is out of the code for good"
    )
    return _Lag(name, since, f"{name} still needs", advice)


def _of_retries(name: str, since: datetime, replay: int | None) -> _Lag:
    if replay is None:
        return _of_handler(name, since)
    advice = f"`receiver handlers` says what {name} waits for; `receiver replay cancel {replay}` ends it"
    return _Lag(f"{name}:replay:{replay}", since, f"replay {replay} has not yet given {name}", advice)


def _of_lane(row: asyncpg.Record) -> _Lag:
    name, kind = row["who"], row["kind"]
    what = f"the {kind} of {name} has stood still since {row['moved']:%Y-%m-%d %H:%M} UTC, and has yet to give it"
    advice = (
        f"`receiver handlers` says why: repair {name}; `receiver handlers resume {name}` where it is paused; "
        f"`receiver handlers cancel {name}` ends the {kind}"
    )
    return _Lag(f"{name}:{kind}", row["since"], what, advice)


def _warned(lag: _Lag, age: timedelta, keep: timedelta) -> Warned:
    share = age / keep
    text = (
        f"{lag.what} an event received {age.days} days ago; events, or their raw, are kept {keep.days} days. "
        + ("Retention waits for it, and the disk fills. " if share >= 1 else "Retention will wait for it. ")
        + lag.advice
    )
    return Warned(f"retention_lag:{lag.subject}", text, "critical" if share >= 0.8 else "warning")


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
