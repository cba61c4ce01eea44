"""Answers to requests that came with an Idempotency-Key, so that a repetition gets the first one's."""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

import asyncpg

from receiver.store.sql import Sql

# Held until the transaction ends. Two that collide by their 64 bits see each other as one request in hand, no worse.
_TAKE: Final = "SELECT pg_try_advisory_xact_lock($1)"
_FIND: Final = """
SELECT fingerprint, status, answer FROM api_requests
WHERE key_id = $1 AND idempotency_key = $2 AND created_at > now() - interval '24 hours'
"""
_KEEP: Final = """
INSERT INTO api_requests (key_id, idempotency_key, fingerprint, status, answer) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (key_id, idempotency_key) DO UPDATE SET
    fingerprint = excluded.fingerprint, status = excluded.status, answer = excluded.answer, created_at = now()
"""


class Asked(NamedTuple):
    """Which request. `fingerprint`: hash of method, path and body."""

    key_id: int
    idempotency_key: str
    fingerprint: bytes


async def take(sql: Sql, asked: Asked) -> bool:
    """Within a transaction: whether no other one has the request in hand."""
    name = f"api_requests {asked.key_id} {asked.idempotency_key}"
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
    found: bool = await sql.fetchval(_TAKE, number)
    return found


async def find(sql: Sql, asked: Asked) -> asyncpg.Record | None:
    """The first request of this key within the last day: (fingerprint, status, answer)."""
    return await sql.fetchrow(_FIND, asked.key_id, asked.idempotency_key)


async def keep(sql: Sql, asked: Asked, status: int, answer: bytes) -> None:
    """Within the transaction that did what was asked for. `answer`: encrypted."""
    await sql.execute(_KEEP, *asked, status, answer)
