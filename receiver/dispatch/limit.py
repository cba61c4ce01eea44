"""The time limit of a handler's calls, which also holds for one that ignores its cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from ctypes import py_object, pythonapi
from typing import Any, Final, TypeVar

from structlog.typing import FilteringBoundLogger

T = TypeVar("T")

_GRACE: Final = 2.0  # seconds in which a cancelled call may clean up


class Ignored(TimeoutError):
    """A call goes on in spite of its cancellation."""

    def __str__(self) -> str:
        return "took too long, and goes on although it was cancelled"


class SelfCancelled(Exception):
    """A call has cancelled the task it runs in."""

    def __str__(self) -> str:
        return "cancelled the task that it runs in"


class Leftovers:
    """One handler's calls that nobody waits for any more."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._log = log
        self._tasks: set[asyncio.Task[Any]] = set()

    def add(self, task: asyncio.Task[Any]) -> None:
        """Let go of it, and say so, unless another one hangs already."""
        if not self._tasks:
            self._log.error("handler_ignores_cancellation")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        asyncio._unregister_task(task)  # noqa: SLF001 - documented; else the loop's end waits for it
        # Nothing frees it, not even the interpreter's end: one that swallows GeneratorExit too would hang there.
        pythonapi.Py_IncRef(py_object(task))

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        pythonapi.Py_DecRef(py_object(task))


class Limit:
    """Runs calls, one after the other, in a task of their own, and cancels one that takes more than `seconds`.

    `over` is called before that, and has to see to it that the call has no more effect. One that goes on nevertheless
    is left to itself. `exceeded`: a call has taken too long.
    """

    def __init__(self, seconds: float, over: Callable[[], None], leftovers: Leftovers) -> None:
        self._seconds = seconds
        self._over = over
        self._leftovers = leftovers
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self.exceeded = False

    async def run(self, calls: Coroutine[Any, Any, T]) -> T:
        """What the calls return. Raises Ignored or SelfCancelled.

        When cancelled itself, it waits no longer for them than for one that takes too long.
        """
        task = self._task = asyncio.create_task(calls)
        task.add_done_callback(lambda _: self._wake.set())
        try:
            await self._wake.wait()
        except asyncio.CancelledError:
            self._cancel()
            await self._wake.wait()
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if not task.done():
                self._leftovers.add(task)
        if not task.done():
            raise Ignored
        if task.cancelled():
            raise SelfCancelled
        return task.result()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Around each call."""
        timer = self._loop.call_later(self._seconds, self._exceed)
        try:
            yield
        finally:
            timer.cancel()

    def _exceed(self) -> None:
        self.exceeded = True
        self._cancel()

    def _cancel(self) -> None:
        self._over()
        self._task.cancel()
        if self._timer is None:
            self._timer = self._loop.call_later(_GRACE, self._wake.set)
