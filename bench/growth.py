"""`python -m bench.growth`: whether the service slows down as its table grows. Long; nothing of it runs by itself.

backlog   a handler that was away reads a million events: CPU of worker and Postgres, beside a plain SELECT of the same
          rows (at most 2 times as much)
size      batches into a partition that holds 20 million events and as many ids, beside the same into empty tables (CPU
          of service and Postgres per event; at least 0.9)
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import asyncpg

from bench import cpu, work
from bench.database import FLOOR, OURS, Server
from bench.longrun import longrun, say
from bench.processes import Failed, Process
from receiver.store.rows import select_list

RESULTS: Final = Path(__file__).with_name("growth.json")
PAIRS: Final = 9
WARM_UP: Final = 2  # pairs that do not count: Postgres still writes what was filled in
BATCHES: Final = 40
CLIENTS: Final = 8
CHUNK: Final = 200_000  # rows of one INSERT while filling
PAGE: Final = 1000  # rows that the plain SELECT fetches at a time
# As much as one gives to a database of so many rows: the pages that ingest touches do not fit into the default.
_SETTINGS: Final = {"shared_buffers": "4GB"}

# Rows as wide as SendGrid's, ids in the order of their time as the service makes them, everything distinct.
_FILL_IDS: Final = """
INSERT INTO event_ids (id)
SELECT (lpad(to_hex(1700000000000 + n), 12, '0') || '8' || substr(md5(n::text), 1, 19))::uuid
FROM generate_series($1::bigint, $2::bigint) AS n
"""
FILL: Final = """
INSERT INTO events (id, occurred_at, type, source, provider, provider_type, recipient, recipient_domain, message_id,
                    internet_message_id, provider_event_id, user_agent, url, metadata, raw, shard)
SELECT (lpad(to_hex(1700000000000 + n), 12, '0') || '8' || substr(md5(n::text), 1, 19))::uuid, now(), 'clicked',
       'sendgrid', 'sendgrid', 'click',
       'u' || (n * 7919 % 5000000) || '@d' || n % 97 || '.test', 'd' || n % 97 || '.test',
       substr(md5((n / 4)::text), 1, 22), substr(md5((n / 4)::text), 1, 22) || '@mail.example.net', md5((n + 1)::text),
       'Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:144.0) Gecko/20100101 Firefox/144.0',
       'https://shop.example.com/autumn?utm_source=newsletter', '{"run": "growth"}',
       ('{"event": "click", "n": ' || n || ', "pad": "' || repeat(md5(n::text), 15) || '"}')::json, n % 64
