"""What holds handlers, which all workers obey: the breaker of one that fails for everything, or a rest it asked for.

Both are in the same columns. A rest has no `breaker_since`; it ends at `breaker_probe_at`, by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
WHERE name = $1 AND breaker_since IS NOT NULL AND breaker_probe_at <= clock_timestamp()
RETURNING true
"""
_REST: Final = """
INSERT INTO handlers AS h (name, breaker_error, breaker_probe_at)
VALUES ($1, $2, clock_timestamp() + $3 * interval '1 second')
ON CONFLICT (name) DO UPDATE SET
    breaker_error = CASE WHEN h.breaker_since IS NULL THEN excluded.breaker_error ELSE h.breaker_error END,
    breaker_probe_at = greatest(h.breaker_probe_at, excluded.breaker_probe_at)
"""
_HASTEN: Final = """
UPDATE handlers SET breaker_probe_at = clock_timestamp()
WHERE name = ANY ($1::text[]) AND breaker_probe_at > clock_timestamp()
"""
_HOLDS: Final = """
SELECT name, breaker_since IS NOT NULL, extract(epoch FROM breaker_probe_at - clock_timestamp())::float8 FROM handlers
WHERE name = ANY ($1::text[]) AND (breaker_since IS NOT NULL OR breaker_probe_at > clock_timestamp())
"""


@dataclass(frozen=True, slots=True)
class Hold:
    """Why nothing is handed to a handler: its breaker is `open`, or it rests. `wait`: seconds until the next try."""

    open: bool
    wait: float


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


async def rest(sql: Sql, handler: str, why: str, *, seconds: float) -> None:
    """Let nothing be handed to it for so long; where its breaker is open, nor a probe."""
    await sql.execute(_REST, handler, why, seconds)


async def hasten(sql: Sql, handlers: Sequence[str]) -> None:
    """Let the next probe be now, and rests be over: a worker has started, perhaps with corrected code."""
    await sql.execute(_HASTEN, list(handlers))


async def holds(sql: Sql, handlers: Sequence[str]) -> dict[str, Hold]:
    """Those of the handlers that are held."""
    return {row[0]: Hold(row[1], row[2]) for row in await sql.fetch(_HOLDS, list(handlers))}
