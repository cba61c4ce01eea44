"""`python -m bench.scaling`: whether a second web process receives twice as much, and more workers handle more.

On a machine with few cores the load, Postgres and one process leave nothing that a second one could use. So each
process is held to a share of one core: it is stopped and continued a hundred times a second. What is compared is

web      how many events one, and then more of them on the same port, take in a second
workers  how many of the same backlog one, two and four workers handle in a second, with a handler that takes some CPU
         time for each event, and how many of the shards each holds; fails unless each event was handled once
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench import cpu, work
from bench.database import OURS, Server
from bench.growth import FILL
from bench.longrun import longrun, say
from bench.processes import Failed, Process
from receiver.contract import Post
from receiver.event import SHARDS

RESULTS: Final = Path(__file__).with_name("scaling.json")
SHARE: Final = 0.2  # of one core
PERIOD: Final = 0.01  # seconds in which a process has its share once
CLIENTS: Final = {"single": 128, "batch": 32}
SOURCES: Final = {"single": "resend", "batch": "sendgrid"}
SIZES: Final = {"single": 4000, "batch": 40}  # requests for each process
BACKLOG: Final = 20_000  # events, for however many workers

Measure = Callable[[int], dict[str, float]]

_HELD: Final = "SELECT count(*) AS held FROM cursors WHERE lease_until > clock_timestamp() GROUP BY owner"
_EVENLY: Final = f"SELECT count(*) FROM ({_HELD}) AS workers WHERE held = $1"


@contextmanager
def held_to(share: float, pids: Sequence[int]) -> Iterator[None]:
    """Let the processes run for a share of each period only, one after the other as far as there is room.

    One that was stopped too late, and so has had more than its share, waits for a later period.
    """
    ended = threading.Event()
    before = {pid: cpu.of_process(pid) for pid in pids}

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
                had = cpu.of_process(pid) - before[pid]
                if sign == signal.SIGSTOP or had <= share * (time.monotonic() - started):
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


@dataclass(frozen=True, slots=True)
class Measured:
    """What something took, in seconds: of the clock, and of the CPU for the processes together and for Postgres."""

    seconds: float
    processes: float
    postgres: float

    def per_event(self, events: int, name: str, processes: int) -> dict[str, float]:
        return {
            "per_second": events / self.seconds,
            "share": self.processes / self.seconds / processes,
            f"{name}_us": self.processes / events * 1e6,
            "postgres_us": self.postgres / events * 1e6,
        }


class Scaling:
    """One run: a Postgres, the load, and web processes or workers that are started anew for each side."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self._directory = directory
        self._keys = work.make_sources(directory)
        self._server = Server(stack, directory)
        self._load = Process(stack, "bench.load")
        self._load.hear()
        self._runs = self._filled = 0

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
            measured = self._held(services, lambda: self._load.ask(rate=0))
            events = len(posts) * (work.BATCH if kind == "batch" else 1)
            if self._server.count(OURS) != (events, events):
                raise Failed(f"{events} events were acknowledged, and {self._server.count(OURS)} are stored, distinct")
        return measured.per_event(events, "service", processes)

    def drained(self, processes: int) -> dict[str, float]:
        """The same of workers; and the fewest and the most shards that one held, and events that one handled."""
        with ExitStack() as stack:
            arguments = ("bench.children", "worker", self._server.dsn(OURS), "busy")
            workers = [Process(stack, *arguments) for _ in range(processes)]
            for one in workers:
                one.hear()
            # A new worker's part is given up to it within a few seconds.
            self._server.until(_EVENLY, SHARDS // processes, equals=processes)
            self._fill(BACKLOG // 10)  # to warm up
            self._server.wait_for_cursors()
            self._server.empty(OURS)
            for one in workers:
                one.freeze()
            self._fill(BACKLOG)
            measured = self._held(workers, self._server.wait_for_cursors)
            held = [row["held"] for row in self._server.ask(_HELD)]
            for one in workers:
                one.close()
            seen = [one.hear()["ids"] for one in workers]
        handled, distinct = sum(map(len, seen)), len({id_ for ids in seen for id_ in ids})
        if not handled == distinct == BACKLOG + BACKLOG // 10:
            raise Failed(f"{BACKLOG + BACKLOG // 10} events waited, and {handled} were handled, {distinct} distinct")
        spread = {"shards": held, "events": [len(ids) for ids in seen]}
        least_and_most = {f"{key}_{end.__name__}": end(of) for key, of in spread.items() for end in (min, max)}
        return measured.per_event(BACKLOG, "worker", processes) | least_and_most

    def _fill(self, count: int) -> None:
        self._server.ask(FILL, self._filled, self._filled + count - 1)
        self._filled += count

    def _held(self, processes: Sequence[Process], act: Callable[[], object]) -> Measured:
        """Do something while each of the processes has its share only."""
        pids = [one.pid for one in processes]
        before, postgres, started = [*map(cpu.of_process, pids)], self._server.cpu(), time.perf_counter()
        with held_to(SHARE, pids):
            act()
            seconds = time.perf_counter() - started
        used = sum(cpu.of_process(pid) - then for pid, then in zip(pids, before, strict=True))
        return Measured(seconds, used, self._server.cpu() - postgres)

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


def compared(what: str, measure: Measure, pairs: int, sides: Sequence[int]) -> dict[str, Any]:
    """One process and more, in turn; the ratios of their rates."""
    rounds = []
    for number in range(pairs):
        rounds.append({count: measure(count) for count in sides})
        rates = ", ".join(f"{count}: {rounds[-1][count]['per_second']:,.0f}/s" for count in sides)
        say.print(f"{what}, round {number + 1} of {pairs}, by processes: {rates}")
    found: dict[str, Any] = {}
    for count in sides:
        times = [one[count]["per_second"] / one[sides[0]]["per_second"] for one in rounds]
        middle = {key: statistics.median(one[count][key] for one in rounds) for key in rounds[0][count]}
        found[str(count)] = {**middle, "times": statistics.median(times), "least": min(times), "most": max(times)}
    return found


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scaling", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5, help="rounds of one process and more (5)")
    parser.add_argument("--most", type=int, default=2, help="web processes (2; 0: leave them out)")
    parser.add_argument("--workers", type=int, default=4, help="one, two, ... workers (4; 0: leave them out)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results are written")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)

    def measure(stack: ExitStack, directory: Path) -> dict[str, Any]:
        scaling = Scaling(stack, directory)
        measures: dict[str, tuple[Measure, Sequence[int]]] = {
            kind: (partial(scaling.rate, kind), range(1, options.most + 1)) for kind in CLIENTS
        }
        measures["workers"] = (scaling.drained, [2**n for n in range(options.workers.bit_length())])
        return {what: compared(what, one, options.pairs, sides) for what, (one, sides) in measures.items() if sides}

    longrun("scaling", options.out, measure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
