"""Several web processes on one port: their start, their end, a crash of one, and restarts one after the other."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import asyncpg
import httpx

from receiver.contract import Post
from receiver.event import EventType
from tests.ports import free_port
from tests.processes import Load, Process, says_up, site
from tests.service import Played, play
from tests.waiting import until

RUNNING_FOR_LONG = """
from receiver import Context, Event, handler
from receiver.cli import processes

processes._START = 0.0  # seconds after the start: they are over


@handler()
async def notes(event: Event, ctx: Context) -> None:
    pass
"""


def posts(played: Played, count: int, run: str) -> Sequence[Post]:
    return [played.posts(EventType.DELIVERED, f"u{n}@one.test", run=f"{run}{n}")[0] for n in range(count)]


async def ready(url: str) -> bool:
    try:
        async with httpx.AsyncClient() as client:
            return (await client.get(f"{url}/readyz")).status_code == 200
    except httpx.TransportError:
        return False


async def both_ready(admin: int) -> None:
    for port in (admin, admin + 1):
        await until(partial(ready, f"http://127.0.0.1:{port}"), within=60)


def alive(pids: Sequence[int]) -> list[int]:
    return [pid for pid in pids if _state(pid) not in {"", "Z"}]


def _state(pid: int) -> str:
    """Of the process table; Z: it has ended, and nobody has asked how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def children(process: Process) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


