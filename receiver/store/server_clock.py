"""Whether the server's clock is to be believed: what is old by it, retention removes for good.

Maintenance looks at it every hour. Where days lie between two looks, either the clock has jumped or nothing of ours ran
meanwhile, and nobody can tell which. So retention waits for a day, in which a person can; then it goes on, or a service
that nobody watches would keep everything. For the same reason one wait is not prolonged by another gap.

And what is stored after a jump back has times before those that cursors have read up to: no handler is to pass it by.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from receiver.store.control import FENCED
from receiver.store.sql import Sql

GAP: Final = timedelta(days=2)
WAIT: Final = timedelta(days=1)

# Of the row in `tasks`, finished_at is the last look, started_at the beginning of the wait, error the look before that.
_LOOK: Final = """
INSERT INTO tasks AS t (name, started_at, finished_at) VALUES ('clock', '-infinity', clock_timestamp())
ON CONFLICT (name) DO UPDATE SET (started_at, error) = (
    SELECT CASE WHEN back THEN '-infinity' WHEN ahead THEN clock_timestamp() ELSE t.started_at END,
           CASE WHEN ahead THEN to_char(t.finished_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') ELSE t.error END
    FROM (SELECT t.finished_at > clock_timestamp() + interval '1 hour',
                 t.finished_at < clock_timestamp() - $1::interval AND t.started_at < t.finished_at - $2::interval)
         AS moved (back, ahead)
), finished_at = clock_timestamp()
"""
# Who reads the log meanwhile looks far enough back by itself; this is for a handler that is paused, or not there.
# A look comes every hour, but may fail or be late.
_LOWER: Final = f"""
WITH ahead AS (
    SELECT handler, shard FROM cursors WHERE read_from > clock_timestamp() + interval '30 minutes'
    ORDER BY handler, shard FOR UPDATE
)
UPDATE cursors SET read_from = clock_timestamp() - interval '1 day', {FENCED}
FROM ahead WHERE cursors.handler = ahead.handler AND cursors.shard = ahead.shard
"""
_WAITING: Final = """
SELECT format(
    'the database server''s clock says %s UTC, and said %s UTC when it was last looked at: it has jumped, or nothing '
    'ran for so long. Retention waits until %s UTC, then removes what is old by that clock. If it is wrong, set it '
    'right before; `receiver retention run` does not wait',
    to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), error,
    to_char((started_at + $1::interval) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'))
FROM tasks WHERE name = 'clock' AND started_at > clock_timestamp() - $1::interval
"""


async def look(sql: Sql) -> None:
    """Note what the clock says. Where it has gone back, no handler passes by what has been stored since."""
    await sql.execute(_LOOK, GAP, WAIT)
    await sql.execute(_LOWER)


async def why_wait(sql: Sql) -> str | None:
    """For people: why nothing is to be removed for now."""
    found: str | None = await sql.fetchval(_WAITING, WAIT)
    return found
