"""A process that only runs handlers, with an admin listener of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from receiver.alert_settings import AlertSettings
from receiver.maintenance import check_database, maintained
from receiver.policy_settings import PolicySettings
from receiver.retention_settings import RetentionSettings
from receiver.store.connect import KeptConnection
from receiver.vault import Vault
from receiver.watching.alarm import Alarm
from receiver.web.admin import NAME, watched
from receiver.web.admin_port import AdminListener, ports_from
from receiver.web.metrics import DispatchCollector, SendingCollector
from receiver.web.service import Dispatcher, Sends


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
    with AdminListener(this.admin_host, ports_from(this.admin_port)) as admin:
        async with maintained(this.dsn, this.retention), watching as application:
            await admin.start(application)
            serving = asyncio.create_task(admin.run())
            runners = [one.run for one in (this.dispatcher, this.sender) if one is not None]
            working = [asyncio.create_task(run(stop)) for run in runners]
            ready(admin.url)
            await asyncio.wait([serving, *working], return_when=asyncio.FIRST_COMPLETED)
            stop.set()
            await asyncio.gather(admin.stop(), serving, *working)
