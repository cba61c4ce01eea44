"""`python -m bench`: CPU time for each event as a ratio of the least that this machine needs, in interleaved pairs.

(a) single   signed events one by one, 64 connections: a no-op ASGI application / service and Postgres
(b) batch    batches of 500: a bare COPY of the same rows, client and Postgres / service and Postgres
(c) dispatch as (b), with three batch handlers that do nothing, until every cursor has passed / with its worker
"""

from __future__ import annotations

import argparse
import asyncio
import json
import pickle
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import asyncpg
from rich.console import Console
from rich.table import Table

from bench import cpu, work
from receiver import embedded
from receiver.contract import Post
from receiver.store.log import handler_states
from receiver.store.schema import migrate

RESULTS: Final = Path(__file__).with_name("results.json")
FLOORS: Final = {"single": 0.25, "batch": 0.35, "dispatch3": 0.25}
say: Final = Console(stderr=True)


class Child:
    """A process of `bench.children`."""

    def __init__(self, stack: ExitStack, *arguments: str) -> None:
        command = [sys.executable, "-m", "bench.children", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
        stack.callback(self.end)

    @property
    def pid(self) -> int:
        return self.process.pid

    def hear(self) -> dict[str, Any]:
        """The next line the process says. Raises RuntimeError when it has ended instead."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args!r} ended with {self.process.wait()}")
        return dict(json.loads(line))

    def go(self) -> None:
        pipe: IO[str] | None = self.process.stdin
        assert pipe is not None
        pipe.write("go\n")
        pipe.flush()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        self.process.wait()


class Bench:
    """One run: a Postgres, the service, and what is compared with them."""

    def __init__(self, stack: ExitStack, directory: Path, options: argparse.Namespace) -> None:
        self.stack, self.directory, self.options = stack, directory, options
        self.keys = work.make_sources(directory)
        self.postgres = embedded.start(directory / "data")
        stack.callback(self.postgres.stop)
        self.dsn = self.postgres.dsn()
        asyncio.run(self._databases())
        self.floor = Child(stack, "floor")
        self.service = Child(stack, "service", self.dsn, str(directory))
        self.floor_url, self.url = self.floor.hear()["url"], self.service.hear()["url"]
        self.acknowledged = 0
        self.rates: dict[str, list[float]] = {}

    async def _databases(self) -> None:
        await migrate(self.dsn)
        connection = await asyncpg.connect(self.dsn)
        await connection.execute("CREATE DATABASE floor TEMPLATE template0")
        await connection.close()
        await migrate(self.postgres.dsn("floor"))

    def send(self, url: str, source: str, posts: Sequence[Post], clients: int, rate: float = 0) -> dict[str, Any]:
        """Have another process send the requests; its CPU is not counted."""
        file = self.directory / "posts"
        file.write_bytes(pickle.dumps([work.wire(source, post) for post in posts]))
        with ExitStack() as stack:
            return Child(stack, "load", url, str(file), str(clients), str(rate)).hear()

    def cost(self, *pids: int) -> float:
        return cpu.of_tree(self.postgres.pid) + sum(map(cpu.of_process, pids))

    def store(self, source: str, posts: Sequence[Post], per_post: int, clients: int, rate: float = 0) -> dict[str, Any]:
        answer = self.send(self.url, source, posts, clients, rate)
        self.acknowledged += answer["acknowledged"] * per_post
        return answer

    def note(self, name: str, count: int, seconds: float) -> None:
        self.rates.setdefault(name, []).append(count / seconds)

    def single(self, pair: int) -> tuple[float, float]:
        posts = work.singles(self.keys, self.options.singles, f"s{pair}")
        before = cpu.of_process(self.floor.pid)
        answer = self.send(self.floor_url, "resend", posts, 64)
        floor = cpu.of_process(self.floor.pid) - before
        self.note("single_floor", len(posts), answer["seconds"])
        before = self.cost(self.service.pid)
        answer = self.store("resend", posts, 1, 64)
        ours = self.cost(self.service.pid) - before
        self.note("single", len(posts), answer["seconds"])
        return floor / len(posts), ours / len(posts)

    def bare_copy(self, posts: Sequence[Post]) -> float:
        """CPU per row of COPY: the client's, and Postgres's."""
        file = self.directory / "bodies"
        file.write_bytes(pickle.dumps([post.body for post in posts]))
        with ExitStack() as stack:
            child = Child(stack, "copy", self.postgres.dsn("floor"), str(self.directory), str(file))
            rows = child.hear()["ready"]
            before = cpu.of_tree(self.postgres.pid)
            child.go()
            answer = child.hear()
            self.note("copy", rows, answer["seconds"])
            return float(answer["cpu"] + cpu.of_tree(self.postgres.pid) - before) / int(rows)

    def batch(self, pair: int) -> tuple[float, float]:
        posts = work.batches(self.keys, self.options.batches, f"b{pair}")
        floor = self.bare_copy(posts)
        before = self.cost(self.service.pid)
        answer = self.store("sendgrid", posts, work.BATCH, 8)
        ours = self.cost(self.service.pid) - before
        self.note("batch", len(posts) * work.BATCH, answer["seconds"])
        return floor, ours / len(posts) / work.BATCH

    def dispatch3(self, pair: int) -> tuple[float, float]:
        if pair == 0:
            self.worker = Child(self.stack, "worker", self.dsn)
            self.worker.hear()
            asyncio.run(self.passed(self.acknowledged))
        posts = work.batches(self.keys, self.options.batches, f"d{pair}")
        self.worker.process.send_signal(signal.SIGSTOP)  # its polling is no part of the floor
        floor = self.bare_copy(posts)
        self.worker.process.send_signal(signal.SIGCONT)
        asyncio.run(self.passed(self.acknowledged))
        before = self.cost(self.service.pid, self.worker.pid)
        answer = self.store("sendgrid", posts, work.BATCH, 8)
        asyncio.run(self.passed(self.acknowledged))
        ours = self.cost(self.service.pid, self.worker.pid) - before
        self.note("dispatch3", len(posts) * work.BATCH, answer["seconds"])
        return floor, ours / len(posts) / work.BATCH

    async def passed(self, _total: int) -> None:
        """Wait until every cursor of the three handlers has passed everything."""
        connection = await asyncpg.connect(self.dsn)
        try:
            while True:
                states = await handler_states(connection)
                if len(states) == 3 and all(s.leased == s.shards == 64 and s.lag_events == 0 for s in states):
                    return
                await asyncio.sleep(0.1)
        finally:
            await connection.close()

    def half_load(self) -> dict[str, float]:
        rate = statistics.median(self.rates["single"]) / 2
        answer = self.store("resend", work.singles(self.keys, int(rate * 3), "half"), 1, 32, rate)
        return {"rate": rate, "p50_ms": answer["p50_ms"], "p99_ms": answer["p99_ms"]}

    async def stored(self) -> int:
        connection = await asyncpg.connect(self.dsn)
        try:
            return int(await connection.fetchval("SELECT count(*) FROM events"))
        finally:
            await connection.close()


def run(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Measure everything; the results as they are written."""
    with ExitStack() as stack:
        bench = Bench(stack, directory, options)
        warm = work.singles(bench.keys, 300, "warm")
        bench.send(bench.floor_url, "resend", warm, 64)
        bench.store("resend", warm, 1, 64)
        bench.store("sendgrid", work.batches(bench.keys, 2, "warm"), work.BATCH, 2)
        results: dict[str, Any] = {"cpu_us": {}, "pairs": options.pairs, "spread": {}}
        for name in [name for name in FLOORS if not options.only or name.startswith(options.only)]:
            pairs = []
            for pair in range(options.pairs):
                say.print(f"{name}: pair {pair + 1} of {options.pairs}")
                pairs.append(getattr(bench, name)(pair))
            ratios = [floor / ours for floor, ours in pairs]
            results[f"{name}_ratio"] = statistics.median(ratios)
            results["spread"][name] = [min(ratios), max(ratios)]
            results["cpu_us"][name] = {
                "floor": statistics.median(floor for floor, _ in pairs) * 1e6,
                "ours": statistics.median(ours for _, ours in pairs) * 1e6,
            }
        if "single" in bench.rates:
            results["half_load"] = bench.half_load()
        results["per_second"] = {name: statistics.median(found) for name, found in bench.rates.items()}
        results["acknowledged"], results["stored"] = bench.acknowledged, asyncio.run(bench.stored())
    results["machine"] = f"{platform.machine()}, Python {platform.python_version()}, PostgreSQL 18 embedded"
    results["at"] = datetime.now(UTC).isoformat(timespec="seconds")
    return results


def show(results: dict[str, Any]) -> None:
    """The table for people."""
    table = Table("", "floor, us CPU", "ours, us CPU", "ratio", "spread", "to reach", "events/s")
    for name, least in FLOORS.items():
        if f"{name}_ratio" in results:
            costs, spread = results["cpu_us"][name], results["spread"][name]
            table.add_row(
                name,
                f"{costs['floor']:.1f}",
                f"{costs['ours']:.1f}",
                f"{results[f'{name}_ratio']:.2f}",
                f"{spread[0]:.2f}-{spread[1]:.2f}",
                f"{least:.2f}",
                f"{results['per_second'][name]:,.0f}",
            )
    console = Console()
    console.print(table)
    if half := results.get("half_load"):
        console.print(f"at half load ({half['rate']:.0f}/s): p50 {half['p50_ms']:.1f} ms, p99 {half['p99_ms']:.1f} ms")
    console.print(f"acknowledged {results['acknowledged']}, stored {results['stored']}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 when what is stored is not what was acknowledged."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter pairs, under 45 seconds")
    parser.add_argument("--only", choices=["single", "batch", "dispatch"], help="one of the three")
    parser.add_argument("--pairs", type=int, help="pairs of floor and ours (5, quick 3)")
    parser.add_argument("--singles", type=int, help="events of a run of (a)")
    parser.add_argument("--batches", type=int, help="batches of a run of (b) and (c)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results are written")
    options = parser.parse_args(arguments)
    quick = options.quick
    options.pairs = options.pairs or (3 if quick else 5)
    options.singles = options.singles or (1200 if quick else 6000)
    options.batches = options.batches or (8 if quick else 40)
    directory = Path(tempfile.mkdtemp(prefix="receiver-bench-"))
    directory.chmod(0o711)  # as root the server runs as another user
    try:
        results = run(options, directory)
    except KeyboardInterrupt:
        say.print("stopped")
        return 130
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    show(results)
    options.out.write_text(json.dumps(results, indent=2) + "\n")
    return 0 if results["acknowledged"] == results["stored"] else 1


if __name__ == "__main__":
    sys.exit(main())
