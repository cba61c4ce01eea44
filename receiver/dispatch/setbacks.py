"""What keeps one handler from going on though nothing is wrong with the connection: told, and tried again with care."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from typing import Final

from structlog.typing import FilteringBoundLogger

_SHORTEST: Final = 0.1
_LONGEST: Final = 5.0
_CALM: Final = 60.0  # seconds without one, after which the next is waited after briefly again
_MANY: Final = 3


class Setbacks:
    """One handler's. Each is logged and waited after, longer each time; three faults in a minute are trouble."""

    def __init__(self, handler: str, log: FilteringBoundLogger) -> None:
        self._handler = handler
        self._log = log
        self._faults: deque[float] = deque(maxlen=_MANY)
        self._fault = ""
        self._pause = _SHORTEST
        self._last = time.monotonic()

    async def fault(self, action: str, error: BaseException) -> None:
        """Something that should not be able to happen."""
        self._log.error(action, exc_info=error)
        self._faults.append(time.monotonic())
        self._fault = f"{action}: {type(error).__name__}"
        await self._wait()

    async def full(self, error: BaseException) -> None:
        """The disk is full, or one of its statements has filled it: others may well go on."""
        self._log.error("database_full", detail=str(error)[:200])
        await self._wait()

    async def _wait(self) -> None:
        if time.monotonic() - self._last > _CALM:
            self._pause = _SHORTEST
        self._pause = min(self._pause * 1.5, _LONGEST)
        await asyncio.sleep(self._pause * random.uniform(0.5, 1))  # noqa: S311 - no secret
        self._last = time.monotonic()

    def trouble(self) -> str | None:
        """Why the handler may not be getting its events, or None."""
        if len(self._faults) < _MANY or time.monotonic() - self._faults[0] > _CALM:
            return None
        return f"{self._handler} is set back again and again ({self._fault}, see the log)"
