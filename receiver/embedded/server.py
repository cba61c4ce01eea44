"""Making the cluster, starting the server, stopping it."""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Final, Self
from urllib.parse import quote

from receiver.embedded.data_dir import DataDirLock, lock_data_dir, open_private
from receiver.embedded.places import PORT, Places, environment, find_places
from receiver.errors import EmbeddedError

USER: Final = "receiver"
DATABASE: Final = "receiver"

SETTINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "shared_buffers": "128MB",
        "max_connections": "50",
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_error_verbosity": "terse",  # DETAIL lines quote the values of rows, addresses among them
    }
)
"""What callers of `start` may override. Settings not named here are PostgreSQL's own: durable."""

_FIXED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "listen_addresses": "",
        "port": str(PORT),
        "unix_socket_permissions": "0700",
        "logging_collector": "off",
    }
)

_POLL: Final = 0.01  # seconds
_STOP_LIMIT: Final = 30.0  # seconds for a clean shutdown, and again for an immediate one
_LOG_LIMIT: Final = 10_000_000  # bytes; a longer log is put aside at the next start
_PR_SET_PDEATHSIG: Final = 1  # <linux/prctl.h>
_STATUS_LINE: Final = 7  # the last line of postmaster.pid; the first is the pid


@dataclass(slots=True, kw_only=True)
class Running:
    """A server that accepts connections, until `stop` or the end of the process that started it."""

    version: str  # "18.6"
    sockets: Path
    log: Path
    process: "subprocess.Popen[bytes]"
    lock: DataDirLock | None  # None: the caller of `start` keeps it

    @property
    def pid(self) -> int:
        return self.process.pid

    def dsn(self, database: str = DATABASE) -> str:
        """A URL that asyncpg and psql understand; it holds no secret."""
        return f"postgresql://{USER}@/{quote(database)}?host={quote(str(self.sockets), safe='')}&port={PORT}"

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Ends the server: SIGINT cleanly, SIGQUIT as a crash would. Does nothing where it has ended."""
        for number in (how, signal.SIGQUIT, signal.SIGKILL):
            self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_STOP_LIMIT)
                break
        with contextlib.suppress(OSError):
            self.sockets.rmdir()  # empty only where it was made for nothing but the socket
        if self.lock is not None:
            self.lock.release()

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
    """Starts the server of `data_dir`; the first time makes its cluster and the database ``receiver``.

    `settings` go over `SETTINGS`. `lock` is a lock on `data_dir` that the caller holds and keeps; without it
    the lock is taken here and released by `Running.stop`. Blocks for about a second the first time and a
    quarter of one later; `timeout` (seconds) leaves room for crash recovery.

    Raises `EmbeddedError`, quoting the server's log, where it does not start.
    """
    if threading.current_thread() is not threading.main_thread():
        # Linux sends the parent-death signal when the *thread* that started the server ends.
        raise RuntimeError("the embedded Postgres must be started from the main thread")
    if lock is None:
        own = lock_data_dir(data_dir)
        try:
            running = start(data_dir, settings=settings, lock=own, timeout=timeout)
        except BaseException:  # whatever happened, Ctrl-C included, the directory is free again
            own.release()
            raise
        running.lock = own
        return running
    places = find_places(lock.data_dir)
    _stop_leftover(places.cluster)
    if not places.cluster.exists():
        _create_cluster(places)
    _check_version(places)
    return launch(places, settings, timeout)


def _create_cluster(places: Places) -> None:
    """Made under another name and renamed when complete: an interrupted start leaves no half cluster."""
    unfinished = places.cluster.with_name("postgres.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    places.run(
        "initdb",
        *("-D", unfinished, "-U", USER, "--auth=trust", "--encoding=UTF8", "--no-instructions"),
        *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
    )
    places.run("postgres", "--single", "-D", unfinished, "postgres", stdin=f"CREATE DATABASE {DATABASE}\n")
    unfinished.rename(places.cluster)


def _check_version(places: Places) -> None:
    made_by = (places.cluster / "PG_VERSION").read_text().strip()
    if made_by != places.version.partition(".")[0]:
        raise EmbeddedError(
            f"{places.cluster} was made by PostgreSQL {made_by}, and the embedded one is {places.version}: "
            f"dump it with PostgreSQL {made_by}, or move it away to begin with an empty database"
        )


def launch(places: Places, settings: Mapping[str, str], timeout: float) -> Running:
    """Starts the server of a cluster that exists; parameters and errors are those of `start`."""
    if places.log.exists() and places.log.stat().st_size > _LOG_LIMIT:
        places.log.replace(places.log.with_suffix(".log.1"))
    deadline = time.monotonic() + timeout
    while True:
        with open_private(places.log) as log:
            before = log.seek(0, os.SEEK_END)
            process = _spawn(places, {**SETTINGS, **settings, **_FIXED}, log)
            if _becomes_ready(process, places.cluster, deadline):
                return Running(
                    version=places.version, sockets=places.sockets, log=places.log, process=process, lock=None
                )
            log.seek(before)
            said = log.read()[-4000:]
        # Processes of a server that was just killed may still hold its memory; they end by themselves.
        if "pre-existing shared memory block" not in said or time.monotonic() > deadline:
            last = "\n".join(said.splitlines()[-20:])
            raise EmbeddedError(f"the embedded Postgres did not start; the end of {places.log}:\n{last}")
        time.sleep(_POLL)


def _spawn(places: Places, settings: Mapping[str, str], log: IO[str]) -> "subprocess.Popen[bytes]":
    quoted = str(places.sockets).replace('"', '""')
    options = {**settings, "unix_socket_directories": f'"{quoted}"'}
    return subprocess.Popen(
        [
            *(places.binaries / "postgres", "-D", places.cluster),
            *(part for name, value in options.items() for part in ("-c", f"{name}={value}")),
        ],
        user=places.account.uid,
        group=places.account.gid,
        extra_groups=places.account.groups,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd="/",
        env=environment(),
        start_new_session=True,  # the terminal's Ctrl-C is for the service, which stops the server itself
        preexec_fn=_end_with(os.getpid()) if sys.platform == "linux" else None,  # noqa: PLW1509 - it calls two C functions and takes no lock
    )


def _end_with(parent: int) -> Callable[[], None]:
    """For the forked child once it has changed its user (which would clear this): end with the parent."""
    prctl = ctypes.CDLL(None).prctl

    def ask_for_signal() -> None:
        if prctl(_PR_SET_PDEATHSIG, signal.SIGINT) != 0 or os.getppid() != parent:
            os._exit(1)

    return ask_for_signal


def _becomes_ready(process: "subprocess.Popen[bytes]", cluster: Path, deadline: float) -> bool:
    """False where it is not; it has ended then."""
    ready = False
    try:
        while not ready and process.poll() is None and time.monotonic() < deadline:
            time.sleep(_POLL)
            lines = _pid_file(cluster)
            ready = lines[:1] == [str(process.pid)] and lines[_STATUS_LINE:] == ["ready"]
    finally:
        if not ready:  # also after Ctrl-C: nobody else would end it
            process.send_signal(signal.SIGQUIT)
            process.wait()
    return ready


def _stop_leftover(cluster: Path) -> None:
    """Ends a server that has outlived its service, and clears away a pid file that misleads the next one.

    Whoever calls this holds the data directory's lock, so nobody uses that server. After a power loss the
    number in the file may be that of any other process, which PostgreSQL would take for a running server.
    """
    lines = _pid_file(cluster)
    if not lines or not lines[0].isdecimal():
        return
    pid = int(lines[0])
    if not _serves(pid, cluster):
        (cluster / "postmaster.pid").unlink(missing_ok=True)
        return
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + _STOP_LIMIT
        while time.monotonic() < deadline:
            if not _serves(pid, cluster):
                return
            time.sleep(_POLL)
    raise EmbeddedError(f"process {pid} still serves {cluster} and can't be ended")


def _serves(pid: int, cluster: Path) -> bool:
    """Whether the process lives and is the server of this cluster; a dead one that nobody reaped is not."""
    if sys.platform == "linux":
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return False
    else:
        command = subprocess.run(
            ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, check=False
        ).stdout
    return b"postgres" in command and os.fsencode(cluster) in command


def _pid_file(cluster: Path) -> list[str]:
    try:
        return [line.strip() for line in (cluster / "postmaster.pid").read_text().splitlines()]
    except FileNotFoundError:
        return []
