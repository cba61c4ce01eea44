"""Tells workers of other processes about commits, beside the hot path and at most twenty times a second."""

from __future__ import annotations

import asyncio
from typing import Final

import asyncpg
import structlog

from receiver.store import wakeups
from receiver.store.connect import AWAY, connect

log = structlog.get_logger("announcer")

APART: Final = 0.05  # seconds between two announcements, however many commits there are
AGAIN: Final = 2.0  # seconds to wait where the database cannot be told

# It has nothing to lose in a crash, and need not wait for the disk.
_SETTINGS: Final = {"synchronous_commit": "off"}


class Announcer:
    """`start`, then `announce` any number of times, then `stop`. `sender`: who is told by other means."""

    def __init__(self, dsn: str, *, sender: str = "") -> None:
        self._dsn = dsn
        self._sender = sender
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._tell(), name="announcer")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def announce(self) -> None:
        """Something was committed. Never blocks, and never fails."""
        self._news.set()

    async def _tell(self) -> None:
        while True:
            await self._news.wait()
            try:
                connection = await connect(self._dsn, name="receiver announcer", settings=_SETTINGS, command_timeout=5)
                try:
                    await self._tell_over(connection)
                finally:
                    connection.terminate()
            except AWAY as error:  # who listens looks by itself now and then
                log.debug("cannot announce", action="announce_failed", error=type(error).__name__)
                await asyncio.sleep(AGAIN)
                self._news.set()

    async def _tell_over(self, connection: asyncpg.Connection) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            await wakeups.announce(connection, self._sender)
            await asyncio.sleep(APART)
