"""`python -m bench.broadcast`: a broadcast to a million contacts, by one worker. Long; nothing of it runs by itself.

The worker is a process as `receiver work` starts it, the mail server another. What is watched: the memory that the
worker takes from the first message to the last, and how many messages wait in the outbox. At the end every message that
was queued has come to the server once, and to nobody who must not be mailed.

The exit status is 0 if that holds, if no more than `AHEAD` waited, and if memory did not grow by more than a tenth
after the first tenth of the messages.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg
from rich.console import Console

from bench import cpu, work
from bench.contacts_fill import fill_contacts
from bench.sending_peer import mail_server, taken
from receiver.sending.broadcasts import AHEAD
from receiver.store.schema import migrate
from tests.postgres import Cluster
from tests.processes import Process, Site, site
from tests.smtp_peer import ACCOUNT

EVERY: Final = 2.0  # seconds between looks
SHOWN: Final = 20  # lines of a whole run
GROWTH: Final = 1.1
MEMORY: Final = {"shared_buffers": "1GB", "max_wal_size": "8GB"}
say: Final = Console(stderr=True)

CONFIGURATION: Final = (
    """
public_url = "https://hooks.shop.example"

[sending]
templates_dir = "templates"
"""
    + ACCOUNT
)
_LOOK: Final = """
SELECT b.state, b.queued, count(*) FILTER (WHERE s.state IN ('queued', 'leased')) AS waiting
FROM broadcasts b LEFT JOIN sends s ON s.broadcast_id = b.id AND s.state IN ('queued', 'leased') GROUP BY b.id
"""
_STATES: Final = "SELECT state, count(*) FROM sends GROUP BY state"
# Whom the guard has to refuse, asked without it.
_WRONG: Final = """
SELECT count(*) FROM sends s JOIN contacts c ON c.address = s.recipient
CROSS JOIN LATERAL sendable(c.address_hash, 'newsletter', 'marketing') AS may
WHERE s.state = 'sent' AND NOT may.sendable
"""


@dataclass(frozen=True, slots=True)
class Look:
    """`memory`: MiB of the worker, resident; `most`: the most so far. `worker`, `postgres`: seconds of CPU."""

    seconds: float
    state: str
    queued: int
    waiting: int
    memory: float
    most: float
    worker: float
    postgres: float

    @property
    def gone(self) -> int:
        return self.queued - self.waiting

    def line(self) -> str:
        return (
            f"{self.seconds:7,.0f} s  {self.gone:11,} gone  {self.waiting:6,} wait  {self.memory:6.1f} MiB "
            f"(at most {self.most:.1f})"
        )


async def run(contacts: int, most: int | None, directory: Path) -> bool:
    """Whether everything is as it should be. `most`: messages after which it is cancelled."""
    cluster = Cluster(MEMORY)
    notes = directory / "taken.jsonl"
    try:
        await migrate(cluster.dsn)
        await fill_contacts(cluster.dsn, contacts)
        async with mail_server(notes, slowest=0) as port, site(directory, cluster.dsn) as running:
            _configure(directory, port)
            async with _working(running) as worker:
                await _start(running)
                looks = await _watch(cluster, worker, most)
                if most is not None:
                    await _command(running, "broadcast", "cancel", "bench", "--yes")
                    await _watch(cluster, worker, None)
        return await _told(cluster.dsn, notes, looks)
    finally:
        cluster.close()


def _configure(directory: Path, port: int) -> None:
    (directory / "receiver.toml").write_text(CONFIGURATION.format(port=port))
    place = directory / "templates" / "news"
    place.mkdir(parents=True)
    (place / "meta.toml").write_text('stream = "marketing"\ntopic = "newsletter"')
    (place / "subject.txt").write_text("News")
    (place / "body.txt").write_text("Hello {{ contact.address }}, {{ unsubscribe_url }}")


@asynccontextmanager
async def _working(running: Site) -> AsyncIterator[Process]:
    worker = running.process("work", RECEIVER_SECRET_KEY=work.SECRET_KEY)
    await worker.start()
    try:
        yield worker
    finally:
        await worker.end(signal.SIGTERM)


async def _start(running: Site) -> None:
    began = time.monotonic()
    await _command(running, "broadcast", "start", "bench", "--template", "news", "--topic", "newsletter", "--yes")
    say.print(f"counted and started in {time.monotonic() - began:.1f} s")


async def _command(running: Site, *arguments: str) -> None:
    command = running.process(*arguments, RECEIVER_SECRET_KEY=work.SECRET_KEY)
    await command.start()
    if await command.ended() != 0:
        raise RuntimeError(command.log())


async def _watch(cluster: Cluster, worker: Process, most: int | None) -> Sequence[Look]:
    """Until nothing waits any more, or so many messages are gone."""
    began, looks, shown = time.monotonic(), list[Look](), 0.0
    server = int((cluster.data_dir / "postgres" / "postmaster.pid").read_text().split()[0])
    sql = await asyncpg.connect(cluster.dsn)
    own = [sql.get_server_pid()]
    try:
        while True:
            row = await sql.fetchrow(_LOOK)
            assert row is not None
            memory, highest = _memory(worker.pid)
            seconds = time.monotonic() - began
            used = cpu.of_process(worker.pid), cpu.of_tree(server, without=own)
            looks.append(Look(seconds, row["state"], row["queued"], row["waiting"], memory, highest, *used))
            if looks[-1].seconds >= shown:
                say.print(looks[-1].line())
                shown += max(EVERY, looks[-1].seconds / SHOWN)
            if (row["state"] != "running" and not row["waiting"]) or (most is not None and looks[-1].gone >= most):
                return looks
            await asyncio.sleep(EVERY)
    finally:
        await sql.close()


def _memory(pid: int) -> tuple[float, float]:
    """MiB now, and the most it ever was."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return int(values["VmRSS"].split()[0]) / 1024, int(values["VmHWM"].split()[0]) / 1024


