"""A process that only runs handlers, with an admin listener of its own."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from receiver.alert_settings import AlertSettings
from receiver.maintenance import check_database, maintained
from receiver.policy_settings import PolicySettings
from receiver.retention_settings import RetentionSettings
from receiver.store.connect import KeptConnection
from receiver.vault import Vault
from receiver.watching.alarm import Alarm
from receiver.web.admin import NAME, watched
from receiver.web.listen import PortTaken, address, bind, server
from receiver.web.metrics import DispatchCollector, SendingCollector
from receiver.web.service import Dispatcher, Sends

log = structlog.get_logger("service")

PORTS: Final = 16  # tried from `admin_port` on: several workers on one host find theirs by themselves


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Everything `work` needs, built by the command line (or a test) beforehand."""

    dsn: str
    vault: Vault
    dispatcher: Dispatcher
    sender: Sends | None = None
    admin_host: str = "127.0.0.1"
    admin_port: int = 8081
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    alerts: AlertSettings = field(default_factory=AlertSettings)
    policy: PolicySettings = field(default_factory=PolicySettings)


async def work(this: Work, stop: asyncio.Event, ready: Callable[[str], None]) -> None:
    """Run handlers until `stop` is set; calls `ready` with the URL of the admin listener.

    Raises SchemaError, PortTaken, and what asyncpg raises when the database cannot be reached at the start.
    """
    await check_database(this.dsn, this.vault, this.retention)
    kept = KeptConnection(this.dsn, name=NAME)
    alarm = Alarm(kept, this.alerts, retention=this.retention, policy=this.policy)
    watching = watched(
        this.dsn,
        alarm,
        checks={"dispatch": this.dispatcher.trouble, **({"sending": this.sender.trouble} if this.sender else {})},
        collectors=[
            DispatchCollector(this.dispatcher.stats),
            *([SendingCollector(this.sender.counted)] if this.sender else []),
        ],
    )
    with _bind(this.admin_host, this.admin_port) as listener:
        async with maintained(this.dsn, this.retention), watching as application:
            admin = server(application)
            serving = asyncio.create_task(admin.serve(sockets=[listener]))
            runners = [one.run for one in (this.dispatcher, this.sender) if one is not None]
            working = [asyncio.create_task(run(stop)) for run in runners]
            ready(address(listener))
            await asyncio.wait([serving, *working], return_when=asyncio.FIRST_COMPLETED)
            stop.set()
            admin.should_exit = True
            await asyncio.gather(serving, *working)


def _bind(host: str, port: int) -> socket.socket:
    """A listening socket on the first of PORTS ports that is free. Raises PortTaken for the wanted one."""
    taken: PortTaken | None = None
    for candidate in range(port, min(port + PORTS, 65536)) if port else [0]:
        try:
            listener = bind(host, candidate, "administration")
        except PortTaken as error:
            taken = taken or error
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EADDRINUSE:
                break
        else:
            if taken:
                log.info("the admin port is taken", action="admin_port_taken", wanted=port, instead=candidate)
            return listener
    assert taken is not None  # at least one was tried
    raise taken
