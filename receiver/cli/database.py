"""The command line's connection to Postgres, with messages for people."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from receiver.cli.failures import CommandError
from receiver.settings import without_password
from receiver.store.connect import NO_SETTINGS, connect

NO_CONNECTION: Final = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError)

_LOST: Final = (
    *(asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, asyncpg.CrashShutdownError),
    *(asyncpg.InterfaceError, ConnectionError),
)


@asynccontextmanager
async def connected(dsn: str, *, settings: Mapping[str, str] = NO_SETTINGS) -> AsyncIterator[asyncpg.Connection]:
    """A connection with settings of Postgres.

    Raises CommandError where the database cannot be reached, or goes away.
    """
    try:
        connection = await connect(dsn, name="receiver-cli", settings=settings)
    except NO_CONNECTION as error:
        raise cannot_connect(dsn, error) from error
    try:
        yield connection
    except asyncpg.UndefinedTableError as error:
        raise CommandError(f"{without_password(dsn)} has no tables of ours yet: run `receiver migrate`") from error
    except _LOST as error:
        raise CommandError(f"the connection to {without_password(dsn)} was lost: {_cause(error)}") from error
    finally:
        await connection.close(timeout=5)


def cannot_connect(dsn: str, error: Exception) -> CommandError:
    """What to say when a connection failed with one of NO_CONNECTION; never the password."""
    return CommandError(f"cannot connect to {without_password(dsn)}: {_cause(error)}")


def _cause(error: Exception) -> str:
    if isinstance(error, asyncpg.PostgresError):
        return str(error.args[0]) if error.args else type(error).__name__
    if isinstance(error, OSError) and not isinstance(error, TimeoutError):
        return error.strerror or "no answer"  # its text may hold the whole address, which can be long
    return "it did not answer in time" if isinstance(error, TimeoutError) else type(error).__name__
