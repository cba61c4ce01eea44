"""Batches of different shards at the same time, each in a transaction of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeAlias

from receiver.store.leases import Leased
from receiver.store.log import Page

Pages: TypeAlias = Sequence[tuple[Leased, Page]]


class Lanes:
    """At most `limit` tasks at the same time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Call `free` before."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def free(self) -> None:
        """Return as soon as another task may start."""
        while len(self._tasks) >= self._limit:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    @property
    def running(self) -> bool:
        return bool(self._tasks)

    async def finish(self) -> None:
        """Wait for what is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def cut(self) -> None:
        """Cancel what is under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def shares(pages: Pages, lanes: int, size: int) -> list[Pages]:
    """The pages cut into parts for `lanes`: a shard is in one part only, and a part is not much more than a batch.

    More parts than lanes are fine: they follow when one is free, so that a slow event holds up no more than its part.
    """
    if lanes == 1:
        return [pages] if pages else []
    each = min(size, -(-sum(len(page.events) for _, page in pages) // lanes))
    parts: list[Pages] = []
    part: list[tuple[Leased, Page]] = []
    for one in pages:
        part.append(one)
        if sum(len(page.events) for _, page in part) >= each:
            parts.append(part)
            part = []
    return [*parts, part] if part else parts
