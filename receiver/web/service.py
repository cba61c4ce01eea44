"""The running service: both listeners, the writer, and, unless told otherwise, the handlers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import asyncpg

from receiver.ingest.receive import Ingest
from receiver.ingest.refusals import Refusals
from receiver.ingest.writer import Writer
from receiver.maintenance import check_database, maintained
from receiver.retention_settings import RetentionSettings
from receiver.sources import Source
from receiver.vault import Vault
from receiver.warm import settle
from receiver.web.admin import Check, admin_app
from receiver.web.budget import Budget
from receiver.web.http import Listener
from receiver.web.listen import GRACE, Server, address, allow_files, bind, server
from receiver.web.metrics import IngestCollector
from receiver.web.webhooks import Webhooks


class Dispatcher(Protocol):
    """What runs the handlers: `receiver.dispatch.worker.Worker`."""

    def wake(self) -> None:
        """New events were committed."""
        ...

    async def run(self, stop: asyncio.Event) -> None:
        """Hand events to handlers until `stop` is set."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Everything `serve` needs, built by the command line (or a test) beforehand.

    `dispatcher`: None runs no handlers in this process. `listener`: the socket for webhooks, where several processes
    share one; else `host` and `port` are bound.
    """

    dsn: str
    vault: Vault
    sources: Mapping[str, Source]
    dispatcher: Dispatcher | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    listener: socket.socket | None = None
    reuse_port: bool = False
    admin_host: str = "127.0.0.1"
    admin_port: int = 8081
    max_in_flight: int = 64 << 20
    body_timeout: float = 10.0
    retention: RetentionSettings = field(default_factory=RetentionSettings)


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the service can be reached."""

    url: str
    admin_url: str


async def serve(service: Service, stop: asyncio.Event, ready: Callable[[Listening], None]) -> None:
    """Run until `stop` is set; calls `ready` once both listeners accept.

    Raises SchemaError (the database does not fit this release), PortTaken, and what asyncpg raises when the database
    cannot be reached at the start. Later outages are lived through.
    """
    await check_database(service.dsn, service.retention)
    allow_files()
    public, admin = service.listener or bind(service.host, service.port, "webhooks", shared=service.reuse_port), None
    try:
        admin = bind(service.admin_host, service.admin_port, "administration")
        async with maintained(service.dsn, service.retention):
            await _run(service, public, admin, stop, ready)
    finally:
        public.close()
        if admin is not None:
            admin.close()


async def _run(
    service: Service,
    public: socket.socket,
    admin: socket.socket,
    stop: asyncio.Event,
    ready: Callable[[Listening], None],
) -> None:
    dispatcher = service.dispatcher
    writer = Writer(service.dsn, on_commit=dispatcher.wake if dispatcher else lambda: None)
    refusals = Refusals(service.dsn, service.vault)
    ingest = Ingest(writer, service.vault, refusals)
    budget = Budget(service.max_in_flight)
    webhooks = Webhooks(service.sources, ingest, budget, body_timeout=service.body_timeout)
    listener = Listener(webhooks, budget)
    admin_server = server(admin_app(_checks(service, writer), IngestCollector(ingest, writer, budget)))
    await writer.start()
    await refusals.start()
    stop_dispatch = asyncio.Event()
    dispatching = [asyncio.create_task(dispatcher.run(stop_dispatch))] if dispatcher else []
    serving = asyncio.create_task(admin_server.serve(sockets=[admin]))
    try:
        await _started(admin_server, serving)
        await listener.start(public)
        settle()
        ready(Listening(address(public), address(admin)))
        await _until(stop, [serving, *dispatching])
    finally:
        # First nothing new comes in, then what is in hand is committed, then the handlers stop.
        await listener.stop(within=GRACE)
        await writer.stop()
        await refusals.stop()
        stop_dispatch.set()
        await asyncio.gather(*dispatching, return_exceptions=True)
        admin_server.should_exit = True  # to the last, it says how the stop goes on
        await asyncio.gather(serving, return_exceptions=True)


async def _started(server: Server, serving: asyncio.Task[None]) -> None:
    while not server.started:
        if serving.done():
            serving.result()
        await asyncio.sleep(0.005)


async def _until(stop: asyncio.Event, tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait for `stop`; a part that ends before is a fault and ends the service, so that it is started anew."""
    stopping = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    for task in done:
        if task is not stopping:
            task.result()


def _checks(service: Service, writer: Writer) -> dict[str, Check]:
    async def database() -> str | None:
        try:
            connection = await asyncpg.connect(service.dsn, timeout=3)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            return f"cannot connect: {type(error).__name__}"
        with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            await connection.close()
        return None

    async def writing() -> str | None:
        return writer.trouble

    return {"database": database, "writer": writing}
