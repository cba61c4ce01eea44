"""What eight workers make of one rate limit, and three of a provider that is busy for ten seconds."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import asyncpg
import msgspec

from bench.sending_peer import mail_server, taken
from receiver.store import outbox, sends
from tests.api_peer import ApiPeer, Said, api_peer
from tests.processes import site
from tests.workers import value

RATE: Final = 40  # messages a second
FOR: Final = 20  # seconds
WARM: Final = 8  # seconds before that: the first messages wait for connections, and then come together
WORKERS: Final = 8
BUSY: Final = 10  # seconds of 429
BUSY_WORKERS: Final = 3
IN_FLIGHT: Final = BUSY_WORKERS * 10  # [sending] concurrency is 10
BEFORE: Final = 60  # messages that the provider takes before it is busy
ALL: Final = 300  # messages
TOKEN: Final = Said(202, "", {"x-message-id": "id-1"})
_SENT: Final = "SELECT count(*) FROM sends WHERE state = 'sent'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """`seconds`: messages in each whole second; `warm`: the most in one of the WARM seconds before."""

    wanted: float
    seconds: tuple[int, ...]
    warm: int
    overall: float

    @property
    def fine(self) -> bool:
        return abs(self.overall / self.wanted - 1) <= 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """`late`: requests after the first 429 that were in flight; `last`: seconds after it until the last of them.

    `quiet`: seconds without any request from then on.
    """

    late: int
    last: float
    quiet: float
    sent: int
    twice: int

    @property
    def fine(self) -> bool:
        return self.late <= IN_FLIGHT and self.last + self.quiet >= BUSY and self.sent == ALL and not self.twice


async def measure_rate(dsn: str, directory: Path) -> Rate:
    """Count at the mail server what WORKERS workers send by an account with a limit."""
    notes = directory / "rate.jsonl"
    async with mail_server(notes, slowest=0) as port:
        account = {"transport": "smtp", "host": "127.0.0.1", "port": port, "tls": "none", "per_second": RATE}
        async with _working(dsn, directory, account, WORKERS, RATE * (WARM + FOR + 5)) as sql:
            await value(
                sql, "SELECT count(*) >= $1 FROM sends WHERE state = 'sent'", True, RATE * (WARM + FOR + 2), within=180
            )
            await outbox.pause(sql, outbox.EVERY, None, by="bench", reason="it is over")
    times = sorted(one.at for one in taken(notes))
    seconds = Counter(int(at - times[0]) for at in times)
    counted = [at for at in times if WARM <= at - times[0] < WARM + FOR]
    return Rate(
        wanted=RATE,
        seconds=tuple(seconds[number] for number in range(WARM, WARM + FOR)),
        warm=max(seconds[number] for number in range(WARM)),
        overall=(len(counted) - 1) / (counted[-1] - counted[0]),
    )


async def measure_busy(dsn: str, directory: Path) -> Busy:
    """See what a provider hears that says `429`, `Retry-After: 10`, for ten seconds."""
    async with api_peer() as peer:
        peer.says(*[TOKEN] * BEFORE, Said(429, "{}", {"retry-after": str(BUSY)}))
        account = {"transport": "sendgrid", "url": peer.url, "api_key": "k", "private": True}
        async with _working(dsn, directory, account, BUSY_WORKERS, ALL) as sql:
            over = asyncio.create_task(_takes_again(peer))
            await value(sql, _SENT, ALL, within=120)
            await over
    times = [one.at for one in peer.asked]
    began = times[BEFORE]
    gaps = [(later - earlier, earlier) for earlier, later in zip(times[BEFORE:], times[BEFORE + 1 :], strict=False)]
    quiet, last = max(gaps)
    ids = Counter(json.loads(one.body)["personalizations"][0]["custom_args"]["send_id"] for one in peer.asked)
    refused = sum(1 for at in times if began <= at < began + BUSY)
    return Busy(
        late=refused - 1,
        last=last - began,
        quiet=quiet,
        sent=len(ids),
        twice=len(times) - refused - len(ids),
    )


async def _takes_again(peer: ApiPeer) -> None:
    while len(peer.asked) <= BEFORE:  # noqa: ASYNC110 - requests come from other processes
        await asyncio.sleep(0.01)
    await asyncio.sleep(peer.asked[BEFORE].at + BUSY - asyncio.get_running_loop().time())
    peer.says(TOKEN)


@asynccontextmanager
async def _working(
    dsn: str, directory: Path, account: Mapping[str, object], workers: int, messages: int
) -> AsyncIterator[asyncpg.Connection]:
    """So many workers, all of them ready before the first of so many messages goes out."""
    sql = await asyncpg.connect(dsn)
    try:
        await sql.execute("TRUNCATE sends, send_attempts, send_accounts, send_budgets, workers")
        await outbox.pause(sql, outbox.EVERY, None, by="bench", reason="until all workers are ready")
        for number in range(messages):
            await _queue(sql, number)
        async with site(directory, dsn) as running:
            table = json.dumps({"main": {"from": "hello@shop.example", **account}})
            started = [running.process("work", RECEIVER_ACCOUNTS=table) for _ in range(workers)]
            for process in started:
                await process.start()
            await value(sql, "SELECT count(*) FROM workers", workers, within=180)
            await outbox.resume(sql, outbox.EVERY)
            yield sql
    finally:
        await sql.close()


async def _queue(sql: asyncpg.Connection, number: int) -> None:
    await sends.queue(
        sql,
        key=f"limits:{number}",
        recipient=f"to{number}@example.com",
        template="",
        stream="transactional",
        topic=None,
        data={},
        delay=timedelta(0),
        cancel_on=[],
        handler="bench",
        event_id=None,
        message=msgspec.json.encode({"subject": f"{number}", "text": "Hello"}).decode(),
    )
