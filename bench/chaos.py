"""`python -m bench.chaos`: what becomes of events while everything around them is killed, frozen and cut off.

Two web processes on one port, two workers, a Postgres with full durability behind a TCP proxy; the simulator plays six
providers. The exit status is 0 only if something was taken, nothing was lost, doubled or refused, and no
handler gave up on an event.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bench.chaos_counts import HANDLERS, PATIENCE, Counts, counted, lag, make_tables, say
from bench.chaos_load import Load
from bench.chaos_report import Result, Second, Trouble, document, draw
from receiver.store.schema import migrate
from tests.postgres import Cluster
from tests.processes import Process, Site, site
from tests.service import play
from tests.tcp_proxy import Proxy, proxied

DOCS: Final = Path(__file__).parents[1] / "docs"
PROVIDERS: Final = ("sendgrid", "mailgun", "postmark", "ses", "resend", "standard_webhooks")
LONG: Final = (16.0, 19.0)  # seconds: more than a provider waits for an answer, which is 15 at most
FIRST_LONG: Final = (10.0, 30.0)  # seconds from the start to the first of those
NEXT_LONG: Final = (50.0, 100.0)  # from the end of one to the next
ROOM: Final = 60.0  # seconds that a run has to last for them


class Chaos:
    """The service and what is done to it."""

    def __init__(self, cluster: Cluster, proxy: Proxy, running: Site, dice: random.Random) -> None:
        self._cluster = cluster
        self._proxy = proxy
        self._dice = dice
        self._started = time.monotonic()
        self._web = [running.process("serve", "--no-dispatch", RECEIVER_REUSE_PORT="true") for _ in range(2)]
        self._workers = [running.process("work") for _ in range(2)]
        self._starting = asyncio.Lock()
        self._serving = asyncio.Lock()  # two that want Postgres to end would both start it
        self.troubles: list[Trouble] = []

    @property
    def at(self) -> float:
        return time.monotonic() - self._started

    async def start(self, running: Site) -> None:
        for process in (*self._web, *self._workers):
            await process.start()
        await running.serving(self._web[0])
        self._started = time.monotonic()

    async def rage(self, seconds: float) -> None:
        """One trouble after the other, sometimes two at a time, for so long.

        Now and then one alone that outlasts every provider's patience.
        """
        actions: Sequence[Callable[[], Coroutine[Any, Any, str]]] = (
            *(self._kill_web, self._kill_web, self._replace_web, self._kill_worker, self._freeze_worker),
            *(self._crash_postgres, self._cut, self._silence, self._refuse),
        )
        long_at = self._dice.uniform(*FIRST_LONG) if seconds >= ROOM else seconds
        async with asyncio.TaskGroup() as tasks:
            beside = set[asyncio.Task[None]]()
            while self.at < seconds:
                await asyncio.sleep(self._dice.uniform(0.5, 3.0))
                if self.at >= long_at:
                    await asyncio.gather(*beside)  # one of them could end it early
                    await self._noted(self._dice.choice((self._lose_postgres, self._lose_network))())
                    long_at = self.at + self._dice.uniform(*NEXT_LONG)
                    continue
                task = tasks.create_task(self._noted(self._dice.choice(actions)()))
                beside.add(task)
                if self._dice.random() < 0.8:
                    await asyncio.wait([task])

    async def _noted(self, action: Awaitable[str]) -> None:
        began = self.at
        what = await action
        self.troubles.append(Trouble(began, what, self.at - began))

    async def _anew(self, process: Process, how: signal.Signals) -> None:
        await process.end(how)
        await asyncio.sleep(self._dice.uniform(0, 1))
        await self._have_running(process)

    async def _have_running(self, process: Process) -> None:
        async with self._starting:
            if not process.running:  # two troubles may have met
                await process.start()

    async def keep_up(self) -> None:
        """Start what has ended by itself, because it found no database when it began, as every supervisor does."""
        while True:
            await asyncio.sleep(1)
            for process in (*self._web, *self._workers):
                await self._have_running(process)

    async def _kill_web(self) -> str:
        await self._anew(self._dice.choice(self._web), signal.SIGKILL)
        return "web killed"

    async def _replace_web(self) -> str:
        await self._anew(self._dice.choice(self._web), signal.SIGTERM)
        return "web restarted"

    async def _kill_worker(self) -> str:
        await self._anew(self._dice.choice(self._workers), signal.SIGKILL)
        return "worker killed"

    async def _freeze_worker(self) -> str:
        worker = self._dice.choice(self._workers)
        worker.send(signal.SIGSTOP)
        await asyncio.sleep(self._dice.uniform(1, 14))  # leases last ten seconds
        worker.send(signal.SIGCONT)
        return "worker frozen"

    async def _crash_postgres(self) -> str:
        async with self._serving:
            self._cluster.kill()
            await asyncio.sleep(self._dice.uniform(0, 2))
            self._cluster.start()
        return "Postgres crashed"

    async def _cut(self) -> str:
        self._proxy.cut()
        return "network cut"

    async def _silence(self) -> str:
        self._proxy.passing.clear()
        await asyncio.sleep(self._dice.uniform(0.5, 5))
        self._proxy.passing.set()
        return "network silent"

    async def _refuse(self) -> str:
        self._proxy.refusing = True
        self._proxy.cut()
        await asyncio.sleep(self._dice.uniform(0.5, 3))
        self._proxy.refusing = False
        return "network refused"

    async def _lose_postgres(self) -> str:
        async with self._serving:
            self._cluster.stop()
            await asyncio.sleep(self._dice.uniform(*LONG))
            self._cluster.start()
        return "Postgres away"

    async def _lose_network(self) -> str:
        self._proxy.passing.clear()
        await asyncio.sleep(self._dice.uniform(*LONG))
        self._proxy.passing.set()
        return "network away"

    async def calm(self) -> None:
        """Everything runs and reaches everything."""
        self._proxy.refusing = False
        self._proxy.passing.set()
        for process in (*self._web, *self._workers):
            await self._have_running(process)


async def run(seconds: float, seed: int, rate: float, directory: Path) -> Result:
    """The whole of it. Raises RuntimeError where it does not come to its end."""
    cluster = Cluster({"max_connections": "200"})
    try:
        await migrate(cluster.dsn)
        async with proxied(cluster.dsn) as (proxy, dsn):
            sources = [play(name, directory) for name in PROVIDERS]
            async with site(directory, dsn, *sources) as running:
                (running.directory / "handlers" / "chaos.py").write_text(HANDLERS)
                await make_tables(cluster.dsn)
                dice = random.Random(seed)
                chaos = Chaos(cluster, proxy, running, dice)
                await chaos.start(running)
                load = Load(running.url, sources, rate, random.Random(seed + 1))
                timeline = list[Second]()
                counts = await _under_way(chaos, load, cluster, seconds, timeline)
                return _result(chaos, load, counts, timeline, seed)
    finally:
        cluster.close()


async def _under_way(chaos: Chaos, load: Load, cluster: Cluster, seconds: float, timeline: list[Second]) -> Counts:
    watching = asyncio.create_task(_watch(chaos, load, cluster, timeline, seconds))
    loading = asyncio.create_task(load.run())
    keeping = asyncio.create_task(chaos.keep_up())
    try:
        await chaos.rage(seconds)
        await chaos.calm()
        load.stop()
        await asyncio.wait_for(loading, PATIENCE)
        return await counted(cluster.dsn)
    except TimeoutError as error:
        raise RuntimeError(
            f"after {PATIENCE:.0f} s of calm not everything was taken: {load.answers}, {load.second_answers}"
        ) from error
    finally:
        tasks = watching, loading, keeping
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _watch(chaos: Chaos, load: Load, cluster: Cluster, timeline: list[Second], seconds: float) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=say, transient=True) as progress:
        task = progress.add_task("chaos", total=seconds)
        while True:
            behind = await lag(cluster.dsn)
            timeline.append(Second(chaos.at, len(load.taken), load.again, behind))
            unseen = "Postgres is away" if behind is None else f"{behind:,} not handled"
            what = f"{len(load.taken):,} events taken, {unseen}, {len(chaos.troubles)} troubles"
            progress.update(task, completed=min(chaos.at, seconds), description=what)
            await asyncio.sleep(1)


def _result(chaos: Chaos, load: Load, counts: Counts, timeline: Sequence[Second], seed: int) -> Result:
    return Result(
        seconds=chaos.at,
        seed=seed,
        sent=load.sent,
        acknowledged=len(load.taken),
        rows=sum(counts.found.values()),
        missing=len(load.taken - counts.found.keys()),
        invented=len(counts.found.keys() - load.taken),
        doubled=sum(count - 1 for count in counts.found.values()),
        told_again=len(load.told_again),
        stored_then=sum(counts.stored(parcel.recipients) for parcel in load.told_again),
        handlers=counts.handlers,
        dead_letters=counts.dead_letters,
        retries=counts.retries,
        attempts=dict(load.answers),
        repeated=load.repeated,
        second_attempts=dict(load.second_answers),
        again=load.again_codes,
        troubles=chaos.troubles,
        timeline=timeline,
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.chaos", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600, help="how long the troubles go on (600)")
    parser.add_argument("--rate", type=float, default=200, help="events per second (200)")
    parser.add_argument("--seed", type=int, default=None, help="for the same troubles again; their effect may differ")
    parser.add_argument("--out", type=Path, default=DOCS, help="directory for chaos.md and images/chaos.png")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    with tempfile.TemporaryDirectory(prefix="receiver-chaos-") as directory:
        try:
            result = asyncio.run(run(options.seconds, seed, options.rate, Path(directory)))
        except KeyboardInterrupt:
            say.print("stopped; nothing is written")
            return 130
        except RuntimeError as error:
            say.print(f"failed: {error}", markup=False)
            return 1
    (options.out / "images").mkdir(parents=True, exist_ok=True)
    draw(result, options.out / "images" / "chaos.png")
    (options.out / "chaos.md").write_text(document(result, "images/chaos.png"))
    say.print(f"{result.acknowledged:,} acknowledged; wrong: {result.told or 'nothing'}", markup=False)
    with contextlib.suppress(ValueError):
        say.print(f"written: {options.out / 'chaos.md'}", markup=False)
    return 0 if result.fine else 1


if __name__ == "__main__":
    sys.exit(main())
