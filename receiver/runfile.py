"""The run file: how a second command line finds the service that runs from the same data directory."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Final

from receiver.embedded.data_dir import LOCK
from receiver.private_files import read_json, write_json

RUN_FILE: Final = "run.json"
_START_TIME: Final = 19  # of /proc/<pid>/stat, counted after the name in parentheses: field 22 of proc(5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A running service. `born` tells its process from a later one with the same id."""

    url: str
    admin_url: str
    database: str = field(repr=False)
    demo: bool
    config: str | None
    pid: int
    born: str


def this_run(*, url: str, admin_url: str, database: str, demo: bool, config: str | None) -> Run:
    """The run file's content for this process."""
    pid = os.getpid()
    return Run(url=url, admin_url=admin_url, database=database, demo=demo, config=config, pid=pid, born=_born(pid))


@contextmanager
def kept(data_dir: Path, run: Run) -> Iterator[None]:
    """Keep the run file while the block runs. Raises OSError where it cannot be written."""
    _make_ours(data_dir)
    write_json(data_dir / RUN_FILE, asdict(run))
    try:
        yield
    finally:
        if _read(data_dir) == run:  # not that of another process, which has started since
            (data_dir / RUN_FILE).unlink(missing_ok=True)


def _make_ours(data_dir: Path) -> None:
    """A data directory is known by its lock file; a directory with other files, perhaps mistyped, is left alone."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = {path.name for path in data_dir.iterdir()}
    if names and LOCK not in names:
        raise FileExistsError(errno.EEXIST, "it holds other files and is no data directory", str(data_dir))
    (data_dir / LOCK).touch(mode=0o600)


def find_run(data_dir: Path) -> Run | None:
    """The service that runs from this data directory, or None; a file whose process has ended is ignored."""
    run = _read(data_dir)
    return run if run and _alive(run) else None


def _read(data_dir: Path) -> Run | None:
    value = read_json(data_dir / RUN_FILE)
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
