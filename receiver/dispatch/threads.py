"""Threads in which `def` handlers run, and their way back to the loop, which can be closed behind a late one."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Coroutine
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, TypeAlias, TypeVar

T = TypeVar("T")
Result: TypeAlias = tuple[object, BaseException | None]

_LEFT_LIMIT: Final = 50  # threads that hang after their time; more would only pile up
_numbers: Final = itertools.count(1)


class Gate:
    """One call's way from its thread to the loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._tasks: set[asyncio.Task[Any]] = set()

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Called in the thread: run `work` on the loop. Raises RuntimeError where the call's time is over."""
        run = self._run(work)
        try:
            future = asyncio.run_coroutine_threadsafe(run, self._loop)
        except RuntimeError:  # the loop is gone, and the process about to end
            run.close()
            work.close()
            raise
        return future.result()

    async def _run(self, work: Coroutine[Any, Any, T]) -> T:
        # Asked on the loop, so that nothing can come between the answer and the work.
        if self._closed:
            work.close()
            raise RuntimeError("the call has ended, or has taken longer than its timeout: its ctx is of no more use")
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            return await work
        finally:
            self._tasks.discard(task)

    async def close(self) -> None:
        """Let nothing through any more, and end what is under way."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


class _Thread:
    """A thread that does one job after the other. A daemon: one that hangs must not keep the process from ending."""

    def __init__(self, name: str) -> None:
        self.jobs: Final[SimpleQueue[Callable[[], None] | None]] = SimpleQueue()
        self._thread = threading.Thread(target=_serve, args=(self.jobs,), name=name, daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def stack(self) -> str:
        """Where it is now."""
        frame = sys._current_frames().get(self._thread.ident or 0)  # noqa: SLF001 - documented, for debuggers
        lines = traceback.format_stack(frame) if frame else []
        return "".join(line for line in lines if f'"{threading.__file__}"' not in line and f'"{__file__}"' not in line)


def _serve(jobs: SimpleQueue[Callable[[], None] | None]) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # or it would be kept, with its events, until the next one


class Threads:
    """One handler's threads: as many as it has calls at the same time, besides those that hang."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._idle: list[_Thread] = []
        self._left: list[_Thread] = []
        weakref.finalize(self, _end, self._idle)

    async def run(self, function: Callable[[], object]) -> object:
        """What the function returns. When cancelled, its thread is left behind and the error tells where it hangs."""
        self._left = [one for one in self._left if one.is_alive()]
        if len(self._left) >= _LEFT_LIMIT:
            raise RuntimeError(f"{len(self._left)} calls of this handler hang in their threads after their timeout")
        thread = self._idle.pop() if self._idle else _Thread(f"{self._name} {next(_numbers)}")
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        thread.jobs.put(partial(_job, contextvars.copy_context(), function, future))
        try:
            value, error = await future
        except asyncio.CancelledError as cancelled:
            cancelled.add_note(f"The thread goes on, without effect. It was here:\n{thread.stack()}")
            thread.jobs.put(None)
            self._left.append(thread)
            raise
        self._idle.append(thread)
        if isinstance(error, KeyboardInterrupt):  # Ctrl-C comes to the main thread alone
            raise RuntimeError("raised KeyboardInterrupt by itself") from error  # noqa: TRY004 - of no argument's type
        if error is not None:
            raise error
        return value


def _job(context: contextvars.Context, function: Callable[[], object], future: asyncio.Future[Result]) -> None:
    result: Result
    try:
        result = context.run(function), None
    except BaseException as error:  # noqa: BLE001 - it is raised again on the loop
        result = None, error
    with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits
        future.get_loop().call_soon_threadsafe(_answer, future, result)


def _answer(future: asyncio.Future[Result], result: Result) -> None:
    if not future.done():
        future.set_result(result)


def _end(threads: list[_Thread]) -> None:
    for thread in threads:
        thread.jobs.put(None)
