"""What `serve` and `work` do beside their work: partitions ahead of time, every hour, and retention, once a day.

Every process makes partitions. Warnings and retention are the work of one at a time, by a lease (`store.tasks`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

import asyncpg
import structlog

from receiver.retention_settings import RetentionSettings
from receiver.store import retention, schema, server_clock, tasks
from receiver.store.address_keys import check_address_key
from receiver.store.connect import AWAY, connect
from receiver.store.log import check_generation
from receiver.store.needs import warnings
from receiver.store.partitions import ensure_partitions
from receiver.store.pruning import OPEN_QUARANTINE
from receiver.store.steps import Done, Progress, Unfinished
from receiver.vault import Vault

log = structlog.get_logger("maintenance")

EVERY: Final = 3600.0  # seconds
FIRST: Final = (5.0, 60.0)  # seconds until the first time: soon, as some services are restarted often
RETENTION_EVERY: Final = timedelta(hours=23)  # a little less than a day, so that it stays at the same hour
WARNINGS_EVERY: Final = timedelta(minutes=50)
_DEFAULTS: Final = RetentionSettings()


async def check_database(dsn: str, vault: Vault, rules: RetentionSettings = _DEFAULTS) -> None:
    """Refuse a schema or an address key that this process cannot work with; make the partitions that are missing."""
    async with _connected(dsn) as connection:
        await schema.check(connection)
        await check_address_key(connection, vault.address_fingerprint)
        await check_generation(connection)
        await ensure_partitions(connection, rules.partitions)


@asynccontextmanager
async def maintained(dsn: str, rules: RetentionSettings) -> AsyncIterator[None]:
    """Maintenance goes on beside the block; nothing that happens to it ends the block."""
    async with tasks.beside(_maintain(dsn, rules), name="maintenance"):
        yield


async def _maintain(dsn: str, rules: RetentionSettings) -> None:
    await asyncio.sleep(random.uniform(*FIRST))  # noqa: S311 - spreads processes that start at once
    while True:
        try:
            await maintain_once(dsn, rules)
        except (Unfinished, tasks.Lost) as error:
            log.warning("retention not finished", action="retention_failed", error=str(error))
        except AWAY as error:
            log.warning("maintenance not done", action="maintenance_failed", error=type(error).__name__)
        except Exception:  # a fault of ours must not end the service; the next hour tries again
            log.exception("maintenance failed", action="maintenance_failed")
        await asyncio.sleep(EVERY)


async def maintain_once(dsn: str, rules: RetentionSettings) -> None:
    """All that is due. Raises Unfinished, Lost, and what asyncpg raises."""
    async with _connected(dsn) as connection:
        for name in await ensure_partitions(connection, rules.partitions):
            log.info("partition made", action="partition_made", name=name)
        await server_clock.look(connection)
        await _warn(connection, rules)
        if await server_clock.why_wait(connection) is None:
            await retention.run_alone(connection, lambda: _connected(dsn), rules, _log_step, every=RETENTION_EVERY)


async def _warn(connection: asyncpg.Connection, rules: RetentionSettings) -> None:
    owner = tasks.this_process()
    if await tasks.take(connection, "warnings", owner, every=WARNINGS_EVERY):
        for one in await warnings(connection, rules):
            log.warning(one.text, action="retention_warning", key=one.key, severity=one.severity)
        await tasks.end(connection, "warnings", owner)


async def _log_step(step: Done | Progress) -> None:
    if isinstance(step, Progress):
        return
    keys = {"part": step.part, "relation": step.relation}
    if step.held:
        log.warning("kept for now", action="retention_held", by=[str(need) for need in step.held], **keys)
    elif step.part == OPEN_QUARANTINE:
        log.warning("quarantine that nobody looked at was removed", action="retention_done", rows=step.rows, **keys)
    else:
        log.info("removed", action="retention_done", rows=step.rows, bytes=step.bytes, **keys)


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect(dsn, name="receiver maintenance", command_timeout=30)
    try:
        yield connection
    finally:
        await connection.close(timeout=5)
