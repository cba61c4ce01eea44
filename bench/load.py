"""The load: sends prepared requests over some connections. A process of its own, whose CPU nobody counts.

As light as Python allows, because it runs on the same cores as what is measured.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

import uvloop

from bench.processes import say

_LIMIT: Final = 300.0  # seconds
_HELLO: Final = b"GET /healthz HTTP/1.1\r\nHost: bench\r\n\r\n"


class Plan:
    """The requests, when each is due (`rate` per second; 0: at once), and how long each answer took."""

    def __init__(self, requests: Sequence[bytes], rate: float = 0) -> None:
        self._requests: Iterator[tuple[int, bytes]] = enumerate(requests)
        self._rate = rate
        self._started = time.perf_counter()
        self.times: list[float] = []

    def following(self) -> tuple[float, bytes] | None:
        """The next request and its time; None when all are sent."""
        found = next(self._requests, None)
        if found is None:
            return None
        number, request = found
        return (self._started + number / self._rate if self._rate else time.perf_counter()), request

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.perf_counter() - self._started


class Client(asyncio.Protocol):
    """One connection. It sends the next request when the answer to the last is whole and the request is due."""

    def __init__(self) -> None:
        self._buffer = b""
        self._since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so

    def follow(self, plan: Plan) -> asyncio.Future[None]:
        """Take requests of the plan until none is left."""
        self._plan = plan
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._next()
        return self._finished

    def close(self) -> None:
        self._transport.close()

    def _next(self) -> None:
        found = self._plan.following()
        if found is None:
            self._finished.set_result(None)
            return
        due, request = found
        wait = due - time.perf_counter()
        if wait > 0:
            asyncio.get_running_loop().call_later(wait, self._write, request)
        else:  # overdue, because no connection was free: its sender has been waiting since then
            self._since = due
            self._transport.write(request)

    def _write(self, request: bytes) -> None:
        self._since = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.rpartition(b"content-length: ")[2].partition(b"\r")[0]):
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self._fail(head.decode("latin-1"))
            return
        self._buffer = b""
        self._plan.times.append(time.perf_counter() - self._since)
        self._next()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"the connection was lost: {error}")

    def _fail(self, why: str) -> None:
        if not self._finished.done():
            self._finished.set_exception(RuntimeError(why))


async def connect(url: str, clients: int) -> list[Client]:
    """Connections on which one request was answered already: making them is no part of what is measured."""
    host, port = url.removeprefix("http://").split(":")
    loop = asyncio.get_running_loop()
    made = [(await loop.create_connection(Client, host, int(port)))[1] for _ in range(clients)]
    await asyncio.gather(*(client.follow(Plan([_HELLO])) for client in made))
    return made


async def send(clients: Sequence[Client], requests: Sequence[bytes], rate: float) -> dict[str, Any]:
    """How many requests were answered with success, in how many seconds, and the percentiles of an answer's time."""
    plan = Plan(requests, rate)
    async with asyncio.timeout(_LIMIT):
        await asyncio.gather(*(client.follow(plan) for client in clients))
    seconds, times = plan.seconds, sorted(plan.times)
    return {
        "acknowledged": len(times),
        "seconds": seconds,
        "p50_ms": times[len(times) // 2] * 1e3,
        "p99_ms": times[int(len(times) * 0.99)] * 1e3,
    }


async def close(clients: Sequence[Client]) -> None:
    for client in clients:
        client.close()


def main() -> None:
    """Two lines of JSON, again and again: {url, clients, file} is prepared, {rate} sends it."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        say(ready=True)
        for line in sys.stdin:
            order = json.loads(line)
            clients = runner.run(connect(order["url"], order["clients"]))
            requests: list[bytes] = pickle.loads(Path(order["file"]).read_bytes())
            say(prepared=len(requests))
            say(**runner.run(send(clients, requests, json.loads(sys.stdin.readline())["rate"])))
            runner.run(close(clients))


if __name__ == "__main__":
    main()
