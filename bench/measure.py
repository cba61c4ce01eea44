"""The three comparisons. Each takes pairs: the least this machine needs, then ours, on the same requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import cpu, work
from bench.database import FLOOR, OURS, Server
from bench.processes import Failed, Process
from receiver.contract import Post

SINGLE_CLIENTS: Final = 64
BATCH_CLIENTS: Final = 8
HALF_LOAD_SECONDS: Final = 3
HANDLERS: Final = 3

Cost = Mapping[str, float]
"""Seconds of CPU time by process."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much one side of a pair does: events one by one, batches of 500."""

    singles: int
    batches: int


@dataclass(frozen=True, slots=True)
class Side:
    """What one side of a pair came to: CPU seconds per event by process, and events per second."""

    cpu: Cost
    per_second: float

    @property
    def total(self) -> float:
        return sum(self.cpu.values())


@dataclass(frozen=True, slots=True)
class Pair:
    floor: Side
    ours: Side

    @property
    def ratio(self) -> float:
        return self.floor.total / self.ours.total


@dataclass(frozen=True, slots=True)
class HalfLoad:
    """The answer's time, in milliseconds, at half of the rate that was reached."""

    per_second: float
    p50_ms: float
    p99_ms: float


class Bench:
    """One run: a Postgres, the service, and what is compared with them; all end with the stack."""

    def __init__(self, stack: ExitStack, directory: Path, size: Size) -> None:
        self._stack, self._directory, self._size = stack, directory, size
        self._keys = work.make_sources(directory)
        self.server = Server(stack, directory)
        self._load = Process(stack, "bench.load")
        self._floor = Process(stack, "bench.children", "floor")
        self._copy = Process(stack, "bench.children", "copy", self.server.dsn(FLOOR), str(directory))
        self._service = Process(stack, "bench.children", "service", self.server.dsn(OURS), str(directory))
        self._load.hear()
        self._copy.hear()
        self._floor_url, self._url = self._floor.hear()["url"], self._service.hear()["url"]
        self._worker: Process | None = None
        self._runs = self._dispatched = 0
        self.acknowledged = self.stored = self.distinct = 0

    def single(self) -> Pair:
        """Signed events one by one: an application that does nothing, and the service with Postgres."""
        posts = work.singles(self._keys, self._size.singles, self._run())
        return Pair(self._floor_single(posts), self._ours_single(posts))

    def batch(self) -> Pair:
        """Batches: a bare COPY of the same rows, and the service with Postgres."""
        posts = work.batches(self._keys, self._size.batches, self._run())
        return Pair(self._floor_batch(posts), self._ours_batch(posts))

    def dispatch3(self) -> Pair:
        """Batches, and ours with a worker until every cursor of its three handlers has passed everything."""
        worker = self._worker or self._start_worker()
        posts = work.batches(self._keys, self._size.batches, self._run())
        worker.freeze()  # its polling is no part of the floor
        floor = self._floor_batch(posts)
        worker.thaw()
        self.server.wait_for_leases(HANDLERS)
        return Pair(floor, self._ours_dispatch(posts, worker))

    def half_load(self, full: float) -> HalfLoad:
        """`full`: the rate that was reached, in events per second."""
        rate = full / 2
        count = min(round(rate * HALF_LOAD_SECONDS), self._size.singles)
        posts = work.singles(self._keys, count, self._run())
        self._prepare(self._url, "resend", posts, SINGLE_CLIENTS)
        self.server.empty(OURS)
        answer = self._load.ask(rate=rate)
        self._verify(len(posts))
        return HalfLoad(rate, answer["p50_ms"], answer["p99_ms"])

    def warm_up(self) -> None:
        """Connections, statements, imports and caches are made once, not for each event."""
        singles = work.singles(self._keys, min(1000, self._size.singles), self._run())
        self._floor_single(singles)
        self._ours_single(singles)
        batches = work.batches(self._keys, min(BATCH_CLIENTS, self._size.batches), self._run())
        self._floor_batch(batches)
        self._ours_batch(batches)

    def finish(self) -> None:
        """Raises Failed unless each handler was given every event once since its worker started."""
        if self._worker is not None:
            self._worker.close()
            seen = self._worker.hear()["seen"]
            if list(seen.values()) != [self._dispatched] * HANDLERS:
                raise Failed(f"{self._dispatched} events were stored, and the handlers were given {seen}")

    def _start_worker(self) -> Process:
        worker = self._worker = Process(self._stack, "bench.children", "worker", self.server.dsn(OURS), str(HANDLERS))
        worker.hear()
        self.server.wait_for_leases(HANDLERS)
        batches = work.batches(self._keys, min(BATCH_CLIENTS, self._size.batches), self._run())
        self._ours_dispatch(batches, worker)  # to warm it up
        return worker

    def _floor_single(self, posts: Sequence[Post]) -> Side:
        self._prepare(self._floor_url, "resend", posts, SINGLE_CLIENTS)
        return self._measured(len(posts), self._send, {"application": self._floor.pid})

    def _floor_batch(self, posts: Sequence[Post]) -> Side:
        self.server.empty(FLOOR)
        rows = self._copy.ask(file=self._file([post.body for post in posts]))["rows"]
        processes = {"client": self._copy.pid, "postgres": None}
        return self._measured(rows, lambda: self._copy.ask(go=True), processes)

    def _ours_single(self, posts: Sequence[Post]) -> Side:
        self._prepare(self._url, "resend", posts, SINGLE_CLIENTS)
        return self._ours(len(posts), self._send, {"service": self._service.pid})

    def _ours_batch(self, posts: Sequence[Post]) -> Side:
        self._prepare(self._url, "sendgrid", posts, BATCH_CLIENTS)
        return self._ours(len(posts) * work.BATCH, self._send, {"service": self._service.pid})

    def _ours_dispatch(self, posts: Sequence[Post], worker: Process) -> Side:
        def send_and_wait() -> None:
            self._send()
            self.server.wait_for_cursors()

        self._prepare(self._url, "sendgrid", posts, BATCH_CLIENTS)
        processes = {"service": self._service.pid, "worker": worker.pid}
        side = self._ours(len(posts) * work.BATCH, send_and_wait, processes)
        self._dispatched += len(posts) * work.BATCH
        return side

    def _ours(self, events: int, act: Callable[[], object], processes: Mapping[str, int]) -> Side:
        self.server.empty(OURS)
        side = self._measured(events, act, {**processes, "postgres": None})
        self._verify(events)
        return side

    def _measured(self, events: int, act: Callable[[], object], processes: Mapping[str, int | None]) -> Side:
        """`processes`: pids by name; None is all of Postgres."""
        before, started = self._cpu(processes), time.perf_counter()
        act()
        seconds, after = time.perf_counter() - started, self._cpu(processes)
        return Side({name: (after[name] - before[name]) / events for name in processes}, events / seconds)

    def _cpu(self, processes: Mapping[str, int | None]) -> Cost:
        return {name: self.server.cpu() if pid is None else cpu.of_process(pid) for name, pid in processes.items()}

    def _prepare(self, url: str, source: str, posts: Sequence[Post], clients: int) -> None:
        file = self._file([work.wire(source, post) for post in posts])
        self._load.ask(url=url, clients=clients, file=file)

    def _send(self) -> None:
        self._load.ask(rate=0)

    def _verify(self, acknowledged: int) -> None:
        """Whatever was not answered with success has ended the run before."""
        stored, distinct = self.server.count(OURS)
        self.acknowledged += acknowledged
        self.stored += stored
        self.distinct += distinct

    def _file(self, parts: Sequence[bytes]) -> str:
        file = self._directory / "work"
        file.write_bytes(work.pickled(parts))
        return str(file)

    def _run(self) -> str:
        """A name that makes its events distinct."""
        self._runs += 1
        return f"run{self._runs}"
