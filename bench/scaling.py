"""`python -m bench.scaling`: whether a second web process receives twice as much.

On a machine with few cores the load, Postgres and one web process leave nothing that a second one could use. So each
web process is held to a share of one core: it is stopped and continued a hundred times a second. What is compared is
how many events one, and then more of them on the same port, take in a second.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from bench import cpu, work
from bench.database import OURS, Server
from bench.longrun import longrun, say
from bench.processes import Failed, Process
from receiver.contract import Post

RESULTS: Final = Path(__file__).with_name("scaling.json")
SHARE: Final = 0.2  # of one core
PERIOD: Final = 0.01  # seconds in which a process has its share once
CLIENTS: Final = {"single": 128, "batch": 32}
SOURCES: Final = {"single": "resend", "batch": "sendgrid"}
SIZES: Final = {"single": 4000, "batch": 40}  # requests for each process


@contextmanager
def held_to(share: float, pids: Sequence[int]) -> Iterator[None]:
    """Let the processes run for a share of each period only, one after the other as far as there is room."""
    ended = threading.Event()

    def hold() -> None:
        places = sorted(
            (offset, pid, sign)
            for number, pid in enumerate(pids)
            for begin in [number / len(pids)]
            for offset, sign in [(begin, signal.SIGCONT), ((begin + share) % 1, signal.SIGSTOP)]
        )
        started = time.monotonic()
        for period in itertools.count():
            for offset, pid, sign in places:
                if ended.wait(max(started + (period + offset) * PERIOD - time.monotonic(), 0)):
                    return
                os.kill(pid, sign)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


class Scaling:
    """One run: a Postgres, the load, and web processes that are started anew for each side."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self._directory = directory
        self._keys = work.make_sources(directory)
        self._server = Server(stack, directory)
        self._load = Process(stack, "bench.load")
        self._load.hear()
        self._runs = 0

    def rate(self, kind: str, processes: int) -> dict[str, float]:
        """Events per second, and CPU microseconds per event of the web processes and of Postgres."""
        with ExitStack() as stack:
            services, port = [], 0
            for _ in range(processes):
                arguments = (self._server.dsn(OURS), str(self._directory), str(port))
                services.append(Process(stack, "bench.children", "service", *arguments))
                url = services[-1].hear()["url"]
                port = int(url.rpartition(":")[2])
            self._send(kind, url, self._posts(kind, processes, 10))  # to warm up
            self._server.empty(OURS)
            posts = self._posts(kind, processes, 1)
            file = self._write(kind, posts)
            self._load.ask(url=url, clients=CLIENTS[kind], file=file)
            pids = [one.pid for one in services]
            before, postgres, started = [*map(cpu.of_process, pids)], self._server.cpu(), time.perf_counter()
            with held_to(SHARE, pids):
                self._load.ask(rate=0)
                seconds = time.perf_counter() - started
            used = [cpu.of_process(pid) - then for pid, then in zip(pids, before, strict=True)]
            events = len(posts) * (work.BATCH if kind == "batch" else 1)
            if self._server.count(OURS) != (events, events):
                raise Failed(f"{events} events were acknowledged, and {self._server.count(OURS)} are stored, distinct")
        return {
            "per_second": events / seconds,
            "share": sum(used) / seconds / processes,
            "service_us": sum(used) / events * 1e6,
            "postgres_us": (self._server.cpu() - postgres) / events * 1e6,
        }

    def _posts(self, kind: str, processes: int, part: int) -> Sequence[Post]:
        self._runs += 1
        count = max(SIZES[kind] * processes // part, CLIENTS[kind])
        return (work.singles if kind == "single" else work.batches)(self._keys, count, f"scaling{self._runs}")

    def _send(self, kind: str, url: str, posts: Sequence[Post]) -> None:
        self._load.ask(url=url, clients=CLIENTS[kind], file=self._write(kind, posts))
        self._load.ask(rate=0)

    def _write(self, kind: str, posts: Sequence[Post]) -> str:
        file = self._directory / "work"
        file.write_bytes(work.pickled([work.wire(SOURCES[kind], post) for post in posts]))
        return str(file)


def compared(scaling: Scaling, kind: str, pairs: int, most: int) -> dict[str, Any]:
    """One process and more, in turn; the ratios of their rates."""
    sides = range(1, most + 1)
    rounds = []
    for number in range(pairs):
        rounds.append({count: scaling.rate(kind, count) for count in sides})
        rates = ", ".join(f"{count}: {rounds[-1][count]['per_second']:,.0f}/s" for count in sides)
        say.print(f"{kind}, round {number + 1} of {pairs}, by web processes: {rates}")
    found: dict[str, Any] = {}
    for count in sides:
        times = [one[count]["per_second"] / one[1]["per_second"] for one in rounds]
        middle = {key: statistics.median(one[count][key] for one in rounds) for key in rounds[0][count]}
        found[str(count)] = {**middle, "times": statistics.median(times), "least": min(times), "most": max(times)}
    return found


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scaling", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5, help="rounds of one process and more (5)")
    parser.add_argument("--most", type=int, default=2, help="web processes (2)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results are written")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)

    def measure(stack: ExitStack, directory: Path) -> dict[str, Any]:
        scaling = Scaling(stack, directory)
        return {kind: compared(scaling, kind, options.pairs, options.most) for kind in CLIENTS}

    longrun("scaling", options.out, measure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
