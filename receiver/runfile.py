"""Run files: how a second command line finds what runs from the same data directory. Each process has its own."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from operator import itemgetter
from pathlib import Path
from typing import Final

from receiver.embedded.data_dir import LOCK
from receiver.private_files import read_json, write_json

RUN_FILES: Final = "run-*.json"
_START_TIME: Final = 19  # of /proc/<pid>/stat, counted after the name in parentheses: field 22 of proc(5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A running process. `url`: None for a worker. `born` tells it from a later process with the same id."""

    url: str | None
    admin_url: str
    database: str = field(repr=False)
    demo: bool
    pid: int
    born: str


def this_run(*, url: str | None, admin_url: str, database: str, demo: bool) -> Run:
    """What the run file of this process says."""
    pid = os.getpid()
    return Run(url=url, admin_url=admin_url, database=database, demo=demo, pid=pid, born=_born(pid))


@contextmanager
def kept(data_dir: Path, run: Run) -> Iterator[None]:
    """Keep the run file while the block runs. Raises OSError where it cannot be written."""
    _make_ours(data_dir)
    _forget_the_dead(data_dir)
    path = data_dir / f"run-{run.pid}.json"
    write_json(path, asdict(run))
    try:
        yield
    finally:
        if _read(path) == run:  # not what another process has written since
            path.unlink(missing_ok=True)


def _forget_the_dead(data_dir: Path) -> None:
    for path in data_dir.glob(RUN_FILES):
        run = _read(path)
        if run and not _alive(run):  # one that cannot be read may be another release's
            path.unlink(missing_ok=True)


def _make_ours(data_dir: Path) -> None:
    """A data directory is known by its lock file; a directory with other files, perhaps mistyped, is left alone."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = {path.name for path in data_dir.iterdir()}
    if names and LOCK not in names:
        raise FileExistsError(errno.EEXIST, "it holds other files and is no data directory", str(data_dir))
    (data_dir / LOCK).touch(mode=0o600)


def find_runs(data_dir: Path) -> list[Run]:
    """The processes that run from this data directory, the last that came first; those that have ended are left out."""
    found = [(_written(path), _read(path)) for path in data_dir.glob(RUN_FILES)]
    found.sort(key=itemgetter(0), reverse=True)
    return [run for _, run in found if run and _alive(run)]


def _written(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # it has just gone
        return 0


def _read(path: Path) -> Run | None:
    value = read_json(path)
    if value is None or set(value) != {one.name for one in fields(Run)} or not isinstance(value["pid"], int):
        return None
    return Run(**value)


def _alive(run: Run) -> bool:
    try:
        os.kill(run.pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass  # another user's process, which lives
    return _born(run.pid) == run.born


def _born(pid: int) -> str:
    """The process's start in ticks since boot; empty where the system does not tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[_START_TIME]
    except (OSError, IndexError):
        return ""
