"""The processes that are measured: the service, a worker, and what both are compared with."""

from __future__ import annotations

import asyncio
import json
import pickle
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import pbkdf2_hmac
from pathlib import Path
from typing import Any, Final

import asyncpg
import uvloop

from bench.database import connect_for_rows
from bench.processes import say
from bench.work import SECRET_KEY, sources
from receiver import Context, Event, handler
from receiver.contract import Delivery, Item
from receiver.dispatch.worker import Worker
from receiver.ingest.normalize import row_of
from receiver.logs import set_up_logs
from receiver.plugins.loading import load_handlers
from receiver.sources import Source
from receiver.store import intake
from receiver.vault import Vault
from receiver.warm import settle
from receiver.web.listen import address, bind, server
from receiver.web.service import Listening, Service, serve

HANDLERS_DIR: Final = Path(__file__).parents[1] / "handlers"
_ROUNDS: Final = 200  # of SHA-256: an eighth of a millisecond or so


def stopped() -> asyncio.Event:
    """Set when whoever started this process says no more, or is gone."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(sys.stdin)
        stop.set()

    loop.add_reader(sys.stdin, ended)
    return stop


async def floor() -> None:
    """A raw ASGI application on the service's server and settings that only reads the body and answers."""
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"3")]

    async def application(_scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok\n"})

    listener, one, stop = bind("127.0.0.1", 0, "the floor"), server(application), stopped()
    serving = asyncio.create_task(one.serve(sockets=[listener]))
    settle()
    say(url=address(listener))
    await stop.wait()
    one.should_exit = True
    await serving


async def service(dsn: str, directory: Path, port: int = 0) -> None:
    """The real service, without handlers. Several may share a port."""

    def ready(listening: Listening) -> None:
        say(url=listening.url)

    vault, found = Vault(SECRET_KEY), sources(directory)
    configured = Service(dsn=dsn, vault=vault, sources=found, port=port, reuse_port=True, admin_ports=(0,))
    await serve(configured, stopped(), ready)


async def worker(dsn: str, count: int) -> None:
    """A worker with batch handlers that do nothing but add up how many events they were given."""
    seen: Counter[str] = Counter()

    async def nothing(events: Sequence[Event], ctx: Context) -> None:
        seen[ctx.handler] += len(events)

    handlers = [handler(batch=True, machines=True, tests=True, name=f"nothing{n}")(nothing) for n in range(count)]
    say(handlers=[one.name for one in handlers])
    await Worker(dsn=dsn, handlers=handlers, vault=Vault(SECRET_KEY)).run(stopped())
    say(seen=seen)


async def busy_worker(dsn: str) -> None:
    """A worker whose one handler takes some CPU time for each event. It says which events it was given."""
    ids: list[str] = []

    async def busy(event: Event, _ctx: Context) -> None:
        pbkdf2_hmac("sha256", event.id.bytes, b"", _ROUNDS)
        ids.append(str(event.id))

    say(ready=True)
    handlers = [handler(machines=True, tests=True)(busy)]
    await Worker(dsn=dsn, handlers=handlers, vault=Vault(SECRET_KEY)).run(stopped())
    say(ids=ids)


async def contacts_worker(dsn: str) -> None:
    """A worker with the two handlers that keep contacts and suppressions."""
    names = {"engagement", "suppression"}
    handlers = [one for one in load_handlers(HANDLERS_DIR) if one.name in names]
    say(handlers=[one.name for one in handlers])
    await Worker(dsn=dsn, handlers=handlers, vault=Vault(SECRET_KEY)).run(stopped())
    say(seen={})


class Copying:
    """Bare COPY over two connections."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._connections: list[asyncpg.Connection] = []

    async def connect(self, dsn: str) -> None:
        for _ in range(2):
            self._connections.append(await connect_for_rows(dsn))

    def rows(self, body: bytes) -> Iterator[intake.Row]:
        """The very rows that the service would write."""
        at = Delivery(source=self._source.name, headers={}, body=body).at
        for item in self._source.provider.parse(body):
            assert isinstance(item, Item)
            for reading in self._source.provider.read(item):
                yield row_of(self._source, item, reading, at)

    async def copy(self, batches: Sequence[Sequence[intake.Row]]) -> float:
        """Seconds that it took."""
        left, started = iter(batches), time.perf_counter()

        async def copying(connection: asyncpg.Connection) -> None:
            for rows in left:
                await connection.copy_records_to_table("events", records=rows, columns=intake.COLUMNS)

        await asyncio.gather(*map(copying, self._connections))
        return time.perf_counter() - started


def copy(dsn: str, directory: Path) -> None:
    """Two lines of JSON, again and again: {file} is prepared, the second one writes it."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        copying = Copying(sources(directory)["sendgrid"])
        runner.run(copying.connect(dsn))
        settle()
        say(ready=True)
        for line in sys.stdin:
            bodies: list[bytes] = pickle.loads(Path(json.loads(line)["file"]).read_bytes())
            batches = [list(copying.rows(body)) for body in bodies]
            say(rows=sum(map(len, batches)))
            sys.stdin.readline()
            say(seconds=runner.run(copying.copy(batches)))


def main(role: str, *arguments: str) -> None:
    """`python -m bench.children ROLE ...`"""
    set_up_logs("warning", "json")
    match role, arguments:
        case "floor", ():
            uvloop.run(floor())
        case "service", (dsn, directory, *port):
            uvloop.run(service(dsn, Path(directory), *map(int, port)))
        case "worker", (dsn, "contacts"):
            uvloop.run(contacts_worker(dsn))
        case "worker", (dsn, "busy"):
            uvloop.run(busy_worker(dsn))
        case "worker", (dsn, count):
            uvloop.run(worker(dsn, int(count)))
        case "copy", (dsn, directory):
            copy(dsn, Path(directory))
        case _:
            raise SystemExit(f"no such role: {role}")


if __name__ == "__main__":
    main(*sys.argv[1:])
