"""The breakers' state, which all workers obey: an open one stops a handler that fails for everything."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from receiver.store.sql import Sql

FIRST_PROBE: Final = timedelta(seconds=5)
_LONGEST: Final = "5 min"  # between two probes

_OPEN: Final = """
INSERT INTO handlers (name, breaker_since, breaker_error, breaker_probe_at)
VALUES ($1, clock_timestamp(), $2, clock_timestamp() + $3::interval)
ON CONFLICT (name) DO UPDATE SET
    breaker_since = excluded.breaker_since, breaker_error = excluded.breaker_error,
    breaker_probe_at = excluded.breaker_probe_at
WHERE handlers.breaker_since IS NULL
RETURNING true
"""
_CLOSE: Final = """
WITH open AS (SELECT name, breaker_since FROM handlers WHERE name = $1 AND breaker_since IS NOT NULL FOR UPDATE)
UPDATE handlers SET breaker_since = NULL, breaker_error = NULL, breaker_probe_at = NULL
FROM open WHERE handlers.name = open.name RETURNING clock_timestamp() - open.breaker_since
"""
# The next probe comes after as long again as the breaker has been open.
_CLAIM: Final = f"""
UPDATE handlers SET breaker_probe_at =
    clock_timestamp() + greatest($2::interval, least(clock_timestamp() - breaker_since, interval '{_LONGEST}'))
WHERE name = $1 AND breaker_probe_at <= clock_timestamp()
RETURNING true
"""
_HASTEN: Final = """
UPDATE handlers SET breaker_probe_at = clock_timestamp() WHERE name = ANY ($1::text[]) AND breaker_since IS NOT NULL
"""
_OPEN_ONES: Final = """
SELECT name, breaker_probe_at <= clock_timestamp() FROM handlers
WHERE name = ANY ($1::text[]) AND breaker_since IS NOT NULL
"""


async def open_(sql: Sql, handler: str, error: str) -> bool:
    """Stop the handler; False: it was stopped already."""
    return await sql.fetchval(_OPEN, handler, error, FIRST_PROBE) is not None


async def close(sql: Sql, handler: str) -> timedelta | None:
    """Let the handler go on; returns how long it was stopped, None: it was not."""
    stopped: timedelta | None = await sql.fetchval(_CLOSE, handler)
    return stopped


async def claim(sql: Sql, handler: str) -> bool:
    """Whether this worker is the one that may probe now; the time of the next probe is set."""
    return await sql.fetchval(_CLAIM, handler, FIRST_PROBE) is not None


async def hasten(sql: Sql, handlers: Sequence[str]) -> None:
    """Let the next probe be now: a worker has started, perhaps with corrected code."""
    await sql.execute(_HASTEN, list(handlers))


async def open_ones(sql: Sql, handlers: Sequence[str]) -> dict[str, bool]:
    """Those of the handlers whose breaker is open, and whether a probe is due."""
    return {row[0]: row[1] for row in await sql.fetch(_OPEN_ONES, list(handlers))}
