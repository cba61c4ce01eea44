"""The processes that are measured, and the one that makes the load. Each speaks lines of JSON on standard output."""

from __future__ import annotations

import asyncio
import json
import pickle
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import asyncpg
import uvloop

from receiver import Context, Event, handler
from receiver.contract import Delivery, Item, World
from receiver.dispatch.worker import Worker
from receiver.ingest.normalize import row_of
from receiver.outbound import Outbound
from receiver.providers import providers
from receiver.sources import Source
from receiver.store import intake
from receiver.vault import Vault
from receiver.web.listen import address, bind, server
from receiver.web.service import Listening, Service, serve

SECRET_KEY = "only for measuring, long enough for a key"


def say(**values: Any) -> None:
    """One line for the parent."""
    print(json.dumps(values), flush=True)


def sources(directory: Path) -> dict[str, Source]:
    """The demo sources whose settings the parent has written."""
    settings = json.loads((directory / "sources.json").read_text())
    world = World(fetch=Outbound().fetch)
    found = {}
    for name, raw in settings.items():
        kind = providers()[name]
        bound = kind.Settings.model_validate(raw)
        found[name] = Source(name=name, provider=kind(bound, world), settings=bound)
    return found


def stopped() -> asyncio.Event:
    """Set when the parent asks the process to end."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    return stop


async def floor() -> None:
    """A raw ASGI application on the same server and settings that only reads the body and answers."""

    async def application(_scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"3")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok\n"})

    listener = bind("127.0.0.1", 0, "the floor")
    one = server(application)
    stop = stopped()
    serving = asyncio.create_task(one.serve(sockets=[listener]))
    say(url=address(listener))
    await stop.wait()
    one.should_exit = True
    await serving


async def service(dsn: str, directory: Path) -> None:
    """The real service, without handlers."""

    def ready(listening: Listening) -> None:
        say(url=listening.url)

    configured = Service(dsn=dsn, vault=Vault(SECRET_KEY), sources=sources(directory), port=0, admin_port=0)
    await serve(configured, stopped(), ready)


async def worker(dsn: str) -> None:
    """A worker with three batch handlers that do nothing."""

    async def nothing(events: Sequence[Event], ctx: Context) -> None:
        pass

    handlers = [handler(batch=True, machines=True, tests=True, name=f"nothing{n}")(nothing) for n in range(3)]
    running = Worker(dsn=dsn, handlers=handlers, vault=Vault(SECRET_KEY))
    say(started=True)
    await running.run(stopped())


async def copy(dsn: str, directory: Path, posts_file: Path) -> None:
    """The same rows by a bare COPY over two connections; prepared before the parent says go."""
    source = sources(directory)["sendgrid"]
    batches = [list(_rows(source, body)) for body in _unpickled(posts_file)]
    connections = [await asyncpg.connect(dsn) for _ in range(2)]
    for connection in connections:
        await intake.prepare(connection)
        await connection.copy_records_to_table("events", records=[], columns=intake.COLUMNS)
    say(ready=sum(map(len, batches)))
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    before, left = time.process_time(), iter(batches)

    async def copying(connection: asyncpg.Connection) -> None:
        for rows in left:
            await connection.copy_records_to_table("events", records=rows, columns=intake.COLUMNS)

    started = time.perf_counter()
    await asyncio.gather(*(copying(connection) for connection in connections))
    say(cpu=time.process_time() - before, seconds=time.perf_counter() - started)
    for connection in connections:
        await connection.close()


def _rows(source: Source, body: bytes) -> Iterator[intake.Row]:
    at = Delivery(source=source.name, headers={}, body=body).at
    for item in source.provider.parse(body):
        assert isinstance(item, Item)
        for reading in source.provider.read(item):
            yield row_of(source, item, reading, at)


class Client(asyncio.Protocol):
    """One connection that sends the next request when the answer to the last is whole. As cheap as Python allows:
    what the load costs is not counted, but it takes its time on the same cores."""

    def __init__(self, posts: Iterator[tuple[int, bytes]], rate: float, started: float, times: list[float]) -> None:
        self._posts, self._rate, self._started, self._times = posts, rate, started, times
        self._buffer, self._sent = b"", 0.0
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        self._next()

    def _next(self) -> None:
        found = next(self._posts, None)
        if found is None:
            self._transport.close()
            self.finished.set_result(None)
            return
        number, post = found
        wait = self._started + number / self._rate - time.perf_counter() if self._rate else 0
        if wait > 0:
            asyncio.get_running_loop().call_later(wait, self._write, post)
        else:
            self._write(post)

    def _write(self, post: bytes) -> None:
        self._sent = time.perf_counter()
        self._transport.write(post)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if end and len(body) >= int(head.rpartition(b"content-length: ")[2].partition(b"\r")[0]):
            if not head.startswith(b"HTTP/1.1 200"):
                self.finished.set_exception(RuntimeError(head.decode()))
                return
            self._buffer = b""
            self._times.append(time.perf_counter() - self._sent)
            self._next()


async def load(url: str, posts_file: Path, clients: int, rate: float) -> None:
    """Send prepared requests over `clients` connections; `rate` per second, 0 as fast as they are answered."""
    posts: Iterator[tuple[int, bytes]] = enumerate(_unpickled(posts_file))
    host, port = url.removeprefix("http://").split(":")
    started = time.perf_counter()
    times: list[float] = []
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: Client(posts, rate, started, times), host, int(port))
        for _ in range(clients)
    ]
    await asyncio.gather(*(client.finished for _, client in made))
    seconds = time.perf_counter() - started
    times.sort()
    say(
        acknowledged=len(times),
        seconds=seconds,
        p50_ms=times[len(times) // 2] * 1e3,
        p99_ms=times[int(len(times) * 0.99)] * 1e3,
    )


def _unpickled(file: Path) -> list[bytes]:
    """What the parent has prepared."""
    found: list[bytes] = pickle.loads(file.read_bytes())
    return found


def main(role: str, *arguments: str) -> None:
    """`python -m bench.children ROLE ...`"""
    match role, arguments:
        case "floor", ():
            uvloop.run(floor())
        case "service", (dsn, directory):
            uvloop.run(service(dsn, Path(directory)))
        case "worker", (dsn,):
            uvloop.run(worker(dsn))
        case "copy", (dsn, directory, posts):
            uvloop.run(copy(dsn, Path(directory), Path(posts)))
        case "load", (url, posts, clients, rate):
            uvloop.run(load(url, Path(posts), int(clients), float(rate)))
        case _:
            raise SystemExit(f"no such role: {role}")


if __name__ == "__main__":
    main(*sys.argv[1:])
