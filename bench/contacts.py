"""`python -m bench.contacts`: contacts at size. Long, and wants some 15 GB of disk; nothing of it runs by itself.

sendable  whether 1,000 random addresses may be mailed, in one query, in a database of a million contacts and five
          million events: milliseconds (at most 20)
merge     batches of events through service, worker and Postgres of that database: with a handler that does nothing, and
          with the two that keep contacts and suppressions (CPU per event; at least 0.6)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import asyncpg

from bench import cpu, work
from bench.contacts_fill import VAULT, address, fill, occurrences
from bench.database import LARGE, OURS, Server
from bench.longrun import longrun, say
from bench.measure import Pair, Side
from bench.processes import Failed, Process
from receiver.event import SHARDS
from receiver.providers import providers
from receiver.store.consent import SENDABLE, sendable

RESULTS: Final = Path(__file__).with_name("contacts.json")
HANDLERS: Final = {"nothing": ["nothing0"], "contacts": ["engagement", "suppression"]}
WORKERS: Final = {"nothing": "1", "contacts": "contacts"}  # as bench.children takes it
TOPIC: Final = "newsletter"
ASKED: Final = 1000  # addresses of one query
ROUNDS: Final = 101
PAIRS: Final = 5
BATCHES: Final = 40
CLIENTS: Final = 8
MOST_MS: Final = 20.0
LEAST_RATIO: Final = 0.6

# The last place of each shard's log, found from the index: the table is far too large to be read for it.
_ENDS: Final = """
SELECT array_agg(s.shard), array_agg(e.txid), array_agg(e.position)
FROM generate_series(0, $1::int - 1) AS s (shard)
CROSS JOIN LATERAL (
    SELECT txid, position FROM events WHERE shard = s.shard AND gen = 1 ORDER BY txid DESC, position DESC LIMIT 1
) AS e
"""
_BEHIND: Final = """
SELECT count(*) FROM cursors
JOIN unnest($2::int[], $3::xid8[], $4::int8[]) AS ends (shard, txid, position) USING (shard)
WHERE cursors.handler = ANY ($1) AND ((cursors.txid, cursors.position) < (ends.txid, ends.position)
      OR EXISTS (SELECT FROM unnest(cursors.pending) AS waiting (txid)
                 JOIN events e ON e.txid = waiting.txid AND e.shard = cursors.shard AND e.gen = cursors.gen))
"""
_LEASED: Final = "SELECT count(*) FROM cursors WHERE handler = ANY ($1) AND lease_until > clock_timestamp()"
# What the others have done meanwhile is none of theirs.
_SKIP: Final = """
UPDATE cursors c SET txid = ends.txid, position = ends.position, pending = '{}'
FROM unnest($2::int[], $3::xid8[], $4::int8[]) AS ends (shard, txid, position)
WHERE c.shard = ends.shard AND c.handler = ANY ($1)
"""


class Contacts:
    """One run: a Postgres with the large database, the service, and two workers in turn."""

    def __init__(self, stack: ExitStack, directory: Path, contacts: int, events: int) -> None:
        self._stack, self._directory, self._contacts = stack, directory, contacts
        self._keys = work.make_sources(directory)
        self.server = Server(stack, directory, LARGE)
        self._dsn = self.server.dsn(OURS)
        started = time.perf_counter()
        asyncio.run(fill(self._dsn, directory, contacts, events))
        say.print(f"filled in {time.perf_counter() - started:,.0f} s")
        self._runs = 0

    def sendable(self) -> dict[str, Any]:
        """Milliseconds of one query for a thousand addresses: for who waits, on Postgres's clock, and of CPU time."""
        return asyncio.run(_sendable(self._dsn, self._contacts))

    def merge(self, batches: int, pairs: int) -> dict[str, Any]:
        """Ratios of CPU per event, the handler that does nothing to those of contacts."""
        load = Process(self._stack, "bench.load")
        service = Process(self._stack, "bench.children", "service", self._dsn, str(self._directory))
        load.hear()
        url = service.hear()["url"]
        found = []
        for number in range(pairs + 1):
            floor, ours = (self._side(load, service, url, role, batches) for role in ("nothing", "contacts"))
            if number:  # the first warms up
                found.append(Pair(floor, ours))
                say.print(
                    f"nothing {floor.total * 1e6:.1f} µs, contacts {ours.total * 1e6:.1f} µs: {found[-1].ratio:.2f}"
                )
        return _merged(found)

    def _side(self, load: Process, service: Process, url: str, role: str, batches: int) -> Side:
        """CPU seconds per event of service, worker and Postgres, until the worker's cursors have passed everything."""
        worker = self._worker(role)
        self._prepare(load, url, batches)
        pids = {"service": service.pid, "worker": worker.pid}
        before, started = self._cpu(pids), time.perf_counter()
        load.ask(rate=0)
        self.server.until(_BEHIND, HANDLERS[role], *self._ends(), equals=0)
        seconds, after = time.perf_counter() - started, self._cpu(pids)
        worker.close()
        seen, events = worker.hear()["seen"], batches * work.BATCH
        worker.end()
        if any(count != events for count in seen.values()):
            raise Failed(f"{events} events were sent, and the handlers were given {seen}")
        self.server.until("SELECT count(*) FROM retries", equals=0)
        return Side({name: (after[name] - before[name]) / events for name in after}, events / seconds)

    def _worker(self, role: str) -> Process:
        """It goes on at the log's end: what came while the other one ran is none of its own."""
        self.server.ask(_SKIP, HANDLERS[role], *self._ends())
        worker = Process(self._stack, "bench.children", "worker", self._dsn, WORKERS[role])
        worker.hear()
        self.server.until(_LEASED, HANDLERS[role], equals=len(HANDLERS[role]) * SHARDS)
        return worker

    def _ends(self) -> Sequence[Any]:
        return tuple(self.server.ask(_ENDS, SHARDS)[0])

    def _prepare(self, load: Process, url: str, batches: int) -> None:
        """Signed batches of events of the mix, about contacts here and there."""
        self._runs += 1
        simulation, now = providers()["sendgrid"].simulation, datetime.now(UTC)
        all_ = occurrences(batches * work.BATCH, self._contacts, f"contacts{self._runs}-{time.time_ns()}", now)
        posts = [
            post
            for first in range(0, len(all_), work.BATCH)
            for post in simulation.post(
                [simulation.sample(one) for one in all_[first : first + work.BATCH]], self._keys["sendgrid"], now
            )
        ]
        file = self._directory / "work"
        file.write_bytes(work.pickled([work.wire("sendgrid", post) for post in posts]))
        load.ask(url=url, clients=CLIENTS, file=str(file))

    def _cpu(self, pids: Mapping[str, int]) -> dict[str, float]:
        return {name: cpu.of_process(pid) for name, pid in pids.items()} | {"postgres": self.server.cpu()}


