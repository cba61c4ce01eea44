"""A bounded sample of refused requests, written beside the hot path.

A stranger can send as many bad requests as they like: a full queue drops, each (source, reason) is written at most once
in a while, keeps its newest rows only, and bodies are cut. What is authentic never passes through here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import Final

import asyncpg
import structlog

from receiver.contract import Delivery
from receiver.errors import Reason
from receiver.ingest.credit import Credit
from receiver.ingest.head import request_head
from receiver.store import refused
from receiver.store.connect import connect
from receiver.vault import Vault

log = structlog.get_logger("refusals")

QUEUE: Final = 100
EVERY: Final = 1.0  # seconds between two kept requests of one (source, reason), after the first BURST
BURST: Final = 10
KEPT_BYTES: Final = 64 * 1024


class Refusals:
    """Counts every refusal and keeps a sample. `start`, `add`, `stop`."""

    def __init__(self, dsn: str, vault: Vault) -> None:
        self._dsn = dsn
        self._vault = vault
        self._queue: asyncio.Queue[refused.RefusedRow] = asyncio.Queue(QUEUE)
        self._unwritten: Counter[tuple[str, Reason]] = Counter()
        self._credit = Credit(BURST, EVERY)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._write())

    async def stop(self) -> None:
        """Write what is queued, for a second at most."""
        if self._task is None:
            return
        with contextlib.suppress(TimeoutError):  # a sample may be lost; what is authentic is not in here
            await asyncio.wait_for(self._queue.join(), 1.0)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def wants(self, source: str, reason: Reason) -> bool:
        """Whether the next refusal of this kind would be kept."""
        return not self._queue.full() and self._credit.has((source, reason))

    def add(self, source: str, delivery: Delivery, reason: Reason, detail: str) -> None:
        """Count a refusal, and keep it if its kind has credit left. Never blocks."""
        key = (source, reason)
        self._unwritten[key] += 1
        if self._queue.full() or not self._credit.take(key):
            return
        self._queue.put_nowait(
            refused.RefusedRow(
                source=source,
                reason=reason,
                detail=detail[:500],
                times=self._unwritten.pop(key),
                client_ip=delivery.client,
                size=len(delivery.body),
                headers=self._vault.encrypt(request_head(delivery), context="refused"),
                body=self._vault.encrypt(delivery.body[:KEPT_BYTES], context="refused"),
                refused_at=delivery.at,
            )
        )

    async def _write(self) -> None:
        connection: asyncpg.Connection | None = None
        while True:
            row = await self._queue.get()
            try:
                if connection is None or connection.is_closed():
                    connection = await connect(self._dsn, name="receiver refusals", timeout=5, command_timeout=10)
                await refused.keep(connection, row)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
                log.warning("a refused request was not kept", action="refused_lost", error=type(error).__name__)
            finally:
                self._queue.task_done()
