"""The keys of the API: made, found, replaced and revoked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from receiver.store.sql import Sql

_LIVE: Final = "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())"
_SHOWN: Final = f"""
    id, name, start, scopes, created_at, created_by, expires_at, revoked_at, replaces, used_at,
    CASE WHEN {_LIVE} THEN 'live' WHEN revoked_at IS NOT NULL THEN 'revoked' ELSE 'expired' END AS state
"""
_FOUND: Final = """
    id, name, scopes, used_at IS NULL OR used_at < clock_timestamp() - interval '1 minute' AS stale
"""
_BY_HASH: Final = f"SELECT {_FOUND} FROM api_keys WHERE hash = $1 AND {_LIVE}"
_BY_ID: Final = f"SELECT {_FOUND} FROM api_keys WHERE id = $1 AND {_LIVE}"
_LIST: Final = f"SELECT {_SHOWN} FROM api_keys WHERE $1 OR {_LIVE} ORDER BY id"
_GET: Final = f"SELECT {_SHOWN} FROM api_keys WHERE id = $1"
_MAKE: Final = f"""
INSERT INTO api_keys (name, start, hash, scopes, created_by, expires_at, replaces) VALUES ($1, $2, $3, $4, $5, $6, $7)
RETURNING {_SHOWN}
"""
# A key that another request marks right now is left to it: nobody waits for a note of the time.
_USED: Final = """
UPDATE api_keys SET used_at = date_trunc('minute', clock_timestamp())
WHERE id = (SELECT id FROM api_keys WHERE id = $1 FOR NO KEY UPDATE SKIP LOCKED)
"""
_END: Final = f"""
UPDATE api_keys SET expires_at = least(expires_at, clock_timestamp() + $2::interval)
WHERE id = $1 AND {_LIVE} RETURNING expires_at
"""
_REVOKE: Final = f"UPDATE api_keys SET revoked_at = clock_timestamp() WHERE id = $1 AND {_LIVE} RETURNING id"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """`start` and `hash`: of the key itself, which is stored nowhere."""

    name: str
    start: str
    hash: bytes
    scopes: Sequence[str]
    created_by: str
    expires_at: datetime | None = None
    replaces: int | None = None


async def make(sql: Sql, key: NewKey) -> asyncpg.Record:
    """The row as it is shown."""
    row = await sql.fetchrow(
        _MAKE, key.name, key.start, key.hash, list(key.scopes), key.created_by, key.expires_at, key.replaces
    )
    assert row is not None
    return row


async def find(sql: Sql, hash_: bytes) -> asyncpg.Record | None:
    """The key with this hash, if it is good now: (id, name, scopes, stale). `stale`: `used` should be called."""
    return await sql.fetchrow(_BY_HASH, hash_)


async def find_by_id(sql: Sql, id_: int) -> asyncpg.Record | None:
    """Likewise, by number."""
    return await sql.fetchrow(_BY_ID, id_)


async def used(sql: Sql, id_: int) -> None:
    """Note that it is used now, to a minute."""
    await sql.execute(_USED, id_)


async def list_keys(sql: Sql, *, ended: bool = False) -> list[asyncpg.Record]:
    """The keys that are good now; with `ended`, those that were, too."""
    return await sql.fetch(_LIST, ended)


async def get(sql: Sql, id_: int) -> asyncpg.Record | None:
    """One key as `list_keys` shows it."""
    return await sql.fetchrow(_GET, id_)


async def end(sql: Sql, id_: int, overlap: timedelta) -> datetime | None:
    """Let a key that is good now expire after `overlap`, unless it does so sooner; None where it is not good."""
    found: datetime | None = await sql.fetchval(_END, id_, overlap)
    return found


async def revoke(sql: Sql, id_: int) -> bool:
    """End it at once; False where it is not good now."""
    return await sql.fetchval(_REVOKE, id_) is not None