async def _sendable(dsn: str, contacts: int) -> dict[str, Any]:
    connection = await asyncpg.connect(dsn)
    chance, backend = random.Random(1), connection.get_server_pid()
    taken, used, counted, answers = list[float](), list[float](), list[float](), Counter[str]()
    try:
        for _ in range(ROUNDS):
            hashes = _asked(chance, contacts)
            before, started = cpu.of_process(backend), time.perf_counter()
            rows = await sendable(connection, hashes, TOPIC, "marketing")
            taken.append((time.perf_counter() - started) * 1e3)
            used.append((cpu.of_process(backend) - before) * 1e3)
            answers.update(row["reason"] or "sendable" for row in rows)
        for _ in range(ROUNDS):
            plan = await _explain(connection, _asked(chance, contacts), "FORMAT JSON, SUMMARY, TIMING OFF")
            counted.append(json.loads(plan)[0]["Execution Time"])
        text = await _explain(connection, _asked(chance, contacts), "FORMAT TEXT")
    finally:
        await connection.close()
    return {
        "addresses": ASKED,
        "client_ms": _spread(taken),
        "postgres_ms": _spread(counted),
        "postgres_cpu_ms": _spread(used),
        "answers": {answer: count / ROUNDS / ASKED for answer, count in answers.most_common()},
        "plan": text.splitlines(),
    }


def _spread(times: Sequence[float]) -> dict[str, float]:
    return {"first": times[0], "least": min(times), "median": statistics.median(times), "p99": sorted(times)[-2]}


def _asked(chance: random.Random, contacts: int) -> list[bytes]:
    """Hashes of random contacts, and of a few addresses that nobody has heard of."""
    return [VAULT.address_hash(address(chance.randrange(int(contacts * 1.02)))) for _ in range(ASKED)]


async def _explain(connection: asyncpg.Connection, hashes: Sequence[bytes], options: str) -> str:
    rows = await connection.fetch(
        f"EXPLAIN (ANALYZE, BUFFERS, {options}) {SENDABLE}", list(hashes), TOPIC, "marketing", timeout=60
    )
    return "\n".join(row[0] for row in rows)


def _merged(pairs: Sequence[Pair]) -> dict[str, Any]:
    ratios = [pair.ratio for pair in pairs]
    floors, ours = [pair.floor for pair in pairs], [pair.ours for pair in pairs]
    return {
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "cpu_us": {"nothing": _costs(floors), "contacts": _costs(ours)},
        "per_second": {
            "nothing": statistics.median(side.per_second for side in floors),
            "contacts": statistics.median(side.per_second for side in ours),
        },
    }


def _costs(sides: Sequence[Side]) -> dict[str, float]:
    return {name: statistics.median(side.cpu[name] for side in sides) * 1e6 for name in sides[0].cpu}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.contacts", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--contacts", type=int, default=1_000_000, help="contacts in the database (1,000,000)")
    parser.add_argument("--events", type=int, default=5_000_000, help="events in the database (5,000,000)")
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"pairs of nothing and contacts ({PAIRS})")
    parser.add_argument("--batches", type=int, default=BATCHES, help=f"batches of 500 on each side ({BATCHES})")
    parser.add_argument("--explore", action="store_true", help="then wait, with the database's URL, until Ctrl-C")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results are written")
    return parser.parse_args(arguments)


def _run(stack: ExitStack, options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    bench = Contacts(stack, directory, options.contacts, options.events)
    found = {"contacts": options.contacts, "events": options.events, "sendable": bench.sendable()}
    say.print(f"sendable: {found['sendable']['client_ms']['median']:.1f} ms for {ASKED:,} addresses")
    found["merge"] = bench.merge(options.batches, options.pairs)
    if options.explore:
        say.print(f"psql '{bench.server.dsn(OURS)}'   (Ctrl-C ends it)", markup=False, soft_wrap=True)
        with suppress(KeyboardInterrupt):
            signal.pause()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: everything is cleared away
    found = longrun("contacts", options.out, lambda stack, directory: _run(stack, options, directory))
    good = found["sendable"]["client_ms"]["median"] <= MOST_MS and found["merge"]["ratio"] >= LEAST_RATIO
    say.print("both as wanted" if good else f"wanted: at most {MOST_MS} ms, and a ratio of at least {LEAST_RATIO}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
