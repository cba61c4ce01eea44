"""Cold partitions rewritten without `raw`: copied beside in small transactions, compared, swapped in one short one.

The copy is a plain table until the swap, so queries, cursors and ids see the partition all the time. `retention_steps`
holds the first block that is not copied yet, in the transaction of the copy: a crash costs one block range.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import asyncpg

from receiver.store.partitions import Partition, attach
from receiver.store.steps import Busy, Done, Progress
from receiver.store.table_locks import QUIET, lock, lock_events, persistently

BLOCKS: Final = 4096  # 32 MB of the partition in one transaction

_BEGUN: Final = "SELECT relation FROM retention_steps WHERE part = 'raw' AND finished_at IS NULL"
_FORGET: Final = (
    "DELETE FROM retention_steps WHERE relation = $1 AND part = 'raw' AND finished_at IS NULL RETURNING copy"
)
_STRIPPED: Final = "SELECT relation FROM retention_steps WHERE part = 'raw' AND finished_at IS NOT NULL"
# What runs now may commit after its blocks are copied: its changes count as later ones.
_BEGIN: Final = """
INSERT INTO retention_steps (relation, part, copy, began_txid, bytes)
VALUES ($1, 'raw', $2, pg_snapshot_xmin(pg_current_snapshot()), pg_total_relation_size($1::text::regclass))
ON CONFLICT (relation, part) DO UPDATE
SET began_at = clock_timestamp(), began_txid = excluded.began_txid, next_block = 0, rows = 0, bytes = excluded.bytes
"""
_STEP: Final = "SELECT * FROM retention_steps WHERE relation = $1 AND part = 'raw' FOR UPDATE"
_SIZES: Final = """
SELECT (pg_relation_size($1::text::regclass) / current_setting('block_size')::bigint, to_regclass($2) IS NOT NULL)
"""
_COLUMNS: Final = """
SELECT attname FROM pg_attribute
WHERE attrelid = 'events'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum
"""
_COPIED: Final = """
UPDATE retention_steps SET next_block = $2, rows = rows + $3 WHERE relation = $1 AND part = 'raw' RETURNING rows
"""
# A row that may have been changed meanwhile has a newer xmin; the age says so also when ids have wrapped around.
_COMPARE: Final = """
SELECT a.rows = b.rows AND a.positions = b.positions AND a.changed = 0 AS same FROM
    (SELECT count(*) AS rows, coalesce(sum(position), 0) AS positions,
            count(*) FILTER (WHERE age(xmin) BETWEEN 0 AND age($1::xid8::xid)) AS changed FROM {name}) AS a,
    (SELECT count(*) AS rows, coalesce(sum(position), 0) AS positions FROM {copy}) AS b
"""
_FINISH: Final = """
UPDATE retention_steps
SET finished_at = clock_timestamp(), bytes = greatest(bytes - pg_total_relation_size($2::text::regclass), 0)
WHERE relation = $1 AND part = 'raw' RETURNING rows, bytes
"""


async def begun(connection: asyncpg.Connection) -> set[str]:
    """The partitions that have been copied in part."""
    return {row[0] for row in await connection.fetch(_BEGUN)}


async def stripped(connection: asyncpg.Connection) -> set[str]:
    """The partitions that have no raw any more."""
    return {row[0] for row in await connection.fetch(_STRIPPED)}


async def strip(connection: asyncpg.Connection, partition: Partition) -> AsyncIterator[Done | Progress]:
    """Rewrite the partition without raw, or go on where an earlier attempt was ended. Raises Busy."""
    name, copy = partition.name, f"events_bare_{partition.span.low:%Y%m%d_%H%M%S}"
    total = await _begin(connection, partition, copy)
    done = 0
    while done < total:
        done = await _copy(connection, name, copy, total)
        yield Progress("raw", name, done, total)
    swapped = await _swap(connection, partition, copy)
    if swapped is None:
        await forget(connection, name)
        raise Busy(f"events in {name} were changed while it was rewritten without raw: the next run begins anew")
    yield swapped


async def _begin(connection: asyncpg.Connection, partition: Partition, copy: str) -> int:
    """The number of the partition's blocks. Anew where there is no copy, or no step that it belongs to."""
    name, low, high = partition.name, partition.span.low, partition.span.high
    async with connection.transaction():
        begun = await connection.fetchrow(_STEP, name)
        blocks, copied = await connection.fetchval(_SIZES, name, copy)
        if begun is None or not copied:
            await connection.execute(f"DROP TABLE IF EXISTS {copy}")
            await connection.execute(_BEGIN, name, copy)
            await connection.execute(f"CREATE TABLE {copy} (LIKE events INCLUDING ALL)")
            # With it, attaching reads no row.
            await connection.execute(
                f"ALTER TABLE {copy} ADD CONSTRAINT {copy}_span CHECK "
                f"(received_at >= '{low:%Y-%m-%d %H:%M:%S+00}' AND received_at < '{high:%Y-%m-%d %H:%M:%S+00}')"
            )
    return int(blocks)


