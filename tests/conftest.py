"""What every test may use: a fresh database (`database`), a connection to it (`sql`), the command line with it
(`receiver`), an outbox and a server that takes mail (`sending`), a server of its own to crash (`own_cluster`)."""

import asyncio
import functools
import inspect
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import hypothesis
import pytest
import structlog

from receiver.store.schema import migrate
from tests.postgres import FAST, OVERRIDE, Cluster, RunServer
from tests.scratch import use_memory

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

    from tests.cli import Receiver
    from tests.outbox import Sending

_SERVER = pytest.StashKey[RunServer]()
_CLUSTER = pytest.StashKey[Cluster]()

use_memory()
HANGS: Final = 400.0  # seconds, many times what the longest test takes
# A machine that is busy with other things must fail no test.
UNTIMED: Final[dict[str, Any]] = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("usual", **UNTIMED)
hypothesis.settings.register_profile("thorough", max_examples=4000, **UNTIMED)
hypothesis.settings.load_profile("usual")


def pytest_configure(config: pytest.Config) -> None:
    given: dict[str, str] = getattr(config, "workerinput", {})
    if "postgres_dsn" in given:  # a worker of a parallel run
        config.stash[_SERVER] = RunServer(dsn=given["postgres_dsn"], run=given["postgres_run"])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """More than there are cores: tests of leases, delays and processes wait for half of their time."""
    return (os.cpu_count() or 1) + 2


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: "WorkerController") -> None:
    """In the parallel run's first process, which outlives its workers: it owns the server."""
    server = _server(node.config)
    node.workerinput |= {"postgres_dsn": server.dsn, "postgres_run": server.run}


def pytest_unconfigure(config: pytest.Config) -> None:
    """Called after Ctrl-C too. Whoever made something takes it away."""
    if _CLUSTER in config.stash:
        config.stash[_CLUSTER].close()
    elif _SERVER in config.stash and not hasattr(config, "workerinput"):
        asyncio.run(config.stash[_SERVER].drop_template())


def pytest_itemcollected(item: pytest.Item) -> None:
    if "database" in getattr(item, "fixturenames", ()):
        item.add_marker("database")
    if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        item.obj = _ended(item.obj)


def _ended(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Coroutine[Any, Any, None]]:
    """The test, which fails where it hangs: others of the run may wait for what it holds."""

    @functools.wraps(test)
    async def limited(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(HANGS):
            await test(*args, **kwargs)

    return limited


def _server(config: pytest.Config) -> RunServer:
    if _SERVER not in config.stash:
        dsn = os.environ.get(OVERRIDE)
        if dsn is None:
            config.stash[_CLUSTER] = Cluster(FAST)
            dsn = config.stash[_CLUSTER].dsn
        config.stash[_SERVER] = RunServer(dsn=dsn)
    return config.stash[_SERVER]


@pytest.fixture(autouse=True)
def _logging_of_its_own() -> Iterator[None]:
    """Logs go to standard error, as in every process of ours: what a command prints is read as data.

    A command line run inside a test sets up logging to a stream that is closed after it.
    """
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
    yield
    structlog.reset_defaults()
    root = logging.getLogger()
    root.handlers[:] = [one for one in root.handlers if type(one) is not logging.StreamHandler]


@pytest.fixture
async def database(pytestconfig: pytest.Config) -> AsyncIterator[str]:
    """The DSN of a database of the test's own, with the project's schema and no rows."""
    async with _server(pytestconfig).fresh_database() as dsn:
        yield dsn


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to that database."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@pytest.fixture
def receiver(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> "Receiver":
    """The command line, with that database."""
    from tests.cli import command_for

    return command_for(database, tmp_path, capsys, monkeypatch)


@pytest.fixture
async def sending(database: str) -> "AsyncIterator[Sending]":
    """Senders of the test's own, before a server that takes mail."""
    from tests.outbox import sending_in

    async with sending_in(database) as one:
        yield one


@pytest.fixture
async def own_cluster() -> AsyncIterator[Cluster]:
    """A durable server of the test's own, with the project's schema: for crashes and restarts."""
    cluster = Cluster({})
    try:
        await migrate(cluster.dsn)
        yield cluster
    finally:
        cluster.close()
