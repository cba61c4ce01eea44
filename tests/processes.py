"""The service as separate processes, started by the command line as an operator would."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from receiver.contract import Post
from tests.pgbouncer import through
from tests.ports import free_port
from tests.service import SECRET_KEY, Played
from tests.waiting import until


class Process:
    """One process of `python -m PROGRAM ARGUMENT...`."""

    def __init__(
        self,
        arguments: Sequence[str],
        environ: Mapping[str, str],
        directory: Path,
        number: int,
        program: Sequence[str] = ("receiver",),
    ) -> None:
        self._arguments = arguments
        self._program = program
        self._environ = environ
        self._directory = directory
        self._log = directory / f"{number}-{'-'.join(arguments)}.log"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", *self._program, *self._arguments),
                env=dict(self._environ),
                cwd=self._directory,
                stdout=log,
                stderr=log,
            )

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def send(self, which: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        if self.running:
            assert self._process is not None
            self._process.send_signal(which)

    async def ended(self) -> int:
        """The exit code, once it has ended by itself."""
        assert self._process is not None
        return await self._process.wait()

    async def end(self, how: signal.Signals) -> int:
        assert self._process is not None
        if self.running:
            self._process.send_signal(how)
        return await self._process.wait()

    def log(self) -> str:
        return self._log.read_text(errors="replace")


async def says_up(process: Process) -> bool:
    """Whether a process that serves has said so."""
    assert process.running, process.log()
    return "The receiver is up" in process.log()


class Site:
    """A directory with configuration and handlers, and the processes that run over it."""

    def __init__(self, directory: Path, dsn: str, played: Iterable[Played]) -> None:
        self.directory = directory
        self.port = free_port()
        self.processes: list[Process] = []
        (directory / "handlers").mkdir(exist_ok=True)
        sources = {one.source.name: _raw(one) for one in played}
        self._environ = {
            **{key: value for key, value in os.environ.items() if not key.startswith("RECEIVER_")},
            "RECEIVER_DATABASE": through(dsn),
            "RECEIVER_SECRET_KEY": SECRET_KEY,
            "RECEIVER_SOURCES": json.dumps(sources),
            "RECEIVER_PORT": str(self.port),
            "RECEIVER_ADMIN_PORT": "0",
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def process(self, *arguments: str, program: Sequence[str] = ("receiver",), **environ: str) -> Process:
        """A process that is not started yet; `environ` has further settings."""
        number = len(self.processes)
        environ = {**self._environ, "RECEIVER_DATA_DIR": str(self.directory / f"data{number}"), **environ}
        made = Process(arguments, environ, self.directory, number, program)
        self.processes.append(made)
        return made

    async def serving(self, process: Process) -> None:
        async def answers() -> bool:
            assert process.running, process.log()
            with contextlib.suppress(httpx.TransportError):
                async with httpx.AsyncClient() as client:
                    return (await client.get(f"{self.url}/healthz")).status_code == 200
            return False

        await until(answers, within=180)


def _raw(one: Played) -> dict[str, object]:
    values = one.source.settings.model_dump(exclude_none=True, mode="python")
    return json.loads(json.dumps(values, default=lambda secret: secret.get_secret_value()))  # type: ignore[no-any-return]  # a JSON object


@asynccontextmanager
async def site(directory: Path, dsn: str, *played: Played) -> AsyncIterator[Site]:
    """A Site whose processes are gone at the end, whatever happened."""
    made = Site(directory, dsn, played)
    try:
        yield made
    finally:
        for process in made.processes:
            if process.running:
                await process.end(signal.SIGKILL)


class Load:
    """Posts that are repeated, as a provider does, until each is answered with success.

    `posts` are asked for one by one, so that they may be without end: `stop` is theirs.
    """

    def __init__(self, url: str, posts: Iterable[Post]) -> None:
        self._url = url
        self._todo: Iterator[Post] = iter(posts)
        self.succeeded = 0
        self.failed = 0
        self.statuses: Counter[int] = Counter()

    async def run(self, clients: int = 8) -> None:
        async with httpx.AsyncClient(timeout=20) as client:
            await asyncio.gather(*(self._client(client) for _ in range(clients)))

    def stop(self) -> None:
        """Begin no other post."""
        self._todo = iter(())

    async def _client(self, client: httpx.AsyncClient) -> None:
        while post := next(self._todo, None):
            while not await self._once(client, post):  # noqa: ASYNC110 - a provider pauses before it tries again
                await asyncio.sleep(0.05)

    async def _once(self, client: httpx.AsyncClient, post: Post) -> bool:
        try:
            answer = await client.post(self._url, content=post.body, headers=dict(post.headers))
        except httpx.TransportError:  # the process was killed
            self.failed += 1
            return False
        self.statuses[answer.status_code] += 1
        self.succeeded += answer.status_code == 200
        self.failed += answer.status_code != 200
        return answer.status_code == 200
