"""Where the files of a test run are: in memory, where there is plenty of it."""

import os
import tempfile
from pathlib import Path

MEMORY = Path("/dev/shm")
ROOM = 4 << 30  # bytes; a run takes less than two


def use_memory() -> None:
    """For this process and those it starts. A database is made ten times as fast there as on a disk.

    Who sets TMPDIR says where instead.
    """
    if "TMPDIR" not in os.environ and _has_room():
        tempfile.tempdir = os.environ["TMPDIR"] = str(MEMORY)


def _has_room() -> bool:
    try:
        system = os.statvfs(MEMORY)
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # another system than Linux
        return False
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    free = min(system.f_bavail * system.f_frsize, available)
    return free >= ROOM and not system.f_flag & os.ST_NOEXEC and os.access(MEMORY, os.W_OK)
