"""Looking at the database, at most every few seconds however many ask, and never for long."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import asyncpg

from receiver.errors import SchemaError
from receiver.store import schema
from receiver.store.connect import AWAY, KeptConnection
from receiver.store.observations import Observation, observe

FRESH: Final = 5.0  # seconds that an observation serves
STALE: Final = 60.0  # seconds after which it is history
TIMEOUT: Final = 5.0
PATIENCE: Final = 1.0  # seconds that a scrape waits for a new one

_NO_WRITES: Final = """
SELECT CASE WHEN pg_is_in_recovery() THEN 'it is a standby, which takes no writes'
            WHEN current_setting('transaction_read_only') = 'on' THEN 'it is read-only' END
"""


class Observer:
    """The last observation, renewed when somebody asks for it and it is no longer fresh."""

    def __init__(self, connection: KeptConnection) -> None:
        self._connection = connection
        self._looking: asyncio.Task[None] | None = None
        self._tried_at = float("-inf")
        self._seen_at = float("-inf")
        self._observation: Observation | None = None

    @property
    def latest(self) -> Observation | None:
        """What was last seen; None where that is history."""
        return self._observation if time.monotonic() - self._seen_at < STALE else None

    @property
    def fresh(self) -> bool:
        """Whether the last look succeeded and is recent."""
        return time.monotonic() - self._seen_at < FRESH + TIMEOUT

    async def refresh(self, *, within: float = PATIENCE) -> None:
        """Look again, unless that was done just now; who waits longer than `within` gets what was seen before."""
        if self._looking is None and time.monotonic() - self._tried_at >= FRESH:
            self._looking = asyncio.create_task(self._look())
        if self._looking is not None:
            await asyncio.wait([self._looking], timeout=within)

    async def _look(self) -> None:
        self._tried_at = time.monotonic()
        try:
            async with self._connection.transaction(within=TIMEOUT) as connection:
                self._observation = await observe(connection)
            self._seen_at = time.monotonic()
        except AWAY:  # `fresh` tells, and readiness has the reason
            pass
        finally:
            self._looking = None

    async def close(self) -> None:
        """End a look that is under way."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        self._connection.close()


class Probe:
    """Whether the database answers and can be written to. One look serves whoever asks within a second.

    A database that only takes long to answer counts as well while it has answered in the last SLOW seconds: one slow
    moment is no outage.
    """

    AGAIN: Final = 1.0
    SLOW: Final = 10.0
    WITHIN: Final = 3.0

    def __init__(self, connection: KeptConnection) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()
        self._asked_at = float("-inf")
        self._answered_at = float("-inf")
        self._trouble: str | None = None

    async def trouble(self) -> str | None:
        """What is wrong, or None."""
        async with self._turn:
            if time.monotonic() - self._asked_at >= self.AGAIN:
                self._trouble = await self._ask()
                self._asked_at = time.monotonic()
            return self._trouble

    async def _ask(self) -> str | None:
        try:
            async with self._connection.transaction(within=self.WITHIN) as connection:
                wrong: str | None = await connection.fetchval(_NO_WRITES)
                await schema.check(connection)
        except (TimeoutError, asyncpg.QueryCanceledError):
            late = time.monotonic() - self._answered_at
            return f"no answer within {self.WITHIN:g} s" if late > self.SLOW else None
        except SchemaError as error:
            return str(error)
        except AWAY as error:
            return f"cannot connect: {type(error).__name__}"
        self._answered_at = time.monotonic()
        return wrong

    def close(self) -> None:
        """Cut its connection."""
        self._connection.close()
