"""How long the event loop of this process is kept from its work: by a handler that blocks it, or by too much to do."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from receiver.histogram import Histogram

_EVERY: Final = 0.5


class LoopLag:
    """`seconds`: how late a timer was, twice a second."""

    def __init__(self) -> None:
        self.seconds = Histogram(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            started = time.perf_counter()
            await asyncio.sleep(_EVERY)
            self.seconds.add(max(time.perf_counter() - started - _EVERY, 0.0))
