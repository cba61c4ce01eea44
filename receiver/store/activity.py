"""When each source was last heard of: kept apart from the events, where the question would read a partition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from receiver.store.sql import Sql

BREAK: Final = timedelta(minutes=2)  # without any process that receives, after which watching begins anew

# Sorted, so that processes which write at the same time do not deadlock.
_NOTE: Final = """
INSERT INTO source_activity (source, last_event_at)
SELECT source, CASE WHEN heard THEN clock_timestamp() END
FROM unnest($1::text[], $2::boolean[]) AS s (source, heard) ORDER BY source
ON CONFLICT (source) DO UPDATE SET
    last_event_at = greatest(source_activity.last_event_at, excluded.last_event_at),
    watched_since = CASE WHEN source_activity.seen_at < clock_timestamp() - $3::interval
                         THEN clock_timestamp() ELSE source_activity.watched_since END,
    seen_at = clock_timestamp()
"""
_LIST: Final = """
SELECT source, last_event_at, watched_since, seen_at, clock_timestamp() AS now FROM source_activity ORDER BY source
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """A row of `source_activity`, and Postgres's clock beside it."""

    source: str
    last_event_at: datetime | None
    watched_since: datetime
    seen_at: datetime
    now: datetime


async def note_activity(sql: Sql, sources: Sequence[str], heard: Sequence[bool]) -> None:
    """This process receives for `sources`; from some of them something was stored since it last said so."""
    await sql.execute(_NOTE, list(sources), list(heard), BREAK)


async def activities(sql: Sql) -> list[Activity]:
    """Every source that was ever watched, by name."""
    return [Activity(**dict(row)) for row in await sql.fetch(_LIST)]
