"""A database with two topics, and what an import may change in it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from receiver.store.address_keys import check_address_key
from receiver.vault import Vault
from tests.service import SECRET_KEY

VAULT: Final = Vault(SECRET_KEY)


@asynccontextmanager
async def people(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the database, which knows its key and two topics: news, and offers with double opt-in."""
    connection = await asyncpg.connect(database)
    try:
        await check_address_key(connection, VAULT.address_fingerprint)
        await connection.execute(
            "INSERT INTO topics (name, title, double_opt_in) VALUES ('news', 'News', false), ('offers', 'Offers', true)"
        )
        yield connection
    finally:
        await connection.close()


async def contact(sql: asyncpg.Connection, address: str) -> dict[str, Any]:
    row = await sql.fetchrow("SELECT *, attributes::text AS attributes FROM contacts WHERE address = $1", address)
    assert row is not None, address
    return dict(row) | {"attributes": json.loads(row["attributes"])}


async def everything(sql: asyncpg.Connection) -> list[str]:
    """All that an import may change, but for times of its own."""
    tables = {
        "contacts": "to_jsonb(t) - '{id,created_at,updated_at}'::text[]",
        "subscriptions": "to_jsonb(t)",
        "consent_log": "to_jsonb(t) - '{id,recorded_at}'::text[]",
    }
    return [
        row[0]
        for table, columns in tables.items()
        for row in await sql.fetch(f"SELECT ({columns})::text FROM {table} t ORDER BY 1")
    ]
