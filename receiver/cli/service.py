"""What `serve` and `work` run: everything is checked first, then built once, then handed to the service."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from receiver.cli import banner
from receiver.cli.checking import Checked, check_service, check_worker
from receiver.cli.database import connected
from receiver.cli.failures import report
from receiver.cli.place import Invocation, Place
from receiver.cli.processes import UNFIT, run_several
from receiver.contacts.rules import rules_of
from receiver.contract import World
from receiver.demo import make_demo, with_demo
from receiver.dispatch.worker import Worker
from receiver.embedded import DataDirLock, lock_data_dir, start
from receiver.errors import ConfigError, ReceiverError, SchemaError
from receiver.logs import set_up_logs
from receiver.networks import Proxies
from receiver.outbound import Outbound
from receiver.runfile import Run, kept, this_run
from receiver.sending.means import means_of
from receiver.settings import Settings, read_settings
from receiver.store.schema import migrate
from receiver.vault import vault_of
from receiver.web.admin_port import ports_from
from receiver.web.listen import bind
from receiver.web.service import Listening, Service, serve
from receiver.web.work import Work, work

if TYPE_CHECKING:
    from receiver.sending.sender import Sender

log = structlog.get_logger("service")


def run_service(invocation: Invocation, *, demo: bool, dispatch: bool, workers: int) -> int:
    """Until SIGINT or SIGTERM; returns the exit code.

    Raises ConfigError, EmbeddedError, SchemaError, PortTaken, CommandError.
    """
    config = invocation.config
    settings, problems = read_settings(config)
    set_up_logs(settings.log_level, settings.log_format)
    with ExitStack() as stack:
        lock: DataDirLock | None = None
        if demo:
            if problems:
                raise ConfigError(problems)
            lock = stack.enter_context(lock_data_dir(settings.data_dir))
            settings = with_demo(settings, make_demo(lock.data_dir))
        outbound = Outbound()
        checked = check_service(settings, problems, World(fetch=outbound.fetch), dispatch=dispatch)
        dsn = _database(settings, lock, stack)
        start = _Start(checked, dsn, outbound, demo=demo, workers=workers)
        if workers == 1:
            _run(_serve(start, 0))
            return 0
        start.listener = stack.enter_context(bind(settings.host, settings.port, "webhooks", shared=settings.reuse_port))
        return run_several(workers, lambda number: _one_of(start, number, debug=invocation.debug))


@dataclass(slots=True)
class _Start:
    """What a web process needs. `workers`: how many there are. `listener`: the socket that several share."""

    checked: Checked
    dsn: str
    outbound: Outbound
    demo: bool
    workers: int
    listener: socket.socket | None = None


def _one_of(start: _Start, number: int, *, debug: bool) -> int:
    """One of several web processes; returns its exit code."""
    try:
        _run(_serve(start, number))
    except (ReceiverError, ConfigError, OSError) as error:
        code = report(error, debug=debug)
        return UNFIT if isinstance(error, SchemaError) else code
    return 0


def run_worker(place: Place) -> None:
    """Until SIGINT or SIGTERM. Raises ConfigError, SchemaError, CommandError."""
    settings = place.settings
    set_up_logs(settings.log_level, settings.log_format)
    checked = check_worker(settings)
    _run(_work(checked, place.database()))


def _database(settings: Settings, lock: DataDirLock | None, stack: ExitStack) -> str:
    """The database's URL; the embedded one is started, and brought to this release's schema."""
    assert settings.database is not None
    if not settings.embedded:
        return settings.database.get_secret_value()
    lock = lock or stack.enter_context(lock_data_dir(settings.data_dir))
    running = stack.enter_context(start(lock.data_dir, lock=lock))
    asyncio.run(migrate(running.dsn()))
    return running.dsn()


async def _serve(start: _Start, number: int) -> None:
    """`number`: which one of several processes; the first one speaks, and each has an admin listener of its own."""
    settings, vault = start.checked.settings, vault_of(start.checked.settings)
    handlers = start.checked.handlers
    worker = Worker(dsn=start.dsn, handlers=handlers, vault=vault, rules=rules_of(settings)) if handlers else None
    with ExitStack() as stack:

        def told(listening: Listening) -> None:
            url, admin_url = listening.url, listening.admin_url
            run = this_run(url=url, admin_url=admin_url, database=start.dsn, demo=start.demo)
            _keep_run_file(settings, run, stack)

        def ready(listening: Listening) -> None:
            told(listening)
            if number == 0:
                with _nobody_reads():
                    banner.show_service(start.checked, listening, start.dsn, demo=start.demo)

        service = Service(
            dsn=start.dsn,
            vault=vault,
            sources=start.checked.sources,
            dispatcher=worker,
            sender=_sender(start.checked, start.dsn),
            means=means_of(settings),
            host=settings.host,
            port=settings.port,
            listener=start.listener,
            reuse_port=settings.reuse_port,
            admin_host=settings.admin_host,
            admin_ports=_admin_ports(settings, number, start.workers),
            max_in_flight=settings.max_in_flight,
            body_timeout=settings.body_timeout,
            proxies=Proxies(settings.trusted_proxies, settings.proxy_header.lower()),
            drop=settings.privacy.drop,
            retention=settings.retention,
            alerts=settings.alerts,
            pages=settings.pages,
            public_url=settings.public_url,
            policy=settings.policy,
        )
        await _reachable(start.dsn)
        try:
            await serve(service, _stop_on_signals(stack), ready, told)
        finally:
            await start.outbound.aclose()


def _admin_ports(settings: Settings, number: int, workers: int) -> Sequence[int]:
    """The port of this process alone; beside a service that it is to replace, one of those that stay free for it."""
    wanted = settings.admin_port + number if settings.admin_port else 0
    return ports_from(wanted, step=workers) if settings.reuse_port else (wanted,)


def _sender(checked: Checked, dsn: str) -> Sender | None:
    """None where there are no accounts: what sends is not even loaded then."""
    if not checked.accounts:
        return None
    from receiver.sending.running import sender_of

    return sender_of(checked.settings, checked.accounts, vault_of(checked.settings), dsn)


async def _work(checked: Checked, dsn: str) -> None:
    settings = checked.settings
    await _reachable(dsn)
    this = Work(
        dsn=dsn,
        vault=vault_of(settings),
        sender=_sender(checked, dsn),
        dispatcher=Worker(dsn=dsn, handlers=checked.handlers or (), vault=vault_of(settings), rules=rules_of(settings)),
        admin_host=settings.admin_host,
        admin_port=settings.admin_port,
        retention=settings.retention,
        alerts=settings.alerts,
        policy=settings.policy,
    )
    with ExitStack() as stack:

        def ready(admin_url: str) -> None:
            run = this_run(url=None, admin_url=admin_url, database=dsn, demo=False)
            _keep_run_file(settings, run, stack)
            with _nobody_reads():
                banner.show_worker(checked, admin_url, dsn)

        await work(this, _stop_on_signals(stack), ready)


async def _reachable(dsn: str) -> None:
    """Raises CommandError where the database cannot be had at the start; later outages are lived through."""
    async with connected(dsn):
        pass


@contextmanager
def _nobody_reads() -> Iterator[None]:
    """A service does not end because the reader of its standard output has gone."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _keep_run_file(settings: Settings, run: Run, stack: ExitStack) -> None:
    """As long as `stack` stays open; in place of what this process has said before."""
    try:
        stack.enter_context(kept(settings.data_dir, run))
    except OSError as error:  # a read-only container: everything works, other commands need the settings
        log.warning(
            "no run file was written", action="run_file_failed", directory=str(settings.data_dir), error=error.strerror
        )


def _stop_on_signals(standing: ExitStack) -> asyncio.Event:
    """Set by the first SIGINT, SIGTERM or SIGHUP (the terminal was closed); a second one ends the process at once.

    `standing` ends with it: who asks how the service is means those that are to stay.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def ask(number: signal.Signals) -> None:
        stop.set()  # before the log line, which fails when the terminal is gone
        loop.remove_signal_handler(number)
        standing.close()
        log.info("stopping", action="stopping", signal=number.name)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, ask, number)
    return stop


def _run(main: Coroutine[Any, Any, None]) -> None:
    """On uvloop where there is one."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(main)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # there is none for this platform
        return None
    return uvloop.new_event_loop