async def _step(connection: asyncpg.Connection, name: str) -> asyncpg.Record:
    """The row of a step that was begun, locked."""
    row = await connection.fetchrow(_STEP, name)
    assert row is not None
    return row


async def _copy(connection: asyncpg.Connection, name: str, copy: str, total: int) -> int:
    """Copy the next blocks; returns the first one that is left."""
    names = [row[0] for row in await connection.fetch(_COLUMNS)]
    values = ["NULL" if one == "raw" else one for one in names]
    async with connection.transaction():
        step = await _step(connection, name)
        start, end = step["next_block"], min(step["next_block"] + BLOCKS, total)
        tag = await connection.execute(
            f"INSERT INTO {copy} ({', '.join(names)}) SELECT {', '.join(values)} FROM {name} "
            f"WHERE ctid >= '({start},0)' AND ctid < '({end},0)'",
            timeout=600,
        )
        await connection.execute(_COPIED, name, end, int(tag.split()[-1]))
    return int(end)


async def _swap(connection: asyncpg.Connection, partition: Partition, copy: str) -> Done | None:
    """Put the copy in the partition's place; None where they differ; held where somebody needs it by now. Raises Busy.

    While they are compared nobody can change the partition, which is cold; reading and ingest go on.
    """
    name = partition.name
    async with connection.transaction(isolation="read_committed"):  # it is asked late who needs it
        await lock(connection, name, "SHARE", QUIET)
        step = await _step(connection, name)
        compare = _COMPARE.format(name=name, copy=copy)
        if not await connection.fetchval(compare, step["began_txid"], timeout=3600):
            return None
        return await persistently(lambda: _exchange(connection, partition, copy))


async def _exchange(connection: asyncpg.Connection, partition: Partition, copy: str) -> Done:
    """In a savepoint. Holds up everybody who wants `events` for as long as it waits, which is short, and then works."""
    name = partition.name
    async with connection.transaction():
        held = await lock_events(connection, partition)
        if held:
            return Done("raw", name, held=tuple(held))
        await connection.execute(f"ALTER TABLE events DETACH PARTITION {name}")
        await attach(connection, copy, partition.span)
        row = await connection.fetchrow(_FINISH, name, copy)
        assert row is not None
        await connection.execute(f"DROP TABLE {name}")
        await connection.execute(f"ALTER TABLE {copy} DROP CONSTRAINT {copy}_span")
        await connection.execute(f"ALTER TABLE {copy} RENAME TO {name}")
    return Done("raw", name, row["rows"], row["bytes"])


async def forget(connection: asyncpg.Connection, name: str) -> None:
    """Give up what was begun for the partition, if anything was."""
    async with connection.transaction():
        copy = await connection.fetchval(_FORGET, name)
        if copy is not None:
            await connection.execute(f"DROP TABLE IF EXISTS {copy}")
