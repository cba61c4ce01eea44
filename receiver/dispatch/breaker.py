"""Stops a handler that fails for everything until a probe succeeds, and one that asks for a rest until that is over."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final
from uuid import UUID

from receiver.dispatch.calling import Caller
from receiver.dispatch.database import Database
from receiver.dispatch.failing import Failure
from receiver.store import breakers
from receiver.store.breakers import Hold

_KNOWN: Final = 10_000  # events at most
_SHORTEST_REST: Final = 1.0  # seconds: whoever asks for none at all would be asked without a pause


class Tripped(Exception):
    """One failure too many: nothing of this transaction may commit, so that no event is spent on it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.error_type)
        self.failure = failure


class NotNow(Exception):
    """A batch handler has asked for later: it wants nothing for so many `seconds`. `why`: without addresses."""

    def __init__(self, seconds: float, why: str) -> None:
        super().__init__(why)
        self.seconds = seconds
        self.why = why


class Breaker:
    """One handler's breaker, as this worker knows it.

    It opens when `limit` different events in a row have failed at their first attempt, and none was handled between
    them. `open`: it is, by the database or since this worker has opened it. `probe_due`: somebody should probe.

    Events that have opened it once do not count again: a probe has shown since that others are handled, so it is they
    that are bad, and a long run of them must not stop the handler for ever.

    `resting`: the handler has asked for a rest, which ends by itself; no matter whether it has a breaker.
    """

    def __init__(self, database: Database, caller: Caller) -> None:
        self._database = database
        self._name = caller.handler.name
        self._log = caller.log
        self._limit = caller.handler.run.breaker
        self._failed: set[UUID] = set()
        self._known: set[UUID] = set()
        self._worked = False
        self.open = False
        self.probe_due = False
        self._rests_until = 0.0

    @property
    def resting(self) -> bool:
        return self._rests_until > 0.0 and time.monotonic() < self._rests_until

    @property
    def holds(self) -> bool:
        """Whether nothing is to be handed over but a probe."""
        return self.open or self.resting

    def obey(self, holds: Mapping[str, Hold]) -> None:
        """What the database says."""
        hold = holds.get(self._name)
        was_open, self.open = self.open, self._limit > 0 and hold is not None and hold.open
        self.probe_due = self.open and hold is not None and hold.wait <= 0
        self._rests_until = 0.0 if hold is None or hold.open else time.monotonic() + hold.wait
        if was_open != self.open:
            self._failed.clear()

    def worked(self) -> None:
        """An event was handled."""
        self._failed.clear()
        self._worked = True

    def failed(self, failure: Failure) -> None:
        """Raises Tripped where that was one too many; while the breaker is open, one is."""
        if not failure.raised:
            return  # what the handler has decided is no sign that it is broken
        if failure.attempts == 1 and failure.event.id not in self._known:
            self._failed.add(failure.event.id)
        if self.open or 0 < self._limit <= len(self._failed):
            raise Tripped(failure)

    async def trip(self, tripped: Tripped) -> None:
        """Open it, for all workers. Raises DatabaseGone or Conflict."""
        failure = tripped.failure
        error = f"{failure.error_type}: {failure.error}"
        async with self._database.connection() as connection:
            first = await breakers.open_(connection, self._name, error)
        self.open, self.probe_due = True, False
        self._known = self._failed | (self._known if len(self._known) < _KNOWN else set())
        self._failed = set()
        if first:
            self._log.error("breaker_open", error_type=failure.error_type, error=failure.error)

    async def rest(self, asked: NotNow) -> None:
        """Let the handler rest, in all workers. Raises DatabaseGone or Conflict."""
        seconds = max(asked.seconds, _SHORTEST_REST)
        async with self._database.connection() as connection:
            await breakers.rest(connection, self._name, asked.why, seconds=seconds)
        self._rests_until = max(self._rests_until, time.monotonic() + seconds)
        self._log.info("handler_rests", seconds=round(seconds, 1), why=asked.why)

    async def claim(self) -> bool:
        """Whether this worker may probe now. Raises DatabaseGone or Conflict."""
        self.probe_due = self._worked = False
        async with self._database.connection() as connection:
            return await breakers.claim(connection, self._name)

    async def probed(self, tripped: Tripped | None) -> None:
        """What came of the probe: it closes the breaker only where an event was handled."""
        if tripped is not None:
            failure = tripped.failure
            self._log.warning("breaker_probe_failed", error_type=failure.error_type, error=failure.error)
        elif self._worked:
            async with self._database.connection() as connection:
                stopped = await breakers.close(connection, self._name)
            self.open = False
            if stopped is not None:
                self._log.info("breaker_closed", stopped_for=round(stopped.total_seconds(), 1))