FROM generate_series($1::bigint, $2::bigint) AS n
"""


class Growth:
    """One run: a Postgres with a full and an empty database."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self._stack = stack
        self._directory = directory
        self._keys = work.make_sources(directory)
        self.server = Server(stack, directory, _SETTINGS)
        self._runs = 0

    def backlog(self, count: int) -> dict[str, float]:
        """CPU microseconds per event of a plain SELECT, and of a worker that catches up, each with Postgres."""
        worker = self._worker()
        asyncio.run(self._fill(OURS, 0, count, "events that wait"))
        plain = self._select(count)
        before, started = self._cpu(worker.pid), time.perf_counter()
        worker.thaw()
        self.server.wait_for_cursors()
        seconds, drained = time.perf_counter() - started, self._cpu(worker.pid) - before
        worker.close()
        seen = worker.hear()["seen"]
        if set(seen.values()) != {count}:
            raise Failed(f"{count} events waited, and the handlers were given {seen}")
        return {
            "events": count,
            "select_us": plain / count * 1e6,
            "drain_us": drained / count * 1e6,
            "times": drained / plain,
            "events_per_second": count / seconds,
        }

    def _worker(self) -> Process:
        """A frozen worker whose one handler has its cursors at the log's end, so that what comes is its backlog."""
        worker = Process(self._stack, "bench.children", "worker", self.server.dsn(OURS), "1")
        worker.hear()
        self.server.wait_for_leases(1)
        worker.freeze()
        return worker

    def _cpu(self, pid: int) -> float:
        return self.server.cpu() + cpu.of_process(pid)

    def _select(self, count: int) -> float:
        """CPU seconds of reading the same rows and columns in pages, this process and Postgres."""
        before = self.server.cpu() + time.process_time()
        if asyncio.run(_read_all(self.server.dsn(OURS))) != count:
            raise Failed("the plain SELECT has not read every row")
        return self.server.cpu() + time.process_time() - before

    def size(self, count: int) -> dict[str, Any]:
        """Ratios of CPU per event, empty tables to full ones."""
        asyncio.run(self._fill(OURS, 10**8, count, "events in the way"))
        load = Process(self._stack, "bench.load")
        load.hear()
        services = {
            name: Process(self._stack, "bench.children", "service", self.server.dsn(name), str(self._directory))
            for name in (OURS, FLOOR)
        }
        urls = {name: service.hear()["url"] for name, service in services.items()}
        ratios = []
        for number in range(WARM_UP + PAIRS):
            # In turns, so that what one run leaves to the next (pages to write, a checkpoint) burdens both alike.
            order = (FLOOR, OURS) if number % 2 else (OURS, FLOOR)
            costs = {name: self._ingest(load, services[name], urls[name]) for name in order}
            if number >= WARM_UP:
                ratios.append(costs[FLOOR] / costs[OURS])
                say.print(f"empty {costs[FLOOR]:.1f} µs, full {costs[OURS]:.1f} µs: {ratios[-1]:.2f}")
        return {"events": count, "ratio": statistics.median(ratios), "ratios": ratios}

    def _ingest(self, load: Process, service: Process, url: str) -> float:
        """CPU microseconds per event, service and Postgres."""
        self._runs += 1
        posts = work.batches(self._keys, BATCHES, f"growth{self._runs}-{time.time_ns()}")
        file = self._directory / "work"
        file.write_bytes(work.pickled([work.wire("sendgrid", post) for post in posts]))
        load.ask(url=url, clients=CLIENTS, file=str(file))
        before = self._cpu(service.pid)
        load.ask(rate=0)
        return (self._cpu(service.pid) - before) / (len(posts) * work.BATCH) * 1e6

    async def _fill(self, database: str, first: int, count: int, what: str) -> None:
        connection = await asyncpg.connect(self.server.dsn(database))
        started = time.perf_counter()
        try:
            for start in range(first, first + count, CHUNK):
                end = min(start + CHUNK, first + count) - 1
                await connection.execute(_FILL_IDS, start, end, timeout=600)
                await connection.execute(FILL, start, end, timeout=600)
                done = end - first + 1
                say.print(f"{done:,} of {count:,} {what}, {done / (time.perf_counter() - started):,.0f}/s", end="\r")
            await connection.execute("VACUUM ANALYZE events, event_ids", timeout=3600)
            await connection.execute("CHECKPOINT", timeout=3600)
        finally:
            await connection.close()
        say.print()


async def _read_all(dsn: str) -> int:
    connection, found = await asyncpg.connect(dsn), 0
    try:
        async with connection.transaction():
            cursor = await connection.cursor(f"SELECT {select_list('events')} FROM events")
            while page := await cursor.fetch(PAGE):
                found += len(page)
    finally:
        await connection.close()
    return found


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.growth", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--backlog", type=int, default=1_000_000, help="events that wait (1,000,000; 0: leave it out)")
    parser.add_argument(
        "--size", type=int, default=20_000_000, help="events in the table (20,000,000; 0: leave it out)"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results are written")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)

    def measure(stack: ExitStack, directory: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        growth = Growth(stack, directory)
        if options.backlog:
            found["backlog"] = growth.backlog(options.backlog)
        if options.size:
            found["size"] = growth.size(options.size)
        return found

    longrun("growth", options.out, measure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
