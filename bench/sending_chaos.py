"""`python -m bench.sending_chaos`: what becomes of mail while everything that sends it is killed.

The simulator plays two providers; rules answer its events, some clicks among them, with transactional and marketing
mail. A web process, two workers and a Postgres with full durability are killed at random; a mail server in a process of
its own notes what it takes. Then it is seen what eight workers make of one rate limit, and three of a busy provider.

The exit status is 0 only if every promise of docs/sending.md has held.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import asyncpg
from rich.console import Console

from bench.sending_limits import measure_busy, measure_rate
from bench.sending_peer import mail_server, taken
from bench.sending_report import Result, Row, document
from receiver.contract import Post
from receiver.event import EventType
from receiver.store import consent
from receiver.store.consent import Statement
from receiver.store.schema import migrate
from receiver.vault import Vault
from tests.postgres import Cluster
from tests.processes import Load, Process, Site, site
from tests.service import SECRET_KEY, Played, play
from tests.smtp_peer import ACCOUNT
from tests.workers import value

DOCS: Final = Path(__file__).parents[1] / "docs"
PACE: Final = 8.0  # follow-ups per second
CLICKS: Final = 0.05  # share of follow-ups that a click leads to, two minutes later
PATIENCE: Final = 300.0  # seconds for what is left when the troubles are over: leases last a minute
say: Final = Console(stderr=True)

CONFIGURATION: Final = (
    """
public_url = "https://hooks.shop.example"

[sending]
reconcile = "5s"
templates_dir = "templates"
"""
    + ACCOUNT
    + """
[rules.receipt]
when = "delivered"
source = "sendgrid"
send = "receipt"

[rules.offer]
when = "delivered"
source = "postmark"
send = "offer"

[rules.next]
when = "clicked"
source = "sendgrid"
send = "receipt"
"""
)
TEMPLATES: Final = {"receipt": 'stream = "transactional"', "offer": 'stream = "marketing"\ntopic = "news"'}


class Chaos:
    """The processes that are killed, and what was done to them."""

    def __init__(self, cluster: Cluster, running: Site, dice: random.Random) -> None:
        self._cluster = cluster
        self._dice = dice
        self._web = running.process("serve")
        self._workers = [running.process("work") for _ in range(2)]
        self.troubles: list[str] = []

    async def start(self, running: Site) -> None:
        for process in (self._web, *self._workers):
            await process.start()
        await running.serving(self._web)

    async def rage(self, stop: asyncio.Event) -> None:
        """One kill after the other."""
        while not stop.is_set():
            await asyncio.sleep(self._dice.uniform(1, 5))
            what = self._dice.choice(("web", "worker", "worker", "Postgres"))
            if what == "Postgres":
                await self._crash_postgres()
            else:
                await self._kill(self._web if what == "web" else self._dice.choice(self._workers))
            self.troubles.append(f"{what} killed")

    async def _kill(self, process: Process) -> None:
        await process.end(signal.SIGKILL)
        await asyncio.sleep(self._dice.uniform(0, 1))
        await process.start()

    async def _crash_postgres(self) -> None:
        self._cluster.kill()
        await asyncio.sleep(self._dice.uniform(0, 2))
        self._cluster.start()

    async def calm(self) -> None:
        """Everything runs."""
        for process in (self._web, *self._workers):
            if not process.running:
                await process.start()


async def run(follow_ups: int, seed: int, directory: Path, *, clicks: bool, limits: bool) -> Result:
    """The whole of it. Raises RuntimeError where it does not come to its end."""
    cluster = Cluster({"max_connections": "300"})
    try:
        await migrate(cluster.dsn)
        began = time.monotonic()
        rows, troubles, notes = await _follow_ups(cluster, follow_ups, seed, directory, clicks=clicks)
        seconds = time.monotonic() - began
        say.print(f"{len(rows)} follow-ups, {len(troubles)} kills, {seconds:.0f} s")
        return Result(
            seed=seed,
            seconds=seconds,
            expected=follow_ups,
            rows=rows,
            taken=taken(notes),
            troubles=troubles,
            busy=await measure_busy(cluster.dsn, _made(directory / "busy")) if limits else None,
            rate=await measure_rate(cluster.dsn, _made(directory / "rate")) if limits else None,
        )
    except (TimeoutError, AssertionError) as error:
        raise RuntimeError(str(error) or "it took too long") from error
    finally:
        cluster.close()


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


async def _follow_ups(
    cluster: Cluster, count: int, seed: int, directory: Path, *, clicks: bool
) -> tuple[Sequence[Row], Sequence[str], Path]:
    notes = directory / "taken.jsonl"
    sendgrid, postmark = play("sendgrid", directory), play("postmark", directory)
    async with mail_server(notes) as port, site(directory, cluster.dsn, sendgrid, postmark) as running:
        _configure(directory, port)
        clicked = int(count * CLICKS) if clicks else 0
        offers = [f"offer{number}@example.com" for number in range(count // 2)]
        await _subscribe(cluster.dsn, offers)
        dice = random.Random(seed)
        chaos = Chaos(cluster, running, dice)
        await chaos.start(running)
        receipts = count - len(offers) - clicked
        plans = [
            _posts(sendgrid, EventType.CLICKED, [f"click{number}@example.com" for number in range(clicked)]),
            _posts(sendgrid, EventType.DELIVERED, [f"receipt{number}@example.com" for number in range(receipts)]),
            _posts(postmark, EventType.DELIVERED, offers),
        ]
        stop = asyncio.Event()
        raging = asyncio.create_task(chaos.rage(stop))
        try:
            await _played(running, plans, dice)
            if clicked:
                await _settled(cluster)
        finally:
            stop.set()
            await raging
        await chaos.calm()
        return await _outcome(cluster.dsn, count), chaos.troubles, notes


def _configure(directory: Path, port: int) -> None:
    (directory / "receiver.toml").write_text(CONFIGURATION.format(port=port))
    for name, meta in TEMPLATES.items():
        place = directory / "templates" / name
        place.mkdir(parents=True)
        (place / "meta.toml").write_text(meta)
        (place / "subject.txt").write_text(name)
        (place / "body.txt").write_text("Hello {{ contact.address }}, {{ unsubscribe_url }}")


async def _subscribe(dsn: str, addresses: Sequence[str]) -> None:
    hashed, now = Vault(SECRET_KEY).address_hash, datetime.now(UTC)
    said = [
        Statement(
            address_hash=hashed(one), address=one, action="subscribed", at=now, source="bench", method="api",
            topic="news",
        )
        for one in addresses
    ]  # fmt: skip
    sql = await asyncpg.connect(dsn)
    try:
        await sql.execute("INSERT INTO topics (name, title) VALUES ('news', 'News')")
        await consent.record(sql, said)
    finally:
        await sql.close()


def _posts(played: Played, type_: EventType, recipients: Sequence[str]) -> list[tuple[str, Post]]:
    """One event in each post, so that each follow-up is a transaction of its own."""
    occurrences = played.occurrences(type_, *recipients, run=type_)
    items = [played.source.provider.simulation.sample(one) for one in occurrences]
    if type_ is EventType.CLICKED:  # many people who click from one address are taken for a scanner
        items = [{**one, "ip": f"198.51.100.{number % 250 + 1}"} for number, one in enumerate(items)]
    return [(played.source.name, post) for one in items for post in played.post_items([one])]


async def _played(running: Site, plans: Sequence[Sequence[tuple[str, Post]]], dice: random.Random) -> None:
    """Clicks first, since they take two minutes; then all others mixed, at PACE."""
    clicks, *others = plans
    mixed = [one for plan in others for one in plan]
    dice.shuffle(mixed)
    tasks = set[asyncio.Task[None]]()
    began = time.monotonic()
    for number, (source, post) in enumerate([*clicks, *mixed]):
        await asyncio.sleep(began + number / PACE - time.monotonic())  # a start of Postgres keeps this process waiting
        load = Load(f"{running.url}/webhooks/{source}", [post])
        tasks.add(asyncio.create_task(load.run(1)))
        if number % 100 == 0:
            say.print(f"{number} events played")
    await asyncio.gather(*tasks)


async def _settled(cluster: Cluster) -> None:
    """Kills go on until the clicks are due, too."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            sql = await asyncpg.connect(cluster.dsn, timeout=2)
            try:
                if not await sql.fetchval("SELECT EXISTS (SELECT FROM retries WHERE handler = 'rule.next')"):
                    return
            finally:
                sql.terminate()
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            pass
        await asyncio.sleep(1)


