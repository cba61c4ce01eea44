"""Waiting for a condition, with a deadline, instead of sleeping."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def until(condition: Callable[[], Awaitable[T]], *, within: float = 30.0) -> T:
    """The condition's first true value. Fails the test when there is none in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while True:
        found = await condition()
        if found:
            return found
        assert loop.time() < deadline, f"the condition did not come true within {within} s"
        await asyncio.sleep(0.02)
