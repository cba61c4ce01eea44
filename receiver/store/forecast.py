"""What is stored, what retention would take of it, and what the disk will need: from a sample, so that it is quick.

The parts come to what the whole database has on disk: the last one is the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from receiver.retention_settings import RetentionSettings
from receiver.store import bare
from receiver.store.needs import Need, needs
from receiver.store.partitions import Partition, list_partitions
from receiver.store.pruning import RowRule, is_due, row_rules

WINDOW: Final = timedelta(days=28)  # growth is measured over the last four weeks
SAMPLED: Final = 5000  # blocks; a table that has no more is counted exactly
REST: Final = "everything else"

_SIZES: Final = """
SELECT pg_total_relation_size($1::text::regclass) AS bytes,
       pg_relation_size($1::text::regclass) / current_setting('block_size')::bigint AS blocks
"""
_EVENTS: Final = """
SELECT count(*) AS rows, count(*) FILTER (WHERE received_at >= $2) AS lately,
       coalesce(sum(pg_column_size(raw)), 0)::bigint AS raw, min(received_at) AS oldest
FROM {name} TABLESAMPLE SYSTEM ($1)
"""
_ROWS: Final = """
SELECT count(*) AS rows, count(*) FILTER (WHERE {where}) AS mine,
       count(*) FILTER (WHERE {at} < $2 AND {where}) AS going,
       count(*) FILTER (WHERE {at} >= $3 AND {where}) AS lately, min({at}) FILTER (WHERE {where}) AS oldest
