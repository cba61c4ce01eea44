"""Notices that something blocks the event loop, and says which handler it is and where."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Collection, Iterator
from types import CodeType, FrameType, TracebackType
from typing import Final, Self

from structlog.typing import FilteringBoundLogger

from receiver.dispatch.calling import Caller
from receiver.dispatch.failing import clean

_EVERY: Final = 0.25  # seconds between questions to the loop
_MISSED: Final = 4  # questions in a row without an answer; not a time, which would pass while the machine sleeps
_LONGEST_STACK: Final = 8_000


class Watchdog:
    """A thread that asks the loop for a sign of life, four times a second, as long as the `with` block lasts."""

    def __init__(self, callers: Collection[Caller], log: FilteringBoundLogger) -> None:
        self._callers = callers
        self._log = log
        self._ended = threading.Event()
        self._answered = True

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()

    def _watch(self) -> None:
        missed, asked_at = 0, time.monotonic()
        while not self._ended.wait(_EVERY):
            if self._answered:
                if missed >= _MISSED:
                    self._log.warning("loop_free", blocked_for=round(time.monotonic() - asked_at, 1))
                missed, asked_at, self._answered = 0, time.monotonic(), False
                try:
                    self._loop.call_soon_threadsafe(self._answer)
                except RuntimeError:  # it is closed
                    return
            else:
                missed += 1
                if missed == _MISSED:
                    self._tell()

    def _answer(self) -> None:
        self._answered = True

    def _tell(self) -> None:
        frame = sys._current_frames().get(self._watched)  # noqa: SLF001 - documented, for debuggers
        if frame is None or self._answered:
            return
        frames = list(_frames(frame))
        handler = _called(frames) or self._by_file(frames)
        inside = _inside(frames)
        stack = "".join(traceback.StackSummary.extract((one, one.f_lineno) for one in reversed(inside)).format())
        self._log.error("loop_blocked", handler=handler, stack=clean(stack, limit=_LONGEST_STACK))

    def _by_file(self, frames: list[FrameType]) -> str | None:
        """The handler in whose file the loop is, or all of that file: a handler's own tasks are not below its call."""
        files = {one.f_code.co_filename for one in frames}
        return " or ".join(one.handler.name for one in self._callers if _code(one).co_filename in files) or None


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """From the innermost outward."""
    while frame is not None:
        yield frame
        frame = frame.f_back


_CALL: Final = Caller.call.__code__


def _called(frames: list[FrameType]) -> str | None:
    for frame in frames:
        if frame.f_code is _CALL:
            caller: Caller = frame.f_locals["self"]
            return caller.handler.name
    return None


def _inside(frames: list[FrameType]) -> list[FrameType]:
    """What the handler's call has led to, or everything."""
    index = next((n for n, frame in enumerate(frames) if frame.f_code is _CALL), len(frames))
    return frames[:index] or frames


def _code(caller: Caller) -> CodeType:
    code: CodeType = getattr(caller.handler.function, "__code__", _CALL)
    return code
