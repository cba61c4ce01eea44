"""The real service in the test's own event loop: HTTP in, rows out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from receiver.contract import Occurrence, Post, World
from receiver.errors import Unavailable
from receiver.event import EventType
from receiver.providers import providers
from receiver.sources import Source
from receiver.store.privacy import Privacy
from receiver.vault import Vault
from receiver.web.service import Dispatcher, Listening, Service, serve
from tests.pgbouncer import through

SECRET_KEY = "a secret key for tests, long enough"
PRIVACY = Privacy(Vault(SECRET_KEY).address_hash)


async def no_fetch(url: str, *, max_bytes: int = 65536) -> bytes:
    raise Unavailable(f"tests fetch nothing: {url} ({max_bytes})")


WORLD = World(fetch=no_fetch)


@dataclass
class Played:
    """A demo source and the keys that sign for it."""

    source: Source
    keys: Mapping[str, str]

    def posts(self, type_: EventType, *recipients: str, run: str = "r", at: datetime | None = None) -> Sequence[Post]:
        simulation = self.source.provider.simulation
        items = list(map(simulation.sample, self.occurrences(type_, *recipients, run=run, at=at)))
        return simulation.post(items, self.keys, datetime.now(UTC))

    def occurrences(
        self, type_: EventType, *recipients: str, run: str = "r", at: datetime | None = None
    ) -> Sequence[Occurrence]:
        moment = at or datetime.now(UTC)
        return [
            Occurrence(type=type_, recipient=recipient, at=moment, run=run, number=number)
            for number, recipient in enumerate(recipients)
        ]

    def post_items(self, items: Sequence[Any]) -> Sequence[Post]:
        return self.source.provider.simulation.post(items, self.keys, datetime.now(UTC))


def play(provider: str, directory: Path, *, name: str | None = None, **extra: Any) -> Played:
    """A source of `provider` with fresh demo credentials; `extra` are further settings."""
    kind = providers()[provider]
    settings, keys = kind.simulation.demo(directory)
    bound = kind.Settings.model_validate({"provider": provider, **settings, **extra})
    return Played(Source(name=name or provider, provider=kind(bound, WORLD), settings=bound), keys)


@dataclass
class Running:
    """The service, an HTTP client for it, and a connection to its database."""

    url: str
    admin_url: str
    client: httpx.AsyncClient
    dsn: str
    connection: asyncpg.Connection
    vault: Vault
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def post(self, source: str, post: Post) -> httpx.Response:
        url = f"/webhooks/{source}" + (f"?{post.query}" if post.query else "")
        return await self.client.post(url, content=post.body, headers=dict(post.headers))

    async def events(self, where: str = "true", *values: Any) -> list[asyncpg.Record]:
        return await self.connection.fetch(f"SELECT * FROM events WHERE {where} ORDER BY position", *values)

    async def count(self, table: str) -> int:
        found: int = await self.connection.fetchval(f"SELECT count(*) FROM {table}")
        return found


@asynccontextmanager
async def running(
    dsn: str, *played: Played, dispatcher: Dispatcher | None = None, connection_dsn: str | None = None, **options: Any
) -> AsyncIterator[Running]:
    """The service over the given sources, on free ports."""
    stop = asyncio.Event()
    ready: asyncio.Future[Listening] = asyncio.get_running_loop().create_future()
    vault = Vault(SECRET_KEY)
    service = Service(
        dsn=through(dsn),
        vault=vault,
        sources={one.source.name: one.source for one in played},
        dispatcher=dispatcher,
        port=0,
        admin_ports=(0,),
        **options,
    )
    task = asyncio.create_task(serve(service, stop, ready.set_result))
    task.add_done_callback(lambda _: ready.cancel())  # a start that fails raises from the task below
    try:
        listening = await ready
    except asyncio.CancelledError:
        await task
        raise
    connection = await asyncpg.connect(connection_dsn or dsn)
    try:
        async with httpx.AsyncClient(base_url=listening.url, timeout=30) as client:
            yield Running(listening.url, listening.admin_url, client, dsn, connection, vault, stop)
    finally:
        await connection.close()
        stop.set()
        await task