async def stored(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        found: int = await connection.fetchval("SELECT count(*) FROM events")
        return found
    finally:
        await connection.close()


async def test_several_processes_share_a_port_and_survive_one_of_them(database: str, tmp_path: Path) -> None:
    """`serve --workers 2` serves with two processes; one that is killed is started anew; a stop ends all of them."""
    sendgrid = play("sendgrid", tmp_path)
    admin = free_port() + 100
    async with site(tmp_path, database, sendgrid) as running:
        web = running.process("serve", "--no-dispatch", "--workers", "2", RECEIVER_ADMIN_PORT=str(admin))
        await web.start()
        await both_ready(admin)
        load = Load(f"{running.url}/webhooks/sendgrid", posts(sendgrid, 300, "n"))
        sending = asyncio.create_task(load.run())
        await until(lambda: _some(load, 60))
        first = children(web)
        os.kill(first[0], signal.SIGKILL)
        await sending
        await until(lambda: _again(web, first), within=30)
        await both_ready(admin)
        assert await web.end(signal.SIGTERM) == 0
        assert not alive(first)
    assert load.succeeded == 300
    assert await stored(database) == 300


async def _some(load: Load, least: int) -> bool:
    return load.succeeded >= least


async def _again(web: Process, before: Sequence[int]) -> bool:
    now = children(web)
    return len(now) == len(before) and now != list(before)


async def test_a_signal_to_the_whole_group(database: str, tmp_path: Path) -> None:
    """a signal that comes to all processes, as from systemd, lets each stop in order: it is not doubled."""
    admin = free_port() + 500
    async with site(tmp_path, database, play("sendgrid", tmp_path)) as running:
        web = running.process("serve", "--no-dispatch", "--workers", "2", RECEIVER_ADMIN_PORT=str(admin))
        await web.start()
        await both_ready(admin)
        for pid in children(web):
            os.kill(pid, signal.SIGTERM)
        assert await web.end(signal.SIGTERM) == 0


async def test_killing_the_first_process_ends_the_others(database: str, tmp_path: Path) -> None:
    """where the process that started the others is killed, they stop in order, and a new start has the port."""
    admin = free_port() + 400
    async with site(tmp_path, database, play("sendgrid", tmp_path)) as running:
        web, again = (
            running.process("serve", "--no-dispatch", "--workers", "2", RECEIVER_ADMIN_PORT=str(admin)) for _ in "12"
        )
        await web.start()
        await both_ready(admin)
        orphans = children(web)
        await web.end(signal.SIGKILL)
        try:
            await until(lambda: _gone(orphans), within=30)
        finally:
            for pid in alive(orphans):
                os.kill(pid, signal.SIGKILL)
        assert web.log().count("signal=SIGTERM") == 2
        await again.start()
        await both_ready(admin)
        assert await again.end(signal.SIGTERM) == 0


async def _gone(pids: Sequence[int]) -> bool:
    return not alive(pids)


async def test_processes_that_cannot_start_end_the_service(database: str, tmp_path: Path) -> None:
    """a fault that every process would meet ends the service with its message, not in a loop of restarts."""
    taken = free_port() + 200
    async with site(tmp_path, database, play("sendgrid", tmp_path)) as running:
        blocker = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", taken)
        web = running.process("serve", "--workers", "2", RECEIVER_ADMIN_PORT=str(taken))
        await web.start()
        assert await web.ended() == 1
        assert f"cannot listen on 127.0.0.1:{taken} for administration" in web.log()
        blocker.close()


async def test_a_database_that_does_not_fit_ends_the_service(database: str, tmp_path: Path) -> None:
    """a process that finds a restored dump while it runs ends all, however long they have run."""
    admin = free_port() + 300
    async with site(tmp_path, database, play("sendgrid", tmp_path)) as running:
        (running.directory / "handlers" / "notes.py").write_text(RUNNING_FOR_LONG)
        web = running.process("serve", "--workers", "2", RECEIVER_ADMIN_PORT=str(admin))
        await web.start()
        await both_ready(admin)
        first = children(web)
        sql = await asyncpg.connect(database)
        await sql.execute("UPDATE cursors SET txid = '1000000000000' WHERE shard = 1")
        await sql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await sql.close()
        async with asyncio.timeout(60):
            assert await web.ended() == 1
        assert "receiver cursors rebase" in web.log()
        assert "is started anew" not in web.log()
        assert not alive(first)


async def test_restarts_one_after_the_other_cost_nothing(database: str, tmp_path: Path) -> None:
    """two services on one port are replaced one by one under load: no answer but success, and nothing is lost.

    With one admin port for all in the settings each takes a free one, and those that stay have the first ones.
    """
    sendgrid = play("sendgrid", tmp_path)
    admin = free_port() + 600
    async with site(tmp_path, database, sendgrid) as running:

        async def started() -> Process:
            made = running.process("serve", "--no-dispatch", RECEIVER_REUSE_PORT="true", RECEIVER_ADMIN_PORT=str(admin))
            await made.start()
            await until(lambda: says_up(made), within=60)
            return made

        serving = [await started(), await started()]
        load = Load(f"{running.url}/webhooks/sendgrid", posts(sendgrid, 1500, "n"))
        sending = asyncio.create_task(load.run())
        for _ in range(2):
            serving.append(await started())
            assert await serving.pop(0).end(signal.SIGTERM) == 0
        await sending
        await both_ready(admin)
        assert not await ready(f"http://127.0.0.1:{admin + 2}")
    assert set(load.statuses) == {200}
    assert load.succeeded == 1500
    assert await stored(database) == 1500


async def test_health_while_a_service_is_replaced(database: str, tmp_path: Path) -> None:
    """`serve --workers 2` is replaced by another: `receiver health` asks all that are to stay, old and new ones while
    both stand, and in the end the new ones where the old ones were.
    """
    admin = free_port() + 700
    shared = {
        "RECEIVER_REUSE_PORT": "true",
        "RECEIVER_ADMIN_PORT": str(admin),
        "RECEIVER_DATA_DIR": str(tmp_path / "shared"),
    }
    async with site(tmp_path, database, play("sendgrid", tmp_path)) as running:
        old, new = (running.process("serve", "--no-dispatch", "--workers", "2", **shared) for _ in "12")

        async def health() -> list[str]:
            """The processes that were asked and are well, by where their port is among all; or what is wrong."""
            asked = running.process("health", **shared)
            await asked.start()
            code, said = await asked.ended(), asked.log()
            return (
                [said] if code else re.findall(r"^ok: http://127.0.0.1:(\d+)/readyz answers 200$", said, re.MULTILINE)
            )

        async def well(*places: int) -> bool:
            return await health() == [str(admin + place) for place in places]

        await old.start()
        await until(lambda: well(0, 1), within=60)
        await new.start()
        await until(lambda: well(0, 1, 2, 3), within=60)
        frozen = children(new)[1]
        os.kill(frozen, signal.SIGSTOP)
        (wrong,) = await health()
        assert re.search(rf"http://127.0.0.1:{admin + 2}|http://127.0.0.1:{admin + 3}", wrong)
        assert "does not answer" in wrong
        os.kill(frozen, signal.SIGCONT)
        await until(lambda: well(0, 1, 2, 3))
        assert await old.end(signal.SIGTERM) == 0
        await until(lambda: well(0, 1), within=30)
        assert not await ready(f"http://127.0.0.1:{admin + 2}")
        assert await new.end(signal.SIGTERM) == 0
        assert "does not answer" in (await health())[0]
