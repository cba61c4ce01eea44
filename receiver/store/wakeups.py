"""Telling workers of other processes that events were committed, so that they need not wait for their next look.

A hint and no more: one that is lost costs the time to the next poll. Never in an ingest transaction, since a NOTIFY is
committed under a lock of the whole cluster.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import asyncpg

CHANNEL: Final = "receiver_committed"

_ANNOUNCE: Final = "SELECT pg_notify($1, $2)"


async def announce(connection: asyncpg.Connection, sender: str) -> None:
    """Wake all who listen on this database; they are told who it was."""
    await connection.execute(_ANNOUNCE, CHANNEL, sender)


async def listen(connection: asyncpg.Connection, heard: Callable[[str], None]) -> None:
    """Have `heard` called with the sender of each announcement. For a direct connection only."""

    def call(_connection: object, _pid: int, _channel: str, sender: object) -> None:
        heard(str(sender))

    await connection.add_listener(CHANNEL, call)
