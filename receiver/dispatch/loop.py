"""One handler's loop: lease shards, read them, run batches, acknowledge, again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, Protocol
from uuid import UUID

from receiver.dispatch.batches import Batch, batches
from receiver.dispatch.breaker import Breaker, NotNow, Tripped
from receiver.dispatch.calling import Caller
from receiver.dispatch.database import Conflict, Database, DatabaseFull, DatabaseGone
from receiver.dispatch.lanes import Lanes, Pages, shares
from receiver.dispatch.pulse import Pulse
from receiver.dispatch.retrying import Retrier
from receiver.dispatch.running import Runner
from receiver.dispatch.setbacks import Setbacks
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

    def __init__(  # noqa: PLR0913 - its collaborators, each by its name
        self,
        *,
        caller: Caller,
        breaker: Breaker,
        runner: Runner,
        retrier: Retrier,
        reader: Reads,
        database: Database,
        pulse: Pulse,
        setbacks: Setbacks,
        owner: UUID,
        ttl: float,
        stop: asyncio.Event,
    ) -> None:
        self.name: Final = runner.cursor
        self.handler: Final = caller.handler.name
        self._handler = caller.handler
        self._log = caller.log
        self._breaker = breaker
        self._runner = runner
        self._retrier = retrier
        self._reader = reader
        self._database = database
        self._pulse = pulse
        self._setbacks = setbacks
        self._owner = owner
        self._ttl = ttl
        self._stop = stop
        self._leased: dict[int, Leased] = {}
        self._busy: set[int] = set()  # shards in a lane; the others are read
        self._lanes = Lanes(self._handler.run.concurrency)
        self._again = asyncio.Event()  # set when a lane has ended and there may be more for it
        self._due: set[int] = set()  # shards of an ordered handler in which an event's time has come again
        self._session = database.session
        self._conflicts = 0
        self._looked_at = 0.0
        self.quota = 0

    @property
    def held(self) -> int:
        """How many shards this worker reads for the handler."""
        return len(self._leased)

    @property
    def leases(self) -> list[tuple[str, int, int]]:
        """(name, shard, epoch) of what it holds as far as it knows."""
        return [(self.name, leased.shard, leased.epoch) for leased in self._leased.values()]

    async def run(self) -> None:
        """Until stopped, and what is under way has ended. Troubles of the database and lost leases are waited out."""
        try:
            while not self._stop.is_set():
                await self._guarded(self._step(), self._idle)
            await self._lanes.finish()
        finally:  # cancelled: the time for ending well is over
            await self._lanes.cut()

    async def _guarded(self, work: Coroutine[Any, Any, None], shards: Callable[[], Iterable[int]]) -> None:
        """Whatever goes wrong with `work`, its shards are forgotten and the loop goes on."""
        try:
            await work
        except DatabaseFull as error:
            self._forget(shards())
            await self._setbacks.full(error)
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
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - a fault of ours, or of a handler's objects, must not end the loop
            self._forget(shards())
            await self._setbacks.fault("dispatch_failed", error)

    def free_shards(self) -> None:
        """Shards have become free: look at once."""
        self._looked_at = 0.0

    def retry(self, shards: set[int]) -> None:
        """In these shards events are due again, of a handler that is ordered: they come before the shards' next."""
        self._due |= shards
        self._pulse.wake()

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
        if self._breaker.open:
            await self._probe()
        elif not self._breaker.resting:
            await self._share_out(beat)
        await self._next(beat)

    async def _share_out(self, beat: int) -> None:
        """Give what is to be done to lanes, and wait until one is free again."""
        due = self._take_due()
        if due:
            self._start({one.shard for one in due}, self._retrier.run_due(self._stop, due), beat)
        pages = await self._reader.next([self._leased[shard] for shard in self._idle()])
        for part in shares(pages, self._handler.run.concurrency, self._handler.run.batch_size):
            await self._lanes.free()
            if self._stop.is_set() or not self.quota:
                return
            more = any(page.more for _, page in part)
            self._start({leased.shard for leased, _ in part}, self._run(part), beat, more=more)
        await self._lanes.free()
        if pages:
            self._pulse.busy()

    def _take_due(self) -> list[Leased]:
        shards = self._due.intersection(self._idle())
        self._due -= shards
        return [self._leased[shard] for shard in shards]

    def _start(self, shards: set[int], work: Coroutine[Any, Any, None], beat: int, *, more: bool = True) -> None:
        self._busy |= shards
        self._lanes.start(self._lane(shards, work, beat, more=more))

    async def _lane(self, shards: set[int], work: Coroutine[Any, Any, None], beat: int, *, more: bool) -> None:
        try:
            await self._guarded(work, lambda: shards)
        finally:
            self._busy -= shards
        if more or self._pulse.count != beat:
            self._again.set()

    async def _run(self, part: Pages) -> None:
        for batch in batches(part, self._handler.filter.accepts, self._handler.run.batch_size):
            if self._stop.is_set() or not self.quota or self._breaker.holds:
                return
            if not await self._handle(batch):
                return  # the next batch would move the cursor past this one, also where a rest is over already

    async def _probe(self) -> None:
        """Try one event while the breaker is open: a new one, or one that is due again."""
        if not self._breaker.probe_due:
            return
        due = self._take_due()
        pages = await self._reader.next([self._leased[shard] for shard in self._idle()])
        random.shuffle(pages)  # one shard's next event may be a bad one
        found = list(batches(pages, self._handler.filter.accepts, 1))
        wanted = [batch for batch in found if batch.events]
        if due and not (wanted and random.random() < 0.5):  # noqa: S311 - no secret
            await self._retrier.run_due(self._stop, due)
        elif wanted:
            await self._probe_with(wanted[0])
        elif found:
            await self._handle(found[0])  # nothing that the handler wants to see
        if not self._breaker.open:
            self._again.set()

    async def _probe_with(self, batch: Batch) -> None:
        if await self._breaker.claim():
            try:
                await self._runner.alone(batch, self._stop)
            except Tripped as tripped:
                await self._breaker.probed(tripped)
            except NotNow as asked:
                await self._breaker.rest(asked)
            else:
                await self._breaker.probed(None)

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

    async def _handle(self, batch: Batch) -> bool:
        """Whether it is done: else its cursors stand where the handler is to go on later."""
        alone = self._conflicts >= _CONFLICTS or self._runner.asks_too_often(batch.events)
        done = True
        try:
            if alone or not await self._runner.together(batch):
                await self._runner.alone(batch, self._stop)
        except Tripped as tripped:
            await self._breaker.trip(tripped)
            done = False
        except NotNow as asked:
            await self._breaker.rest(asked)
            done = False
        self._conflicts = 0
        return done
