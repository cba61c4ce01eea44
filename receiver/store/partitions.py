"""Partitions of `events` by `received_at`, made ahead of time: one a month, a week or a day.

They are created stand-alone and then attached: creating one in place takes a lock that waits for every open SELECT on
`events`, and ingest would queue behind it. There is no DEFAULT partition: to attach another one beside it, Postgres
reads all that it holds, under a lock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import asyncpg
import structlog

from receiver.store.sql import Sql

log = structlog.get_logger("partitions")

Interval = Literal["month", "week", "day"]

AHEAD: Final[Mapping[Interval, int]] = {"month": 2, "week": 4, "day": 7}  # that exist beyond the current one
_LOCK: Final = 0x0E_7E_47_5D
_NOW: Final = "SELECT clock_timestamp()"

# Text and its cast use the session's own date style. MINVALUE and MAXVALUE stand in partitions made by hand.
_PARTITIONS: Final = r"""
SELECT inhrelid::regclass::text AS name, inhdetachpending AS detaching,
       CASE bound[1] WHEN 'MINVALUE' THEN '0001-01-01 00:00Z' ELSE bound[1]::timestamptz END AS low,
       CASE bound[2] WHEN 'MAXVALUE' THEN '9999-12-31 00:00Z' ELSE bound[2]::timestamptz END AS high
FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
CROSS JOIN LATERAL pg_get_expr(relpartbound, inhrelid) AS text
CROSS JOIN LATERAL regexp_match(text, 'FROM \(''?([^'')]+)''?\) TO \(''?([^'')]+)') AS bound
WHERE inhparent = 'events'::regclass AND bound IS NOT NULL ORDER BY low
"""


class MissingPartition(asyncpg.PostgresError):
    """No partition takes the row: nothing is wrong with the row, so it must wait until there is one."""


def is_missing_partition(error: asyncpg.CheckViolationError) -> bool:
    """Postgres reports it as a violated CHECK, but only a real one has a name."""
    return not error.constraint_name


@dataclass(frozen=True, slots=True)
class Span:
    """From `low` up to, but not including, `high`."""

    low: datetime
    high: datetime

    def overlaps(self, other: Span) -> bool:
        return self.low < other.high and other.low < self.high


@dataclass(frozen=True, slots=True)
class Partition:
    """`name` as SQL takes it. `detaching`: an interrupted DETACH CONCURRENTLY has hidden it from queries."""

    name: str
    span: Span
    detaching: bool


async def list_partitions(sql: Sql) -> list[Partition]:
    """The partitions of `events`, the oldest first."""
    rows = await sql.fetch(_PARTITIONS)
    return [Partition(row["name"], Span(row["low"], row["high"]), row["detaching"]) for row in rows]


async def ensure_partitions(
    connection: asyncpg.Connection, interval: Interval | None = None, *, ahead: int | None = None
) -> list[str]:
    """Make the partition of now and those of the `ahead` next intervals, by Postgres's clock; returns those made.

    What exists stays as it is: an `interval` that has changed begins where the last partition ends. Without `interval`
    it is that of the last partition. Safe when several processes do it at once. Raises what asyncpg raises when there
    is no partition for now and none can be made; a later one that cannot be made is logged, and tried again next time.
    """
    now = await connection.fetchval(_NOW)
    existing = await list_partitions(connection)
    made = []
    for span in _gaps(now, existing, interval or _interval_of(existing), ahead):
        try:
            name = await _fill(connection, span, now)
        except asyncpg.PostgresError as error:
            if span.low <= now or connection.is_closed():
                raise
            log.warning(
                "a future partition cannot be made", action="partition_failed", since=f"{span.low:%Y-%m-%d}",
                error=type(error).__name__,
            )  # fmt: skip
            break
        if name is not None:
            made.append(name)
    return made


def _gaps(now: datetime, existing: Sequence[Partition], interval: Interval, ahead: int | None) -> Iterator[Span]:
    taken = [partition.span for partition in existing if not partition.detaching]
    start = interval_start(now, interval)
    for _ in range(1 + (AHEAD[interval] if ahead is None else ahead)):
        end = _following(start, interval)
        yield from (gap for gap in _free(Span(start, end), taken) if gap.high > now)
        start = end


def _free(wanted: Span, taken: Sequence[Span]) -> Iterator[Span]:
    low = wanted.low
    for span in taken:
        if span.overlaps(Span(low, wanted.high)):
            if span.low > low:
                yield Span(low, span.low)
            low = span.high
    if low < wanted.high:
        yield Span(low, wanted.high)


def interval_start(moment: datetime, interval: Interval) -> datetime:
    """The first moment of its month, week (Monday) or day, UTC."""
    day = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    match interval:
        case "month":
            return day.replace(day=1)
        case "week":
            return day - timedelta(days=day.weekday())
        case "day":
            return day


def _following(start: datetime, interval: Interval) -> datetime:
    days = {"month": 31, "week": 7, "day": 1}[interval]
    return interval_start(start + timedelta(days=days), interval)


def _interval_of(existing: Sequence[Partition]) -> Interval:
    if not existing:
        return "month"
    length = existing[-1].span.high - existing[-1].span.low
    return "day" if length <= timedelta(days=1) else "week" if length <= timedelta(days=7) else "month"


def _name(span: Span) -> str:
    whole_month = span.low.day == 1 and _following(interval_start(span.low, "month"), "month") == span.high
    whole_days = span.low == interval_start(span.low, "day")
    form = "%Y%m" if whole_month and whole_days else "%Y%m%d" if whole_days else "%Y%m%d_%H%M%S"
    return f"events_{span.low:{form}}"


async def _fill(connection: asyncpg.Connection, span: Span, now: datetime) -> str | None:
    """Make a partition for `span`; None where another process has done so meanwhile."""
    async with connection.transaction():
        await connection.execute("SET LOCAL lock_timeout = '3s'")
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        for partition in await list_partitions(connection):
            if partition.span.overlaps(span):
                if not partition.detaching:
                    return None
                await connection.execute(f"ALTER TABLE events DETACH PARTITION {partition.name} FINALIZE")
        name = _name(span)
        if await _exists(connection, name):
            if await _reattach(connection, name, span):
                return name
            # What the table holds may still be attached by hand: its time is left free.
            span = Span(max(span.low, now.replace(microsecond=0)), span.high)
            name = _name(span)
        await connection.execute(f"CREATE TABLE {name} (LIKE events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
        await attach(connection, name, span)
    return name


async def _exists(connection: asyncpg.Connection, name: str) -> bool:
    return bool(await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", name))


async def _reattach(connection: asyncpg.Connection, name: str, span: Span) -> bool:
    """Attach a table that somebody has detached; False where it does not fit, or it takes too long to see."""
    try:
        async with connection.transaction():
            await connection.execute("SET LOCAL statement_timeout = '4s'")  # ingest waits for this
            await attach(connection, name, span)
    except (
        asyncpg.IntegrityConstraintViolationError,  # rows of another time
        asyncpg.SyntaxOrAccessError,  # other columns, a view, somebody else's table
        asyncpg.QueryCanceledError,
    ) as error:
        log.warning(
            "a table has the name of a partition and cannot be attached", action="partition_not_attached", name=name,
            error=type(error).__name__,
        )  # fmt: skip
        return False
    log.warning("a detached partition was attached again", action="partition_attached", name=name)
    return True


async def attach(connection: asyncpg.Connection, name: str, span: Span) -> None:
    """Make a stand-alone table a partition."""
    low, high = (f"'{moment:%Y-%m-%d %H:%M:%S+00}'" for moment in (span.low, span.high))
    await connection.execute(f"ALTER TABLE events ATTACH PARTITION {name} FOR VALUES FROM ({low}) TO ({high})")
