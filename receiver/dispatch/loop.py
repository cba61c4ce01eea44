"""One handler's loop: lease shards, read them, run batches, acknowledge, again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, Protocol
from uuid import UUID

from receiver.dispatch.batches import Batch, batches
from receiver.dispatch.calling import Caller
from receiver.dispatch.database import Conflict, Database, DatabaseGone
from receiver.dispatch.lanes import Lanes, Pages, shares
from receiver.dispatch.pulse import Pulse
from receiver.dispatch.running import Runner
from receiver.store import leases
from receiver.store.leases import Leased, LeaseLost
from receiver.store.log import Page

_CONFLICTS: Final = 3  # in a row; then the events run alone, so that only the culprit waits
_TAKE_EVERY: Final = 1.0  # seconds between looks for free shards while some are missing


class Reads(Protocol):
    """The next pages of leased shards, of those that it chooses."""

    async def next(self, held: Sequence[Leased]) -> list[tuple[Leased, Page]]: ...


class HandlerLoop:
    """Reads the log for one handler, or its lane. `name`: that of the cursors.

    `quota`: how many shards it is to hold; the worker sets it.
    """

    def __init__(
        self,
        *,
        caller: Caller,
        runner: Runner,
        reader: Reads,
        database: Database,
        pulse: Pulse,
        owner: UUID,
        ttl: float,
        stop: asyncio.Event,
    ) -> None:
        self.name: Final = runner.cursor
        self.handler: Final = caller.handler.name
        self._handler = caller.handler
        self._log = caller.log
        self._runner = runner
        self._reader = reader
        self._database = database
        self._pulse = pulse
        self._owner = owner
        self._ttl = ttl
        self._stop = stop
        self._leased: dict[int, Leased] = {}
        self._busy: set[int] = set()  # shards in a lane; the others are read
        self._lanes = Lanes(self._handler.run.concurrency)
        self._again = asyncio.Event()  # set when a lane has ended and there may be more for it
        self._session = database.session
        self._conflicts = 0
        self._looked_at = 0.0
        self.quota = 0

    async def run(self) -> None:
        """Until stopped. Troubles of the database and lost leases are waited out."""
        try:
            while not self._stop.is_set():
                await self._guarded(self._step(), self._idle)
        finally:
            await self._lanes.finish()

    async def _guarded(self, work: Coroutine[Any, Any, None], shards: Callable[[], Iterable[int]]) -> None:
        """Whatever goes wrong with `work`, its shards are forgotten and the loop goes on."""
        try:
            await work
        except DatabaseGone:
            self._forget(shards())
            await self._database.pause()
        except Conflict:
            self._forget(shards())
            self._conflicts += 1
            await self._database.pause()
        except LeaseLost:
            self._log.warning("lease_lost")
            self._forget(shards())
        except Exception:  # noqa: BLE001 - a fault of ours, or of a handler's objects, must not end the loop
            self._log.exception("dispatch_failed")
            self._forget(shards())
            await self._database.pause()

    def free_shards(self) -> None:
        """Shards have become free: look at once."""
        self._looked_at = 0.0

    def compare(self, held: set[tuple[str, int, int]], *, asked_at: float) -> None:
        """Forget leases that were older than the question and that the database does not know as ours any more."""
        for leased in list(self._leased.values()):
            if leased.taken_at < asked_at and (self.name, leased.shard, leased.epoch) not in held:
                del self._leased[leased.shard]
                self._looked_at = 0.0

    def _forget(self, shards: Iterable[int]) -> None:
        """What is in memory may not be what the database has: lease and load again."""
        for shard in shards:
            self._leased.pop(shard, None)
        self._looked_at = 0.0

    def _idle(self) -> list[int]:
        return sorted(self._leased.keys() - self._busy)

    async def _step(self) -> None:
        beat = self._pulse.count
        if self._session != self._database.session:
            self._session = self._database.session
            self._forget(self._idle())
        await self._balance()
        pages = await self._reader.next([self._leased[shard] for shard in self._idle()])
        for part in shares(pages, self._handler.run.concurrency, self._handler.run.batch_size):
            await self._lanes.free()
            if self._stop.is_set() or not self.quota:
                return
            self._start(part, beat)
        await self._lanes.free()
        if pages:
            self._pulse.busy()
        await self._next(beat)

    def _start(self, part: Pages, beat: int) -> None:
        shards = {leased.shard for leased, _ in part}
        self._busy |= shards
        self._lanes.start(self._lane(part, shards, beat))

    async def _lane(self, part: Pages, shards: set[int], beat: int) -> None:
        try:
            await self._guarded(self._run(part), lambda: shards)
        finally:
            self._busy -= shards
        if self._pulse.count != beat or any(page.more for _, page in part):
            self._again.set()

    async def _run(self, part: Pages) -> None:
        for batch in batches(part, self._handler.filter.accepts, self._handler.run.batch_size):
            if self._stop.is_set() or not self.quota:
                return
            await self._handle(batch)

    async def _next(self, beat: int) -> None:
        """Until there may be something to read: at the next beat, or when a lane has left its shards."""
        if not self._again.is_set() and self._lanes.running:
            waits = [asyncio.create_task(self._pulse.wait(since=beat)), asyncio.create_task(self._again_set())]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
        elif not self._again.is_set():
            await self._pulse.wait(since=beat)
        self._again.clear()

    async def _again_set(self) -> None:
        await self._again.wait()

    async def _balance(self) -> None:
        surplus = len(self._leased) - self.quota
        if surplus > 0:
            gone = [self._leased.pop(shard) for shard in self._idle()[-surplus:]]
            async with self._database.connection() as connection:
                await leases.release(connection, self.name, self._owner, gone)
        elif surplus < 0 and time.monotonic() - self._looked_at > _TAKE_EVERY:
            self._looked_at = time.monotonic()
            async with self._database.connection() as connection:
                taken = await leases.take(
                    connection, self.name, self._owner, ttl=self._ttl, held=list(self._leased), limit=-surplus
                )
            self._leased |= {one.shard: one for one in taken}

    async def _handle(self, batch: Batch) -> None:
        if self._conflicts >= _CONFLICTS or not await self._runner.together(batch):
            await self._runner.alone(batch, self._stop)
        self._conflicts = 0
