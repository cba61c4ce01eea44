"""Where a command finds what it needs: the configuration, the service that runs beside it, the database."""

from __future__ import annotations

import asyncio
import getpass
import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import asyncpg
import typer

from receiver.cli.failures import CommandError
from receiver.demo import Demo, read_demo, with_demo
from receiver.errors import ConfigError, Problem
from receiver.runfile import Run, find_run
from receiver.settings import Settings, missing_settings, read_settings, without_password
from receiver.vault import Vault

T = TypeVar("T")
NO_CONNECTION: Final = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError)


@dataclass(frozen=True, slots=True)
class Invocation:
    """The options before the command's name."""

    config: Path | None = None
    debug: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """`run`: the service that runs from the same data directory. `demo`: its demo, if it is one."""

    settings: Settings
    run: Run | None = None
    demo: Demo | None = field(default=None, repr=False)

    @property
    def url(self) -> str | None:
        """Where the running service listens."""
        return self.run.url if self.run else None

    def database(self) -> str:
        """The database's URL. Raises ConfigError, or CommandError where it is away with its service."""
        configured = self.settings.database
        if self.run and (configured is None or self.settings.embedded):
            return self.run.database
        if self.settings.embedded:
            raise CommandError("the embedded database runs only while the service does: start `receiver serve` first")
        if configured is None:
            missing = missing_settings(self.settings, secret_key=False)[0]
            here = self.settings.data_dir.absolute()
            raise ConfigError(
                [Problem(missing.key, f"{missing.wrong}, and no service runs from {here}", missing.right)]
            )
        return configured.get_secret_value()

    def vault(self) -> Vault:
        """What decrypts. Raises ConfigError without a secret key."""
        if self.settings.secret_key is None:
            raise ConfigError([one for one in missing_settings(self.settings) if one.key == "secret_key"])
        return Vault(self.settings.secret_key.get_secret_value())


def invocation(context: typer.Context) -> Invocation:
    found = context.find_root().obj
    return found if isinstance(found, Invocation) else Invocation()


def find_place(context: typer.Context) -> Place:
    """The settings, and what runs beside us. Raises ConfigError."""
    place, problems = look_around(context)
    if problems:
        raise ConfigError(problems)
    return place


def look_around(context: typer.Context) -> tuple[Place, list[Problem]]:
    """As `find_place`, but hands over what is wrong with the settings."""
    settings, problems = read_settings(invocation(context).config)
    run = find_run(settings.data_dir)
    demo = read_demo(settings.data_dir) if run and run.demo else None
    return Place(settings=with_demo(settings, demo) if demo else settings, run=run, demo=demo), problems


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection in UTC. Raises CommandError where the database cannot be reached, or goes away."""
    try:
        connection = await asyncpg.connect(
            dsn, timeout=10, server_settings={"application_name": "receiver-cli", "timezone": "UTC"}
        )
    except NO_CONNECTION as error:
        raise cannot_connect(dsn, error) from error
    try:
        yield connection
    except asyncpg.UndefinedTableError as error:
        raise CommandError(f"{without_password(dsn)} has no tables of ours yet: run `receiver migrate`") from error
    except (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, ConnectionError) as error:
        raise CommandError(f"the connection to {without_password(dsn)} was lost: {_cause(error)}") from error
    finally:
        await connection.close(timeout=5)


def cannot_connect(dsn: str, error: Exception) -> CommandError:
    """What to say when a connection failed with one of NO_CONNECTION; never the password."""
    return CommandError(f"cannot connect to {without_password(dsn)}: {_cause(error)}")


def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end."""
    return asyncio.run(coroutine)


def who() -> str:
    """The account of the operating system that runs this command, for the audit log."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a uid without a name, as in a container
        return f"uid {os.getuid()}"


def _cause(error: Exception) -> str:
    if isinstance(error, asyncpg.PostgresError):
        return str(error.args[0]) if error.args else type(error).__name__
    if isinstance(error, OSError) and not isinstance(error, TimeoutError):
        return error.strerror or "no answer"  # its text may hold the whole address, which can be long
    return "it did not answer in time" if isinstance(error, TimeoutError) else type(error).__name__
