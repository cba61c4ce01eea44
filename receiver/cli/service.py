"""What `serve` and `work` run: everything is checked first, then built once, then handed to the service."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import structlog

from receiver.cli import banner
from receiver.cli.checking import Checked, check_service, check_worker
from receiver.cli.database import connected
from receiver.cli.place import Place
from receiver.contract import World
from receiver.demo import make_demo, with_demo
from receiver.dispatch.worker import Worker
from receiver.embedded import DataDirLock, lock_data_dir, start
from receiver.errors import ConfigError
from receiver.logs import set_up_logs
from receiver.maintenance import check_database, maintained
from receiver.outbound import Outbound
from receiver.runfile import kept, this_run
from receiver.settings import Settings, read_settings
from receiver.store.schema import migrate
from receiver.vault import Vault
from receiver.web.service import Listening, Service, serve

log = structlog.get_logger("service")


def run_service(config: Path | None, *, demo: bool, dispatch: bool) -> None:
    """Until SIGINT or SIGTERM. Raises ConfigError, EmbeddedError, SchemaError, PortTaken, CommandError."""
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
        _run(_serve(checked, dsn, outbound, stack, demo=demo, config=config))


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


async def _serve(
    checked: Checked, dsn: str, outbound: Outbound, stack: ExitStack, *, demo: bool, config: Path | None
) -> None:
    settings, vault = checked.settings, _vault(checked.settings)
    worker = Worker(dsn=dsn, handlers=checked.handlers, vault=vault) if checked.handlers else None

    def ready(listening: Listening) -> None:
        _keep_run_file(settings, listening, dsn, stack, demo=demo, config=config)
        with _nobody_reads():
            banner.show_service(checked, listening, dsn, demo=demo)

    service = Service(
        dsn=dsn,
        vault=vault,
        sources=checked.sources,
        dispatcher=worker,
        host=settings.host,
        port=settings.port,
        admin_host=settings.admin_host,
        admin_port=settings.admin_port,
        max_in_flight=settings.max_in_flight,
        body_timeout=settings.body_timeout,
        retention=settings.retention,
    )
    await _reachable(dsn)
    try:
        await serve(service, _stop_on_signals(), ready)
    finally:
        await outbound.aclose()


async def _work(checked: Checked, dsn: str) -> None:
    await _reachable(dsn)
    await check_database(dsn, checked.settings.retention)
    with _nobody_reads():
        banner.show_worker(checked, dsn)
    worker = Worker(dsn=dsn, handlers=checked.handlers or (), vault=_vault(checked.settings))
    async with maintained(dsn, checked.settings.retention):
        await worker.run(_stop_on_signals())


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


def _vault(settings: Settings) -> Vault:
    assert settings.secret_key is not None
    return Vault(settings.secret_key.get_secret_value())


def _keep_run_file(
    settings: Settings, listening: Listening, dsn: str, stack: ExitStack, *, demo: bool, config: Path | None
) -> None:
    run = this_run(
        url=listening.url,
        admin_url=listening.admin_url,
        database=dsn,
        demo=demo,
        config=str(config.absolute()) if config else None,
    )
    try:
        stack.enter_context(kept(settings.data_dir, run))
    except OSError as error:  # a read-only container: everything works, other commands need the settings
        log.warning(
            "no run file was written", action="run_file_failed", directory=str(settings.data_dir), error=error.strerror
        )


def _stop_on_signals() -> asyncio.Event:
    """Set by the first SIGINT, SIGTERM or SIGHUP (the terminal was closed); a second one ends the process at once."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def ask(number: signal.Signals) -> None:
        stop.set()  # before the log line, which fails when the terminal is gone
        loop.remove_signal_handler(number)
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
