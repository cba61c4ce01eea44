"""What `serve` and `work` do beside their work: partitions ahead of time, now and every hour."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
import structlog

from receiver.retention_settings import RetentionSettings
from receiver.store import schema
from receiver.store.partitions import ensure_partitions

log = structlog.get_logger("maintenance")

EVERY: Final = 3600.0  # seconds
_DEFAULTS: Final = RetentionSettings()
_AWAY: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)


async def check_database(dsn: str, rules: RetentionSettings = _DEFAULTS) -> None:
    """Refuse a schema that this release cannot work with, and make the partitions that are missing."""
    async with _connected(dsn) as connection:
        await schema.check(connection)
        await ensure_partitions(connection, rules.partitions)


@asynccontextmanager
async def maintained(dsn: str, rules: RetentionSettings) -> AsyncIterator[None]:
    """Maintenance goes on beside the block; nothing that happens to it ends the block."""
    task = asyncio.create_task(_maintain(dsn, rules), name="maintenance")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _maintain(dsn: str, rules: RetentionSettings) -> None:
    while True:
        await asyncio.sleep(EVERY)
        try:
            await _keep_partitions(dsn, rules)
        except _AWAY as error:
            log.warning("maintenance not done", action="maintenance_failed", error=type(error).__name__)
        except Exception:  # a fault of ours must not end the service; the next hour tries again
            log.exception("maintenance failed", action="maintenance_failed")


async def _keep_partitions(dsn: str, rules: RetentionSettings) -> None:
    async with _connected(dsn) as connection:
        for name in await ensure_partitions(connection, rules.partitions):
            log.info("partition made", action="partition_made", name=name)


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(
        dsn, timeout=10, command_timeout=30, server_settings={"application_name": "receiver maintenance"}
    )
    try:
        yield connection
    finally:
        await connection.close(timeout=5)
