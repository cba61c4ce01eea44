"""A database that is away or slow, too much in flight: what is answered, and that nothing is lost or piles up."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from receiver.contract import Post, Reply
from receiver.event import EventType
from receiver.web.budget import OVERHEAD, Budget
from tests.service import WORLD, Played, Running, play, running
from tests.tcp_proxy import proxied
from tests.waiting import until


def impatient(played: Played, timeout: float = 3.0) -> Played:
    """The same source, of a provider that waits only so long for an answer."""
    kind = type(played.source.provider)
    quick = type(kind.__name__, (kind,), {"reply": _with_timeout(kind.reply, timeout)})
    object.__setattr__(played.source, "provider", quick(played.source.settings, WORLD))
    return played


def _with_timeout(reply: Reply, timeout: float) -> Reply:
    return replace(reply, timeout=timeout, max_body=1 << 20)


def posts(sendgrid: Played, count: int, run: str = "r") -> Sequence[Post]:
    return [
        sendgrid.posts(EventType.DELIVERED, f"u{number}@one.test", run=f"{run}{number}")[0] for number in range(count)
    ]


async def stored(service: Running) -> Any:
    return await service.count("events")


async def test_a_database_that_comes_back_in_time_costs_nothing(database: str, tmp_path: Path) -> None:
    """requests are held while the database is away, and answered with success once it is back."""
    sendgrid = play("sendgrid", tmp_path)
    async with (
        proxied(database) as (proxy, dsn),
        running(dsn, sendgrid, connection_dsn=database) as service,
    ):
        assert (await service.post("sendgrid", posts(sendgrid, 1, "warm")[0])).status_code == 200
        proxy.refusing = True
        proxy.cut()
        sending = [asyncio.create_task(service.post("sendgrid", post)) for post in posts(sendgrid, 20)]

        async def writer_in_trouble() -> bool:
            answer = await service.client.get(f"{service.admin_url}/readyz")
            return bool(answer.status_code == 503 and answer.json()["parts"]["writer"] != "ok")

        await until(writer_in_trouble)
        assert not any(task.done() for task in sending)
        proxy.refusing = False
        answers = await asyncio.gather(*sending)
        assert {answer.status_code for answer in answers} == {200}
        assert await service.count("events") == 21


async def test_no_success_without_a_row(database: str, tmp_path: Path) -> None:
    """while the database is away, requests get the provider's "try again" code with Retry-After, never a success."""
    sendgrid = impatient(play("sendgrid", tmp_path))
    async with (
        proxied(database) as (proxy, dsn),
        running(dsn, sendgrid, connection_dsn=database) as service,
    ):
        proxy.refusing = True
        proxy.cut()
        answers = await asyncio.gather(*(service.post("sendgrid", post) for post in posts(sendgrid, 10)))
        assert {(answer.status_code, answer.headers["retry-after"]) for answer in answers} == {(503, "30")}
        assert await service.count("events") == 0
        proxy.refusing = False
        again = await asyncio.gather(*(service.post("sendgrid", post) for post in posts(sendgrid, 10)))
        assert {answer.status_code for answer in again} == {200}
        assert await service.count("events") == 10


async def test_a_database_that_stops_answering_in_mid_transaction(database: str, tmp_path: Path) -> None:
    """a connection that goes silent is given up in time, and a retry of the provider stores each event once."""
    sendgrid = impatient(play("sendgrid", tmp_path))
    async with (
        proxied(database) as (proxy, dsn),
        running(dsn, sendgrid, connection_dsn=database) as service,
    ):
        assert (await service.post("sendgrid", posts(sendgrid, 1, "warm")[0])).status_code == 200
        once = posts(sendgrid, 10)
        proxy.passing.clear()
        started = time.monotonic()
        answers = await asyncio.gather(*(service.post("sendgrid", post) for post in once))
        assert {answer.status_code for answer in answers} == {503}
        assert time.monotonic() - started < 3.0  # the provider's own time-out
        proxy.passing.set()
        again = await asyncio.gather(*(service.post("sendgrid", post) for post in once))
        assert {answer.status_code for answer in again} == {200}
        assert await service.count("events") == 11


async def test_memory_stays_bounded_under_a_flood(database: str, tmp_path: Path) -> None:
    """with the database away, a flood of large bodies is held within the byte budget and refused beyond it."""
    sendgrid = impatient(play("sendgrid", tmp_path))
    body = os.urandom(500_000).hex().encode()
    async with (
        proxied(database) as (proxy, dsn),
        running(dsn, sendgrid, connection_dsn=database, max_in_flight=4 << 20) as service,
    ):
        proxy.refusing = True
        proxy.cut()
        held = [asyncio.create_task(service.post("sendgrid", post)) for post in posts(sendgrid, 3)]
        peak = 0

        async def watch() -> None:
            nonlocal peak
            while True:
                metrics = (await service.client.get(f"{service.admin_url}/metrics")).text
                (line,) = [line for line in metrics.splitlines() if line.startswith("receiver_in_flight_bytes")]
                peak = max(peak, int(float(line.split()[1])))

        async def seen() -> bool:
            return peak > 0

        watching = asyncio.create_task(watch())
        await until(seen)
        flood = await asyncio.gather(*(service.client.post("/webhooks/sendgrid", content=body) for _ in range(30)))
        answers = await asyncio.gather(*held)
        watching.cancel()
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.status_code for answer in flood} <= {401, 503}
    assert 0 < peak <= 4 << 20


async def test_stopping_finishes_what_is_in_hand(database: str, tmp_path: Path) -> None:
    """a stop while requests wait for the database answers them all, and what got a success is stored."""
    sendgrid = play("sendgrid", tmp_path)
    async with running(database, sendgrid) as service:
        sending = [asyncio.create_task(service.post("sendgrid", post)) for post in posts(sendgrid, 40)]
        await until(lambda: stored(service))
        service.stop.set()
        answers = await asyncio.gather(*sending, return_exceptions=True)
        succeeded = [answer for answer in answers if isinstance(answer, httpx.Response) and answer.status_code == 200]
        assert await service.count("events") >= len(succeeded) > 0


class _Body:
    """A request whose body is arriving."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.taken = 0
        self.evicted = False

    @property
    def connection(self) -> _Body:
        return self

    def evict(self) -> None:
        self.evicted = True
        self.budget.give(self)


def test_unfinished_bodies_give_way_the_oldest_first() -> None:
    """bytes that do not fit are taken from unfinished bodies, the oldest first, and never from whole ones."""
    budget = Budget(10 * OVERHEAD)
    whole, old, young, new = (_Body(budget) for _ in range(4))
    for body in (whole, old, young):
        assert budget.grow(body, 2 * OVERHEAD)
        budget.wait(body)
    budget.whole(whole)
    assert budget.grow(new, 2 * OVERHEAD)
    assert (old.evicted, young.evicted) == (True, False)
    assert not budget.grow(new, 9 * OVERHEAD)
    assert (young.evicted, whole.evicted, whole.taken) == (True, False, 3 * OVERHEAD)
    for body in (whole, new):
        budget.give(body)
        budget.give(body)
    assert budget.used == 0