async def _told(dsn: str, notes: Path, looks: Sequence[Look]) -> bool:
    sql = await asyncpg.connect(dsn)
    try:
        states = {row["state"]: row["count"] for row in await sql.fetch(_STATES)}
        wrong = await sql.fetchval(_WRONG, timeout=900)
    finally:
        await sql.close()
    arrived = Counter(one.send_id for one in taken(notes))
    first, last = looks[0], looks[-1]
    early = next(look for look in looks if look.gone >= last.gone / 10)
    result = {
        "seconds": round(last.seconds, 1),
        "per_second": round(last.gone / last.seconds, 1),
        "cpu_ms_of_one": {
            "worker": round((last.worker - first.worker) / last.gone * 1e3, 2),
            "postgres": round((last.postgres - first.postgres) / last.gone * 1e3, 2),
        },
        "states": states,
        "arrived": len(arrived),
        "twice": sum(1 for count in arrived.values() if count > 1),
        "to_nobody_who_may_be_mailed": wrong,
        "most_waiting": max(look.waiting for look in looks),
        "memory_mib": {"after_a_tenth": round(early.most, 1), "at_the_end": round(last.most, 1)},
    }
    print(json.dumps(result, indent=2))
    return (
        not wrong
        and arrived.total() == len(arrived) == states.get("sent", 0)
        and not states.keys() - {"sent", "skipped", "cancelled"}
        and result["most_waiting"] <= AHEAD
        and last.most <= early.most * GROWTH
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.broadcast",
        description=__doc__,
        epilog="example: python -m bench.broadcast --contacts 50000",
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--contacts", type=int, default=1_000_000, help="three in four may be mailed (1000000)")
    parser.add_argument("--most", type=int, default=None, help="cancel it after so many messages")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    with tempfile.TemporaryDirectory(prefix="receiver-broadcast-") as directory:
        try:
            fine = asyncio.run(run(options.contacts, options.most, Path(directory)))
        except KeyboardInterrupt:
            say.print("stopped")
            return 130
        except RuntimeError as error:
            say.print(f"failed: {error}", markup=False)
            return 1
    say.print("as it should be" if fine else "SOMETHING WENT WRONG")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
