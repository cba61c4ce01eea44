"""The running service: both listeners, the writer, and, unless told otherwise, the handlers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol
from uuid import UUID

from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.routing import BaseRoute

from receiver.alert_settings import AlertSettings
from receiver.dispatch.worker import DispatchStats
from receiver.ingest.announcer import Announcer
from receiver.ingest.receive import Ingest
from receiver.ingest.refusals import Refusals
from receiver.ingest.writer import Writer
from receiver.maintenance import check_database, maintained
from receiver.networks import Proxies
from receiver.page_settings import PageSettings
from receiver.policy_settings import PolicySettings
from receiver.retention_settings import RetentionSettings
from receiver.sending.means import NO_MEANS, Means
from receiver.sources import Source
from receiver.store.connect import KeptConnection, KeptConnections
from receiver.store.privacy import Privacy
from receiver.vault import Vault
from receiver.warm import settle
from receiver.watching.alarm import EVERY, Alarm
from receiver.web import api
from receiver.web.admin import NAME, Check, watched
from receiver.web.admin_port import AdminListener
from receiver.web.budget import Budget
from receiver.web.http import Listener
from receiver.web.listen import GRACE, address, allow_files, bind
from receiver.web.metrics import DispatchCollector, IngestCollector, SendingCollector
from receiver.web.pages import CONNECTIONS, Pages
from receiver.web.webhooks import Webhooks

TROUBLE: Final = 10.0  # seconds that a failed write counts against readiness


class Dispatcher(Protocol):
    """What runs the handlers: `receiver.dispatch.worker.Worker`."""

    @property
    def id(self) -> UUID:
        """Tells it from other processes' workers."""
        ...

    def wake(self) -> None:
        """New events were committed."""
        ...

    async def run(self, stop: asyncio.Event) -> None:
        """Hand events to handlers until `stop` is set."""
        ...

    def trouble(self) -> str | None:
        """Why handlers may not be getting their events, or None."""
        ...

    def stats(self) -> DispatchStats:
        """For metrics."""
        ...


