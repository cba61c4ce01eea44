"""How the whole installation stands, in one look: what metrics show and alerts are raised by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from receiver.store import retention, tasks
from receiver.store.activity import Activity, activities
from receiver.store.partitions import Partition, list_partitions
from receiver.store.sql import Sql
from receiver.store.standing import Standing, standings

_WORKERS: Final = "SELECT count(*) FROM workers WHERE expires_at > clock_timestamp()"
_QUARANTINE: Final = "SELECT source, kind, count(*) FROM quarantine WHERE resolved_at IS NULL GROUP BY 1, 2"
_LETTERS: Final = "SELECT handler, error_type, count(*) FROM dead_letters WHERE resolved_at IS NULL GROUP BY 1, 2"
_ALERTS: Final = "SELECT kind, count(*) FROM alerts WHERE resolved_at IS NULL GROUP BY kind"
# Those that stay paused until somebody acts, and what has not come to an end: both small.
_PAUSED: Final = "SELECT name, paused_at FROM send_accounts WHERE paused_at IS NOT NULL AND paused_until IS NULL"
_SENDS: Final = """
SELECT state, count(*) FROM sends
WHERE state IN ('queued', 'leased') OR state = 'unknown' AND settled_at > clock_timestamp() - interval '7 days'
GROUP BY state
"""
_SERVER: Final = """
SELECT clock_timestamp() AS at, pg_database_size(current_database()) AS database_bytes,
       (SELECT sum(numbackends)::int FROM pg_stat_database) AS connections,
       current_setting('max_connections')::int AS max_connections
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One look at the database, at the time `at` of its clock.

    `dead_letters`: open ones by handler, also of those that were removed, and class of the error. `workers`: live
    processes that run handlers. `quarantine`: open entries by source and kind. (Handlers and sources without any are in
    these too.) `alerts`: open ones by kind. `covered_until`: up to when there are partitions of `events` without a gap;
    None: not even for now. `connections`: of all clients of the server. `paused_accounts`: since when each can send
    nothing until somebody acts. `sends`: how many are queued, leased, and (of the last week) unknown. `retention`: how
    it went.
    """

    at: datetime
    handlers: Sequence[Standing]
    dead_letters: Mapping[str, Mapping[str, int]]
    workers: int
    quarantine: Mapping[str, Mapping[str, int]]
    sources: Sequence[Activity]
    alerts: Mapping[str, int]
    covered_until: datetime | None
    database_bytes: int
    connections: int
    max_connections: int
    paused_accounts: Mapping[str, datetime]
    sends: Mapping[str, int]
    retention: tasks.Last


async def observe(sql: Sql) -> Observation:
    """A few statements, none of which reads more than indexes and small tables."""
    server = await sql.fetchrow(_SERVER)
    assert server is not None  # it has no FROM
    sources = await activities(sql)
    handlers = await standings(sql)
    return Observation(
        handlers=handlers,
        dead_letters=await _by_two(sql, _LETTERS, [one.handler for one in handlers]),
        workers=await sql.fetchval(_WORKERS),
        quarantine=await _by_two(sql, _QUARANTINE, [one.source for one in sources]),
        alerts=dict(await sql.fetch(_ALERTS)),  # type: ignore[arg-type]  # a record of two is a pair
        sources=sources,
        paused_accounts=dict(await sql.fetch(_PAUSED)),  # type: ignore[arg-type]  # likewise
        sends=dict(await sql.fetch(_SENDS)),  # type: ignore[arg-type]  # likewise
        retention=await tasks.last(sql, retention.TASK),
        covered_until=_covered(server["at"], await list_partitions(sql)),
        **dict(server),
    )


async def _by_two(sql: Sql, statement: str, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Counts by a name, of which some are known, and a kind."""
    found: dict[str, dict[str, int]] = {name: {} for name in names}
    for name, kind, count in await sql.fetch(statement):
        found.setdefault(name, {})[kind] = count
    return found


def _covered(now: datetime, partitions: Sequence[Partition]) -> datetime | None:
    end = now
    for partition in partitions:
        if partition.span.low <= end < partition.span.high and not partition.detaching:
            end = partition.span.high
    return end if end > now else None