FROM {name} TABLESAMPLE SYSTEM ($1)
"""

# The tables of the rest grow as they have since the beginning. One below a megabyte is small, not growing; below this
# oid are Postgres's own.
_WHOLE: Final = """
SELECT pg_database_size(current_database()) AS bytes, (SELECT min(applied_at) FROM schema_versions) AS since,
       (SELECT coalesce(sum(size), 0)::bigint FROM (
            SELECT pg_total_relation_size(oid) AS size FROM pg_class
            WHERE oid >= 16384 AND relkind IN ('r', 'm') AND oid <> ALL ($1::text[]::regclass[])
        ) AS tables WHERE size > 1048576) AS grown
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of what is stored. Rows and bytes are estimates where a table is large.

    `rows`: None where nobody has counted them. `keep`: None is for ever. `going`: what the next run takes. `daily`:
    growth a day over the last four weeks. `slack`: how much longer than `keep` something may stay, because it goes with
    its partition.
    """

    part: str
    table: str
    keep: timedelta | None
    rows: int | None = 0
    bytes: int = 0
    going_rows: int = 0
    going_bytes: int = 0
    held: tuple[tuple[str, Need], ...] = ()
    daily_rows: float = 0.0
    daily_bytes: float = 0.0
    slack: timedelta = timedelta(0)

    @property
    def steady(self) -> int | None:
        """Bytes when as much goes as comes; None where nothing ever goes and something comes."""
        if self.keep is None:
            return None if self.daily_bytes else self.bytes
        return int(self.daily_bytes * ((self.keep + self.slack) / timedelta(days=1)))

    def after(self, days: int) -> int:
        """Bytes in that many days, if it goes on as lately."""
        grown = self.bytes + int(self.daily_bytes * days)
        return grown if self.steady is None or self.keep is None else min(grown, max(self.steady, 0))


@dataclass(frozen=True, slots=True)
class _Sample:
    """What a partition holds. `raw`, `bytes`: of the whole relation, `bytes` without raw."""

    rows: int
    lately: int
    bytes: int
    raw: int
    oldest: datetime | None


async def parts(connection: asyncpg.Connection, rules: RetentionSettings, *, sure: bool = False) -> list[Part]:
    """Every part of what is stored, the rest last.

    `sure`: where something goes, `going_rows` is never 0, although it is an estimate. May read large tables whole.
    """
    now = await connection.fetchval("SELECT clock_timestamp()")
    partitions = await list_partitions(connection)
    found = [
        *await _events(connection, rules, partitions, now),
        *[await _rows(connection, rule, now, sure=sure) for rule in row_rules(rules)],
    ]
    tables = {one.table for one in found} | {one.name for one in partitions}
    whole = await connection.fetchrow(_WHOLE, list(tables))
    assert whole is not None
    days = max((now - (whole["since"] or now)) / timedelta(days=1), 1.0)
    bytes_ = max(whole["bytes"] - sum(one.bytes for one in found), 0)
    return [*found, Part(part=REST, table="", keep=None, rows=None, bytes=bytes_, daily_bytes=whole["grown"] / days)]


async def _events(
    connection: asyncpg.Connection, rules: RetentionSettings, partitions: Sequence[Partition], now: datetime
) -> list[Part]:
    samples = [await _sample(connection, one.name, now) for one in partitions]
    lately = sum(one.lately for one in samples)
    days = _days(now, [one.oldest for one in samples])
    slack = max((one.span.high - one.span.low for one in partitions if one.span.high > now), default=timedelta(0))
    event_bytes, raw_bytes = _per_row(samples)
    events = Part(
        part="events", table="events", keep=rules.events, slack=slack,
        rows=sum(one.rows for one in samples), bytes=sum(one.bytes for one in samples),
        daily_rows=lately / days, daily_bytes=lately * event_bytes / days,
    )  # fmt: skip
    stripped = await bare.stripped(connection)
    raw = Part(
        part="raw", table="events", keep=_sooner(rules.raw, rules.events), slack=slack,
        rows=sum(one.rows for one, at in zip(samples, partitions, strict=True) if at.name not in stripped),
        bytes=sum(one.raw for one in samples), daily_rows=lately / days, daily_bytes=lately * raw_bytes / days,
    )  # fmt: skip
    for partition, sample in zip(partitions, samples, strict=True):
        if _is_due(partition, rules.events, now):
            whole = replace(sample, bytes=sample.bytes + sample.raw)
            events = await _going(connection, events, partition, whole, whole.bytes)
        elif _is_due(partition, rules.raw, now) and partition.name not in stripped:
            raw = await _going(connection, raw, partition, sample, sample.raw)
    return [events, raw]


def _sooner(one: timedelta | None, other: timedelta | None) -> timedelta | None:
    return min((keep for keep in (one, other) if keep is not None), default=None)


def _is_due(partition: Partition, keep: timedelta | None, now: datetime) -> bool:
    return keep is not None and not partition.detaching and partition.span.high <= now - keep


async def _going(connection: asyncpg.Connection, part: Part, partition: Partition, sample: _Sample, size: int) -> Part:
    held = await needs(connection, partition)
    if held:
        return replace(part, held=(*part.held, *((partition.name, need) for need in held)))
    rows = sample.rows or int(await connection.fetchval(f"SELECT EXISTS (SELECT FROM {partition.name})"))
    return replace(part, going_rows=part.going_rows + rows, going_bytes=part.going_bytes + size)


def _per_row(samples: Sequence[_Sample]) -> tuple[float, float]:
    """Bytes of an event without raw, and of its raw, where partitions hold recent events."""
    recent = [one for one in samples if one.lately]
    rows = sum(one.rows for one in recent) or 1
    return sum(one.bytes for one in recent) / rows, sum(one.raw for one in recent) / rows


def _days(now: datetime, oldest: Sequence[datetime | None]) -> float:
    """How many days of the window have been seen; at least one."""
    first = min((one for one in oldest if one is not None), default=now)
    return max(min(WINDOW, now - first) / timedelta(days=1), 1.0)


async def _sample(connection: asyncpg.Connection, name: str, now: datetime) -> _Sample:
    bytes_, percent = await _size(connection, name)
    row = await connection.fetchrow(_EVENTS.format(name=name), percent, now - WINDOW)
    assert row is not None
    scale = 100 / percent
    raw = min(int(row["raw"] * scale), bytes_)
    return _Sample(int(row["rows"] * scale), int(row["lately"] * scale), bytes_ - raw, raw, row["oldest"])


async def _size(connection: asyncpg.Connection, name: str) -> tuple[int, float]:
    """Bytes with indexes, and the percentage of blocks to look at."""
    row = await connection.fetchrow(_SIZES, name)
    assert row is not None
    return row["bytes"], 100.0 if row["blocks"] <= SAMPLED else 100.0 * SAMPLED / row["blocks"]


async def _rows(connection: asyncpg.Connection, rule: RowRule, now: datetime, *, sure: bool) -> Part:
    bytes_, percent = await _size(connection, rule.table)
    before = datetime.min.replace(tzinfo=now.tzinfo) if rule.keep is None else now - rule.keep
    statement = _ROWS.format(name=rule.table, at=rule.at, where=rule.where)
    row = await connection.fetchrow(statement, percent, before, now - WINDOW)
    assert row is not None
    scale, each = 100 / percent, bytes_ / (row["rows"] * 100 / percent) if row["rows"] else 0.0
    daily = row["lately"] * scale / _days(now, [row["oldest"]])
    going = int(row["going"] * scale)
    if sure and not going and rule.keep is not None:  # old rows may lie in few blocks, which the sample has missed
        going = int(await is_due(connection, rule, before))
    return Part(
        part=rule.part, table=rule.table, keep=rule.keep,
        rows=int(row["mine"] * scale), bytes=int(row["mine"] * scale * each),
        going_rows=going, going_bytes=int(going * each),
        daily_rows=daily, daily_bytes=daily * each,
    )  # fmt: skip