class Sends(Protocol):
    """What sends the outbox: `receiver.sending.sender.Sender`, which is loaded only where there are accounts."""

    async def run(self, stop: asyncio.Event) -> None:
        """Send what is due until `stop` is set."""
        ...

    def trouble(self) -> str | None:
        """Why nothing may be going out, or None."""
        ...

    def counted(self) -> Mapping[tuple[str, str], int]:
        """For metrics: how many, by account and outcome."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Everything `serve` needs, built by the command line (or a test) beforehand.

    `dispatcher`: None runs no handlers in this process. `sender`: None sends nothing; `means`: what those who ask for
    messages have to know. `listener`: the socket for webhooks, where several processes share one; else `host` and
    `port` are bound. `admin_ports`: the first that is free is taken, and left for an earlier one that becomes free.
    `drop`: columns of events that are never stored.
    """

    dsn: str
    vault: Vault
    sources: Mapping[str, Source]
    dispatcher: Dispatcher | None = None
    sender: Sends | None = None
    means: Means = NO_MEANS
    host: str = "127.0.0.1"
    port: int = 8080
    listener: socket.socket | None = None
    reuse_port: bool = False
    admin_host: str = "127.0.0.1"
    admin_ports: Sequence[int] = (8081,)
    max_in_flight: int = 64 << 20
    body_timeout: float = 10.0
    proxies: Proxies = field(default_factory=Proxies)
    drop: Sequence[str] = ()
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    alerts: AlertSettings = field(default_factory=AlertSettings)
    pages: PageSettings = field(default_factory=PageSettings)
    public_url: str | None = None
    policy: PolicySettings = field(default_factory=PolicySettings)
    watch_every: float = EVERY

    @property
    def mailed_url(self) -> str | None:
        """Where links in mail lead; None where nothing would send that mail."""
        return self.public_url if self.means.no_links is None else None


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the service can be reached."""

    url: str
    admin_url: str


Told = Callable[[Listening], None]


async def serve(service: Service, stop: asyncio.Event, ready: Told, moved: Told = lambda _: None) -> None:
    """Run until `stop` is set; calls `ready` once both listeners accept, `moved` when the admin listener has moved.

    Raises SchemaError (the database does not fit this release), PortTaken, and what asyncpg raises when the database
    cannot be reached at the start. Later outages are lived through.
    """
    await check_database(service.dsn, service.vault, service.retention)
    allow_files()
    public = service.listener or bind(service.host, service.port, "webhooks", shared=service.reuse_port)
    with contextlib.closing(public), AdminListener(service.admin_host, service.admin_ports) as admin:
        async with maintained(service.dsn, service.retention):
            await _run(service, public, admin, stop, ready, moved)


async def _run(
    service: Service,
    public: socket.socket,
    admin: AdminListener,
    stop: asyncio.Event,
    ready: Told,
    moved: Told,
) -> None:
    dispatcher = service.dispatcher
    announcer = Announcer(service.dsn, sender=str(dispatcher.id) if dispatcher else "")

    def committed() -> None:
        announcer.announce()
        if dispatcher is not None:
            dispatcher.wake()

    writer = Writer(service.dsn, Privacy(service.vault.address_hash, service.drop), on_commit=committed)
    refusals = Refusals(service.dsn, service.vault)
    ingest = Ingest(writer, service.vault, refusals)
    budget = Budget(service.max_in_flight)
    for_pages = KeptConnections(service.dsn, name="receiver-pages", size=CONNECTIONS)
    webhooks = Webhooks(
        service.sources,
        ingest,
        budget,
        body_timeout=service.body_timeout,
        proxies=service.proxies,
        pages=Pages(for_pages, service.vault, service.pages, service.mailed_url, service.proxies),
    )
    async with (
        api.routes(service.dsn, service.vault, service.public_url, service.policy, service.means) as routes,
        _watched(service, writer, ingest, budget, routes) as administration,
    ):
        listener = Listener(webhooks, budget)
        await writer.start()
        await refusals.start()
        await announcer.start()
        await admin.start(administration)
        stop_dispatch = asyncio.Event()
        runners = [one.run for one in (dispatcher, service.sender) if one is not None]
        dispatching = [asyncio.create_task(run(stop_dispatch)) for run in runners]
        serving = asyncio.create_task(admin.run(lambda: moved(Listening(address(public), admin.url))))
        try:
            await listener.start(public)
            settle()
            ready(Listening(address(public), admin.url))
            await _until(stop, [serving, *dispatching])
        finally:
            serving.cancel()  # it stays where it is
            # First nothing new comes in, then what is in hand is committed, then the handlers stop.
            await listener.stop(within=GRACE)
            for_pages.close()
            await writer.stop()
            await refusals.stop()
            await announcer.stop()
            stop_dispatch.set()
            await asyncio.gather(*dispatching, return_exceptions=True)
            await admin.stop()  # to the last, it says how the stop goes on


def _watched(
    service: Service, writer: Writer, ingest: Ingest, budget: Budget, routes: Sequence[BaseRoute]
) -> contextlib.AbstractAsyncContextManager[Starlette]:
    def heard() -> dict[str, int]:
        return {source: n for (what, source, how), n in ingest.counts.items() if (what, how) == ("request", "stored")}

    alarm = Alarm(
        KeptConnection(service.dsn, name=NAME),
        service.alerts,
        sources=service.sources,
        heard=heard,
        retention=service.retention,
        policy=service.policy,
        every=service.watch_every,
    )

    def writing() -> str | None:
        """What went wrong a while ago is history: without requests there is no commit to clear it."""
        return writer.trouble if time.monotonic() - writer.troubled_at < TROUBLE else None

    checks: dict[str, Check] = {"writer": writing}
    collectors: list[Collector] = [IngestCollector(ingest, writer, budget, service.sources)]
    if service.sender:
        checks["sending"] = service.sender.trouble
        collectors.append(SendingCollector(service.sender.counted))
    if service.dispatcher:
        checks["dispatch"] = service.dispatcher.trouble
        collectors.append(DispatchCollector(service.dispatcher.stats))
    return watched(service.dsn, alarm, checks=checks, collectors=collectors, sources=service.sources, routes=routes)


async def _until(stop: asyncio.Event, tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait for `stop`; a part that ends before is a fault and ends the service, so that it is started anew."""
    stopping = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    for task in done:
        if task is not stopping:
            task.result()
