"""Connections to Postgres."""

from __future__ import annotations

import asyncpg


async def create_pool(dsn: str, *, name: str, size: int, least: int = 1) -> asyncpg.Pool:
    """A pool of at most `size` connections; `name` shows up as application_name in pg_stat_activity."""
    return await asyncpg.create_pool(
        dsn,
        min_size=least,
        max_size=size,
        command_timeout=60,
        timeout=10,
        server_settings={"application_name": name},
    )
