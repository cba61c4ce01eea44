"""CPU time of processes, from /proc."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_TICK: Final = os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def of_process(pid: int) -> float:
    """Seconds of CPU a process has used, user and system."""
    # In nanoseconds, where `stat` has ticks of 10 ms.
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def of_tree(pid: int) -> float:
    """Seconds of CPU of a process, its living children, and those that have ended: all of a Postgres server."""
    ended = _stat(pid)[13:15]
    total = of_process(pid) + sum(map(int, ended)) / _TICK
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in children:
        try:
            total += of_process(int(child))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile and counts among the parent's ended ones next time
    return total
