"""Several web processes that share one listening socket: started, watched and stopped by the one that opened it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Final, NoReturn

import structlog

from receiver.cli.failures import FAILED

log = structlog.get_logger("service")

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_START: Final = 10.0  # seconds after our start within which a process that fails ends all: it would fail again
UNFIT: Final = 3  # exit code of a process whose database does not suit this release, nor any other process: ends all
_PAUSE: Final = 1.0  # seconds before a process that ended by itself is started anew


def run_several(count: int, run: Callable[[int], int]) -> int:
    """Run `run(number)` in `count` processes until a signal ends them; the first exit code that is not 0, else 0.

    A process that ends by itself is started anew, unless it cannot even start. One that ends as UNFIT ends all. They
    stop in order also when this process is killed. To be called without a running loop and without threads, because
    the processes are forked: they share what the caller has opened.
    """
    return _Processes(run).supervise(count)


class _Processes:
    def __init__(self, run: Callable[[int], int]) -> None:
        self._run = run
        self._numbers: dict[int, int] = {}
        self._stopping = False
        self._code = 0
        # Nothing is ever written: the reading end comes to its end when the process that holds the other one is gone.
        self._watched, self._held = os.pipe()

    def supervise(self, count: int) -> int:
        before = {number: signal.signal(number, self._stop) for number in SIGNALS}
        started = time.monotonic()
        try:
            for number in range(count):
                self._start(number)
            while self._numbers:
                pid, status = os.wait()
                self._ended(self._numbers.pop(pid), os.waitstatus_to_exitcode(status), started)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(self._watched)
            os.close(self._held)
        return self._code

    def _start(self, number: int) -> None:
        pid = os.fork()
        if pid == 0:
            self._child(number)
        self._numbers[pid] = number
        if self._stopping:  # the signal came while it was made
            os.kill(pid, signal.SIGTERM)

    def _child(self, number: int) -> NoReturn:
        for one in SIGNALS:
            signal.signal(one, signal.SIG_DFL)
        os.close(self._held)
        threading.Thread(target=self._stop_as_an_orphan, name="orphan", daemon=True).start()
        code = 1
        try:
            code = self._run(number)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # what the caller has opened is the caller's to close

    def _stop_as_an_orphan(self) -> None:
        """Else it would keep the port, which a new start would then find taken."""
        os.read(self._watched, 1)
        log.error("the process that started this one is gone: stopping", action="orphaned")
        os.kill(os.getpid(), signal.SIGTERM)

    def _ended(self, number: int, code: int, started: float) -> None:
        failed = FAILED if code == UNFIT else code
        if self._stopping:
            self._code = self._code or failed
            return
        if code == UNFIT or (code > 0 and time.monotonic() - started < _START):
            self._code = failed
            self._stop(0)  # nobody's signal
            return
        log.error("a web process ended and is started anew", action="process_ended", number=number, code=code)
        time.sleep(_PAUSE)
        if not self._stopping:
            self._start(number)

    def _stop(self, received: int, _frame: object = None) -> None:
        """Ask all to stop, by another signal than we have received.

        That one may have come to the whole group, from systemd or a terminal, and a second of its kind ends at once.
        """
        self._stopping = True
        for pid in list(self._numbers):
            os.kill(pid, signal.SIGHUP if received == signal.SIGTERM else signal.SIGTERM)
