"""Being woken by the commits of other processes: by LISTEN on a connection of its own, which may go at any time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

import asyncpg
import structlog

from receiver.dispatch.database import GONE
from receiver.store import wakeups
from receiver.store.connect import connect, is_lent

log: Final = structlog.get_logger("receiver.dispatch")

_LOOK: Final = 30.0  # seconds after which a connection that says nothing is asked whether it is still there
_AGAIN: Final = 2.0
_AWAY: Final = (*GONE, asyncpg.PostgresError)


async def listen(dsn: str, *, name: str, heard: Callable[[str], None]) -> None:
    """Call `heard` with the sender of each announcement, and with "" when some may have been missed.

    Runs until cancelled; behind a pooler, where nobody can listen, it does nothing. Losing the connection is nobody's
    trouble: workers look by themselves too.
    """
    while True:
        try:
            connection = await connect(dsn, name=f"receiver listener {name}", command_timeout=10)
            try:
                if is_lent(connection):
                    log.info("looking by polling alone: the database is behind a pooler", action="polling_only")
                    connection.terminate()
                    await asyncio.Event().wait()
                await _hear(connection, heard)
            finally:
                connection.terminate()
        except _AWAY as error:
            log.debug("cannot listen", action="listener_lost", error=type(error).__name__)
        await asyncio.sleep(_AGAIN * random.uniform(0.5, 1))  # noqa: S311 - no secret


async def _hear(connection: asyncpg.Connection, heard: Callable[[str], None]) -> None:
    """Until the connection is lost, which may raise."""
    lost = asyncio.Event()
    connection.add_termination_listener(lambda _: lost.set())
    await wakeups.listen(connection, heard)
    heard("")
    while True:
        try:
            async with asyncio.timeout(_LOOK):
                await lost.wait()
        except TimeoutError:
            await connection.execute("SELECT")
        else:
            return
