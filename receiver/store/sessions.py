"""Ending sessions that nobody is there for any more: until the server notices by itself, they keep their locks.

Only the role's own, which every role may end. Those behind a pooler have the names of whoever used them last.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from receiver.store.sql import Sql

_PREFIX: Final = "receiver dispatch "
_NAME: Final = f"left('{_PREFIX}' || {{}}, 63)"  # Postgres keeps no more of it

_END: Final = f"""
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user AND application_name = {_NAME.format("$1")}
  AND pid = ANY ($2::int[]) AND backend_start < clock_timestamp() - $3 * interval '1 second'
"""
# A name may be two workers' (containers with the same host name, or long ones that Postgres has cut): then the one that
# lives protects the other. A worker whose beat was slow has as long again as its lease to come back.
_END_LATE: Final = f"""
SELECT count(pg_terminate_backend(a.pid)) FROM pg_stat_activity a
WHERE a.datname = current_database() AND a.usename = current_user AND pg_backend_pid() = $1
  AND a.application_name IN (
    SELECT {_NAME.format("name")} FROM workers GROUP BY 1
    HAVING max(expires_at) < clock_timestamp() - $2 * interval '1 second')
"""


def session_name(worker: str) -> str:
    """How the sessions in which a worker dispatches are called."""
    return f"{_PREFIX}{worker}"


async def end_left(sql: Sql, worker: str, pids: Collection[int], *, ago: float) -> None:
    """End those of a worker's own sessions whose connections it has cut, the last one `ago` seconds ago."""
    await sql.execute(_END, worker, list(pids), ago)


async def end_late(sql: Sql, pid: int, *, lease: float) -> None:
    """End the sessions of workers whose time ran out a `lease` (seconds) ago. `pid`: of our server, as far as we know.

    Does nothing behind a pooler, where it is another one.
    """
    await sql.execute(_END_LATE, pid, lease)
