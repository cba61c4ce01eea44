"""CPU time of processes, user and system, in seconds. For Linux."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Final

_TICK: Final = os.sysconf("SC_CLK_TCK")
_SCHEDULED: Final = 2  # CPUCLOCK_SCHED of <linux/posix-timers.h>: what the scheduler has counted, in nanoseconds


def of_process(pid: int) -> float:
    """All threads of a process, ended ones too. Raises OSError where there is no such process."""
    # What clock_getcpuclockid() makes of a pid; /proc/PID/stat counts in hundredths of a second.
    return time.clock_gettime((~pid << 3) | _SCHEDULED)


def of_tree(pid: int, *, without: Collection[int] = ()) -> float:
    """A process, its living children except some, and those that have ended: all of a Postgres server."""
    while True:
        ended = _of_ended_children(pid)
        total = ended + of_process(pid)
        try:
            total += sum(of_process(child) for child in _children(pid) if child not in without)
        except OSError:  # one has just ended, and counts among the ended ones from now on
            continue
        if _of_ended_children(pid) == ended:
            return total


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _of_ended_children(pid: int) -> float:
    # After the name, which may hold anything, the fields are counted from the third; 16 and 17 are cutime and cstime.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / _TICK
