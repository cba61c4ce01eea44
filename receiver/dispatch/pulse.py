"""When to look for new events: at once after a commit in this process, else at an interval that grows while idle."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

LINGER: Final = 0.005  # seconds; commits that follow each other closely are read together


class Pulse:
    """A beat that all of a worker's loops wait for, so that they look at the same time and share one read."""

    def __init__(self, *, fastest: float, slowest: float) -> None:
        self._fastest, self._slowest = fastest, slowest
        self._interval = fastest
        self._nudged = asyncio.Event()
        self._beat = asyncio.Event()
        self.count = 0

    def wake(self) -> None:
        """Something was committed, or everybody is to look up."""
        self._interval = self._fastest
        self._nudged.set()

    def busy(self) -> None:
        """There were events: more may follow soon."""
        self._interval = self._fastest

    async def wait(self, *, since: int) -> None:
        """Return at the next beat, or at once if there was one since `count` was `since`."""
        if self.count == since:
            await self._beat.wait()

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._nudged.wait()
                await asyncio.sleep(LINGER)
            if not self._nudged.is_set():
                self._interval = min(self._interval * 2, self._slowest)
            self._nudged.clear()
            self.count += 1
            self._beat.set()
            self._beat = asyncio.Event()
