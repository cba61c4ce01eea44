"""Senders in this process, before a real SMTP server, and the outbox that they share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from receiver.sending.accounts import Account
from receiver.sending.compose import Composer
from receiver.sending.message import Message
from receiver.sending.sender import Sender
from receiver.sending.settling import Bounced
from receiver.sending.smtp import Settings, Smtp
from receiver.sending.templates import Templates
from receiver.sending.transport import Rejected
from receiver.sending_settings import SendingSettings
from receiver.store import consent, sends
from receiver.store.consent import Statement
from receiver.store.sql import Sql
from tests.pgbouncer import through
from tests.smtp_peer import Peer, smtp_peer
from tests.workers import VAULT, value

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
Chore = Callable[[asyncpg.Pool], Awaitable[None]]
STATE = "SELECT state FROM sends WHERE key = $1"


class Sending:
    """A database, its outbox, and a server that takes mail."""

    def __init__(self, dsn: str, sql: asyncpg.Connection, peer: Peer) -> None:
        self.dsn = dsn
        self.sql = sql
        self.peer = peer
        self.refused: list[str] = []
        self.senders = 0
        self.templates = Path("templates-of-tests")
        self.bounced: Bounced | None = None
        self.before: Callable[[], Awaitable[None]] | None = None  # a message is made

    def sender(
        self,
        *,
        rules: SendingSettings | None = None,
        chore: Chore | None = None,
        dsn: str | None = None,
        **account: Any,
    ) -> Sender:
        given = {"transport": "smtp", "from": "hello@shop.example", "host": "127.0.0.1", "tls": "none"}
        settings = Settings(**given | {"port": self.peer.port} | account)
        transport = Smtp(settings, command=10, final_dot=10)
        main = Account(name="main", settings=settings, transport=transport)
        return self.sender_by(main, rules=rules, chore=chore, dsn=dsn)

    def sender_by(
        self,
        account: Account,
        *,
        rules: SendingSettings | None = None,
        chore: Chore | None = None,
        dsn: str | None = None,
    ) -> Sender:
        async def bounced(_sql: Sql, row: asyncpg.Record, _account: str, _why: Rejected) -> None:
            self.refused.append(row["recipient"])

        composer = Composer(Templates(self.templates), lambda _: {})

        async def compose(sql: Sql, row: asyncpg.Record, account: Account) -> Message:
            if self.before is not None:
                await self.before()
            return await composer(sql, row, account)

        sender = Sender(
            dsn=through(dsn or self.dsn),
            accounts={account.name: account},
            compose=compose,
            bounced=self.bounced or bounced,
            rules=rules or SendingSettings(),
            vault=VAULT,
            chores=[] if chore is None else [chore],
        )
        self.senders += 1
        sender._worker += f" {self.senders}"  # as if each were a process of its own
        return sender

    @asynccontextmanager
    async def running(self, *senders: Sender) -> AsyncIterator[None]:
        stop = asyncio.Event()
        tasks = [asyncio.create_task(one.run(stop)) for one in senders]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*tasks)

    async def queue(self, key: str, *, to: str = "ann@example.com", **changes: Any) -> UUID | None:
        values: dict[str, Any] = {
            "recipient": to,
            "template": "",
            "stream": "transactional",
            "topic": None,
            "data": {},
            "delay": timedelta(0),
            "cancel_on": [],
            "handler": "test",
            "event_id": None,
            "message": msgspec.json.encode({"subject": key, "text": "Hello"}).decode(),
        }
        return await sends.queue(self.sql, key=key, **values | changes)

    async def state(self, key: str, expected: str) -> None:
        await value(self.sql, STATE, expected, key)

    async def why(self, key: str) -> str | None:
        found: str | None = await self.sql.fetchval("SELECT reason FROM sends WHERE key = $1", key)
        return found

    async def subscribed(self, *addresses: str) -> None:
        await self.sql.execute("INSERT INTO topics (name, title) VALUES ('news', 'News') ON CONFLICT DO NOTHING")
        said = [
            Statement(
                address_hash=VAULT.address_hash(one),
                address=one,
                action="subscribed",
                at=NOW,
                source="test",
                method="api",
                topic="news",
            )
            for one in addresses
        ]
        await consent.record(self.sql, said)

    @property
    def subjects(self) -> list[str]:
        return [str(mail["Subject"]) for mail in self.peer.taken]


@asynccontextmanager
async def sending_in(database: str) -> AsyncIterator[Sending]:
    """With a server of its own."""
    sql = await asyncpg.connect(database)
    try:
        async with smtp_peer() as peer:
            yield Sending(database, sql, peer)
    finally:
        await sql.close()