async def _outcome(dsn: str, count: int) -> Sequence[Row]:
    """Once every follow-up has come to its end, or is left unknown for good."""
    sql = await asyncpg.connect(dsn)
    open_ = "state IN ('queued', 'leased') OR state = 'unknown' AND stream = 'transactional'"
    try:
        await value(sql, "SELECT count(*) >= $1 FROM sends", True, count, within=PATIENCE)
        await value(sql, f"SELECT count(*) FROM sends WHERE {open_}", 0, within=PATIENCE)
        rows = await sql.fetch(
            "SELECT id::text, stream, rule, state, reason, internet_message_id, attempts FROM sends ORDER BY created_at"
        )
        return [Row(*row) for row in rows]
    finally:
        await sql.close()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.sending_chaos", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--follow-ups", type=int, default=1000, help="messages that events lead to (1000)")
    parser.add_argument("--seed", type=int, default=None, help="for the same kills again; their effect may differ")
    parser.add_argument("--no-clicks", action="store_true", help="none that take two minutes to settle")
    parser.add_argument("--no-limits", action="store_true", help="only the follow-ups")
    parser.add_argument("--out", type=Path, default=DOCS, help="directory for sending-chaos.md")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    with tempfile.TemporaryDirectory(prefix="receiver-sending-") as directory:
        try:
            running = run(
                options.follow_ups,
                seed,
                Path(directory),
                clicks=not options.no_clicks,
                limits=not options.no_limits,
            )
            result = asyncio.run(running)
        except KeyboardInterrupt:
            say.print("stopped; nothing is written")
            return 130
        except RuntimeError as error:
            say.print(f"failed: {error}", markup=False)
            return 1
    (options.out / "sending-chaos.md").write_text(document(result))
    for name, figure in result.table():
        say.print(f"{name}: {figure}", markup=False, highlight=False)
    say.print("every promise has held" if result.fine else "SOMETHING WENT WRONG")
    return 0 if result.fine else 1


if __name__ == "__main__":
    sys.exit(main())
