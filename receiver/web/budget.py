"""One budget of bytes for all requests in flight, so that memory stays bounded whatever arrives."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from receiver.errors import Unavailable

OVERHEAD: Final = 4096  # bytes a request costs besides its body


class Budget:
    """`take` waits, first come first served, until the bytes are free; `give` returns them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._free = size
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def used(self) -> int:
        """Bytes taken."""
        return self._size - self._free

    async def take(self, amount: int, *, within: float) -> int:
        """Reserve bytes, waiting at most `within` seconds; returns what to `give` back. Raises Unavailable."""
        amount = min(amount + OVERHEAD, self._size)
        if self._free >= amount and not self._queue:
            self._free -= amount
            return amount
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((amount, turn))
        try:
            async with asyncio.timeout(within):
                await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            if turn.done() and not turn.cancelled():
                self.give(amount)  # it was granted in the very moment we gave up
            self._queue = deque(entry for entry in self._queue if entry[1] is not turn)
            if isinstance(error, TimeoutError):
                raise Unavailable("too much is in flight") from error
            raise
        return amount

    def give(self, amount: int) -> None:
        """Return bytes that were taken."""
        self._free += amount
        while self._queue and self._free >= self._queue[0][0]:
            needed, turn = self._queue.popleft()
            if not turn.done():
                self._free -= needed
                turn.set_result(None)
