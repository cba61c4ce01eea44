"""Events for tests of the log: made in Python, stored as the receiving side stores them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from receiver.event import shard_of

Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy


async def store(connection: Connection, count: int = 1, **columns: Any) -> list[UUID]:
    """Store events in the connection's transaction; returns their ids. A column may be a function of the number."""
    ids = [uuid4() for _ in range(count)]
    await store_rows(connection, [_row(n, id_, columns) for n, id_ in enumerate(ids)])
    return ids


async def store_rows(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Store events given by their columns; what is missing gets a usual value."""
    rows = [_row(n, row.get("id") or uuid4(), row) for n, row in enumerate(rows)]
    names = sorted({name for row in rows for name in row})
    await connection.copy_records_to_table(
        "events", columns=names, records=[[row.get(name) for name in names] for row in rows]
    )


def _row(number: int, id_: UUID, columns: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": id_,
        "occurred_at": datetime.now(UTC),
        "type": "delivered",
        "source": "test",
        "provider": "resend",
        "provider_type": "email.delivered",
        "recipient": f"{id_}@example.com",
        "tags": [],
        "metadata": "{}",
        "raw": "{}",
        "echo": False,
        "is_test": False,
    }
    row |= {name: value(number) if callable(value) else value for name, value in columns.items()}
    return row if "shard" in row else row | {"shard": shard_of(row["recipient"], row.get("message_id"), id_.bytes)}


async def write_transactions(dsn: str, seed: int, committed: list[UUID]) -> None:
    """Transactions of several statements that overlap, end in another order than they began, and partly roll back."""
    chance = random.Random(seed)
    connection = await asyncpg.connect(dsn)
    try:
        for _ in range(12):
            transaction = connection.transaction()
            await transaction.start()
            ids = []
            for _ in range(chance.randint(1, 3)):
                ids += await store(connection, chance.randint(1, 6))
                await asyncio.sleep(chance.choice([0, 0, 0.002, 0.01]))
            if chance.random() < 0.2:
                await transaction.rollback()
            else:
                await transaction.commit()
                committed += ids
    finally:
        await connection.close()
