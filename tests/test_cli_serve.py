"""`receiver serve` and `work` as processes: the demo from an empty directory, stopping, starting again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from receiver.embedded import lock_data_dir
from receiver.providers import providers
from tests.postgres import remove
from tests.service import SECRET_KEY
from tests.waiting import until

ROOT = Path(__file__).parents[1]
HANDLER = '''
from receiver import Context, Event, handler


@handler()
async def remember(event: Event, ctx: Context) -> None:
    """Remember who it was."""
    await ctx.sql.execute("CREATE TABLE IF NOT EXISTS remembered (recipient text)")
    await ctx.sql.execute("INSERT INTO remembered VALUES ($1)", event.recipient)
'''


class Home:
    """A directory in which commands are run."""

    def __init__(self, directory: Path, environ: Mapping[str, str]) -> None:
        self.directory = directory
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RECEIVER_", "DATABASE"))}
        ports = {"RECEIVER_PORT": "0", "RECEIVER_ADMIN_PORT": "0"}
        self._environ = kept | ports | {"PYTHONPATH": str(ROOT)} | dict(environ)

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "receiver", *arguments),
            env=self._environ,
            cwd=self.directory,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *arguments: str) -> tuple[int | None, str, str]:
        process = await self.start(*arguments)
        out, err = await asyncio.wait_for(process.communicate(), 60)
        return process.returncode, out.decode(), err.decode()

    @asynccontextmanager
    async def running(
        self, *arguments: str, ready: tuple[str, ...] = ("health",)
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await self.start(*arguments)

        async def up() -> bool:
            assert process.returncode is None, (await process.communicate())[1].decode()
            return (await self.run(*ready))[0] == 0

        try:
            await until(up, within=60)
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    (tmp_path / "handlers").mkdir()
    yield Home(tmp_path, {})
    if (tmp_path / ".receiver").exists():
        remove(tmp_path / ".receiver")


async def stop(process: asyncio.subprocess.Process, how: signal.Signals) -> tuple[int, str, str]:
    process.send_signal(how)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_demo(home: Home) -> None:
    """one command gives a working service; it stops cleanly, and the next start finds its data again"""
    (home.directory / "handlers" / "remember.py").write_text(HANDLER)
    async with home.running("serve", "--demo") as process:
        for name in ("postmark", "sendgrid", "ses"):
            code, out, err = await home.run("simulate", name, "delivered")
            assert code == 0, out + err
        code, out, _ = await home.run("events", "list", "--json")
        assert {json.loads(line)["provider"] for line in out.splitlines()} == {"postmark", "sendgrid", "ses"}
        code, sources, _ = await home.run("sources", "--json")
        assert {json.loads(line)["name"] for line in sources.splitlines()} == set(providers())

        async def handled() -> bool:
            _, out, _ = await home.run("handlers", "--json")
            rows = [json.loads(line) for line in out.splitlines()]
            return [(row["handler"], row["lag_events"]) for row in rows] == [("remember", 0)]

        await until(handled)
        ended, banner, _ = await stop(process, signal.SIGTERM)
    assert ended == 0
    for word in ("embedded", "remember", "Remember who it was", "receiver simulate", "PINNED", "/webhooks/postmark"):
        assert word in banner
    assert not list((home.directory / ".receiver").glob("run-*.json"))
    with lock_data_dir(home.directory / ".receiver"):
        pass  # nobody holds it any more
    async with home.running("serve", "--demo") as process:
        _, again, _ = await home.run("events", "list", "--json")
        assert again == out
        assert (await home.run("simulate", "sendgrid", "opened"))[0] == 0
        assert (await stop(process, signal.SIGINT))[0] == 0


async def test_split_roles(home: Home, database: str) -> None:
    """web and worker run apart, on a database that somebody else has migrated, and both stop cleanly"""
    (home.directory / "handlers" / "remember.py").write_text(HANDLER)
    (home.directory / "receiver.toml").write_text(
        f'database = "{database}"\nsecret_key = "{SECRET_KEY}"\n'
        '[sources.shop]\nprovider = "postmark"\npassword = "Zz9-postmark-password-of-the-test"\n'
    )
    async with (
        home.running("serve", "--no-dispatch") as web,
        home.running("work", ready=("health", "--worker")) as worker,
    ):
        assert (await home.run("simulate", "shop", "bounced"))[0] == 0

        async def handled() -> bool:
            _, out, _ = await home.run("handlers", "--json")
            return [json.loads(line)["lag_events"] for line in out.splitlines()] == [0]

        await until(handled)
        for process in (worker, web):
            code, _, err = await stop(process, signal.SIGTERM)
            assert code == 0, err
            assert database not in err
    assert (home.directory / ".receiver").stat().st_mode & 0o077 == 0


async def test_broken_handler(home: Home) -> None:
    """a handler that cannot be imported stops the start with its file, line and reason"""
    (home.directory / "handlers" / "broken.py").write_text("import nothing_of_this_name\n")
    code, _, err = await home.run("serve", "--demo")
    assert code == 2
    assert "broken.py" in err
    assert "nothing_of_this_name" in err
    assert "Traceback" not in err
    code, _, err = await home.run("serve", "--demo", "--debug")
    assert "ModuleNotFoundError" in err


async def test_database_away(home: Home) -> None:
    """serve and work say in one line that the database cannot be reached, without its password"""
    (home.directory / "handlers" / "remember.py").write_text(HANDLER)
    (home.directory / "receiver.toml").write_text(
        f'database = "postgresql://u:cAnArY@127.0.0.1:1/d"\nsecret_key = "{SECRET_KEY}"\n'
        '[sources.shop]\nprovider = "postmark"\npassword = "Zz9-postmark-password-of-the-test"\n'
    )
    for role in ("serve", "work"):
        code, out, err = await home.run(role)
        assert code == 1
        assert "cannot connect to postgresql://u@127.0.0.1:1/d" in err
        assert "cAnArY" not in out + err


async def test_reader_that_leaves(home: Home) -> None:
    """a service goes on when the reader of its output has gone"""
    process = await home.start("serve", "--demo")
    assert process.stdout is not None
    with contextlib.closing(process._transport.get_pipe_transport(1)):  # type: ignore[attr-defined]  # asyncio has no other way to close one pipe
        pass

    async def up() -> bool:
        return (await home.run("health"))[0] == 0

    try:
        await until(up, within=60)
        assert (await home.run("simulate", "postmark", "bounced"))[0] == 0
    finally:
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 60) == 0
