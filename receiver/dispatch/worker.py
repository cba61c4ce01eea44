"""A process's part of the dispatching: its handlers' loops, its leases, its orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

import structlog

from receiver.contacts.rules import Rules
from receiver.dispatch.acks import Acks
from receiver.dispatch.breaker import Breaker
from receiver.dispatch.calling import Caller
from receiver.dispatch.database import PATIENCE, Conflict, Database, DatabaseFull, DatabaseGone
from receiver.dispatch.lane_reader import LaneReader
from receiver.dispatch.listening import listen
from receiver.dispatch.loop import HandlerLoop, Reads
from receiver.dispatch.pulse import Pulse
from receiver.dispatch.reader import LogConnection, Reader
from receiver.dispatch.retrying import Retrier
from receiver.dispatch.running import Runner
from receiver.dispatch.setbacks import Setbacks
from receiver.dispatch.watchdog import Watchdog
from receiver.event import SHARDS
from receiver.plugins.handlers import Handler
from receiver.store import breakers, control, failures, leases, ordering, sessions
from receiver.store.control import Order
from receiver.store.lanes import Lane, cursor_of, end_finished, lanes_of, open_lane
from receiver.store.log import check_generation, create_cursors
from receiver.store.sql import Sql
from receiver.vault import Vault
from receiver.warm import settle

_NO_ORDER: Final = Order()
LEASE: Final = 10.0  # seconds without renewal after which others take a worker's shards
_HEARTBEAT: Final = 1.0
_UNPARK_EVERY: Final = 30  # beats
_GRACE: Final = 10.0  # seconds for the batch in hand when stopping
_CLEANING: Final = 3.0  # seconds for what was cancelled; a handler's call has a little less
_GOODBYE: Final = 5.0  # seconds for handing over the leases


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchStats:
    """What a worker has done and holds.

    `events`: by handler, by what became of them (see Caller). `shards`: held, by handler. `connections`: see Database.
    """

    events: Mapping[str, Mapping[str, int]]
    shards: Mapping[str, int]
    connections: Mapping[str, int]


@dataclass(slots=True)
class _RunningLane:
    """A lane that this worker reads."""

    lane: Lane
    loop: HandlerLoop
    reader: LaneReader
    stop: asyncio.Event
    task: asyncio.Task[Any]


class Worker:
    """Runs handlers on the events of one database, beside any number of other workers.

    `name`: for people, by default host and process. `batch`: about how many events one read fetches. `connections`:
    at most so many to Postgres besides those for reading and for being woken; by default enough that no handler
    waits for another's. `lease`: seconds without a sign of life after which other workers take over. `poll`:
    shortest and longest pause between looks for events that other processes stored. `grace`: seconds for the batch
    in hand when stopping. `patience`: seconds without an answer after which a connection counts as lost; all of them
    do when the leases could not be renewed for half as long again as they last.
    """

    def __init__(  # noqa: PLR0913 - keywords with defaults are the interface
        self,
        *,
        dsn: str,
        handlers: Sequence[Handler],
        vault: Vault,
        rules: Rules | None = None,
        name: str | None = None,
        batch: int = 1000,
        connections: int | None = None,
        lease: float = LEASE,
        poll: tuple[float, float] = (0.05, 1.0),
        grace: float = _GRACE,
        patience: float = PATIENCE,
    ) -> None:
        self.name: Final = name or f"{socket.gethostname()}:{os.getpid()}"
        self.id: Final = uuid4()
        self._lease = lease
        self._grace = grace
        self._log = structlog.get_logger("receiver.dispatch")
        self._stop = asyncio.Event()
        self._pulse = Pulse(fastest=poll[0], slowest=poll[1])
        longest = max((one.run.timeout for one in handlers), default=0.0)
        self._dsn = dsn
        self._database = Database(
            dsn,
            connections=connections
            or sum(one.run.concurrency + 2 for one in handlers) + 3,  # with its retries and its lane
            idle_limit=longest + 60,
            name=self.name,
            patience=patience,
        )
        self._log_connection = LogConnection(dsn, self._database, name=self.name)
        self._reader = Reader(self._log_connection, self._database, batch=batch)
        self._acks = Acks(self._database, owner=self.id, ttl=lease)
        self._lane_connection = LogConnection(dsn, self._database, name=f"{self.name} lanes")
        self._tasks: list[asyncio.Task[Any]] = []
        self._renewed_at = 0.0
        self._beaten_at = time.monotonic()
        self._handlers: dict[str, Handler] = {one.name: one for one in handlers}
        self._callers: dict[str, Caller] = {}
        self._breakers: dict[str, Breaker] = {}
        self._loops: list[HandlerLoop] = []
        self._lanes: dict[str, _RunningLane] = {}
        self._retriers: dict[str, Retrier] = {}
        self._setbacks: dict[str, Setbacks] = {}
        self._due: dict[str, asyncio.Event] = {}
        self._beats = 0
        self._orders: dict[str, Order] = {}
        for one in handlers:
            self._add(one, vault, rules or Rules())

    def _add(self, handler: Handler, vault: Vault, rules: Rules) -> None:
        log = self._log.bind(handler=handler.name)
        caller = self._callers[handler.name] = Caller(handler, vault, log, rules)
        self._setbacks[handler.name] = Setbacks(handler.name, log)
        breaker = self._breakers[handler.name] = Breaker(self._database, caller)
        runner = self._runner(caller)
        self._retriers[handler.name] = Retrier(self._database, caller, runner, breaker)
        self._loops.append(self._loop(caller, runner, self._reader, self._stop))
        if not handler.run.ordered:
            self._due[handler.name] = asyncio.Event()

    def _runner(self, caller: Caller, lane: Lane | None = None) -> Runner:
        return Runner(
            database=self._database,
            caller=caller,
            breaker=self._breakers[caller.handler.name],
            acks=self._acks,
            lane=lane,
        )

    def _loop(self, caller: Caller, runner: Runner, reader: Reads, stop: asyncio.Event) -> HandlerLoop:
        return HandlerLoop(
            caller=caller,
            breaker=self._breakers[caller.handler.name],
            runner=runner,
            retrier=self._retriers[caller.handler.name],
            reader=reader,
            database=self._database,
            pulse=self._pulse,
            setbacks=self._setbacks[caller.handler.name],
            owner=self.id,
            ttl=self._lease,
            stop=stop,
        )

    def wake(self) -> None:
        """Events were committed in this process: look at once instead of at the next poll."""
        self._pulse.wake()

    def _heard(self, sender: str) -> None:
        if sender != str(self.id):  # this process's own commits have woken it already
            self._pulse.wake()

    def trouble(self) -> str | None:
        """Why handlers may not be getting their events, or None."""
        if self._database.away:
            return "its connection to the database was lost"
        silent = time.monotonic() - self._beaten_at
        if silent > self._lease:
            return f"no heartbeat for {silent:.0f} s"
        ended = [task.get_name() for task in self._tasks if task.done()]
        if ended and not self._stop.is_set():
            return f"has ended: {', '.join(ended)}"
        return "; ".join(filter(None, (one.trouble() for one in self._setbacks.values()))) or None

    def stats(self) -> DispatchStats:
        """For metrics."""
        return DispatchStats(
            events={name: dict(caller.counts) for name, caller in self._callers.items()},
            shards={loop.name: loop.held for loop in self._loops},
            connections=self._database.connections(),
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Hand events to handlers until `stop` is set; then finish the batches in hand and let go of all leases.

        A database that is away is waited for. Raises SchemaError where the log cannot be read safely. When cancelled
        it ends at once, as in a crash: what was not committed is done again by whoever takes over.
        """
        settle()
        await self._database.open()
        try:
            with Watchdog(self._callers.values(), self._log):
                await self._serve(stop)
        finally:
            self._database.close()
            self._lane_connection.cut()
            await _end(self._tasks)

    async def _serve(self, stop: asyncio.Event) -> None:
        if not await self._prepare(stop):
            return
        stopped = self._start(stop.wait(), "stop")
        service = [
            self._start(self._reader.run(), "reader"),
            self._start(self._pulse.run(), "pulse"),
            self._start(self._heartbeat(), "heartbeat"),
        ]
        self._start(listen(self._dsn, name=self.name, heard=self._heard), "listener")
        work = [self._start(loop.run(), loop.name) for loop in self._loops]
        work += [self._start(self._retry(name), f"retries of {name}") for name in self._due]
        self._log.info("dispatch_started", worker=self.name, handlers=list(self._handlers))
        done, _ = await asyncio.wait([stopped, *service], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # service tasks end by an error only
        await self._finish(work)

    def _start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name=name)
        self._tasks.append(task)
        return task

    async def _prepare(self, stop: asyncio.Event) -> bool:
        """Begin handlers that are new here. False where `stop` came before the database did."""
        while not stop.is_set():
            with contextlib.suppress(DatabaseGone, Conflict):
                async with self._database.connection() as connection, connection.transaction():
                    await check_generation(connection)
                    await self._begin(connection)
                    for name in [one.name for one in self._handlers.values() if not one.run.breaker]:
                        await breakers.close(connection, name)
                    await breakers.hasten(connection, list(self._handlers))
                    await self._obey(connection)
                    self._database.back()
                    return True
            await self._database.pause()
        return False

    async def _begin(self, sql: Sql) -> None:
        """Cursors for handlers that have none, with their history where they ask for it."""
        for name in await create_cursors(sql, list(self._handlers)):
            since = self._handlers[name].since(datetime.now(UTC))
            if since is not None:
                await open_lane(sql, name, "backfill", since)

    async def _finish(self, work: Sequence[asyncio.Task[Any]]) -> None:
        self._stop.set()
        for lane in self._lanes.values():
            lane.stop.set()
        work = [*work, *(lane.task for lane in self._lanes.values())]
        self._pulse.wake()
        for due in self._due.values():
            due.set()
        if work:
            _, late = await asyncio.wait(work, timeout=self._grace)
            for task in late:
                self._log.warning("batch_cut_short", of=task.get_name())
            if late:
                await _end(late)
                self._cut()  # what still goes on waits for a server that is silent; a new connection may be heard
        with contextlib.suppress(DatabaseGone, Conflict, TimeoutError):  # the leases run out by themselves then
            async with asyncio.timeout(_GOODBYE), self._database.connection() as connection:
                await leases.leave(connection, self.id)
        self._log.info("dispatch_stopped", worker=self.name)

    async def _heartbeat(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._lease * 1.5):
                    await self._beat()
            except TimeoutError as error:  # others may have the shards by now, and whoever is so slow may be lost
                self._database.lost(error)
                self._cut()
            except (DatabaseGone, Conflict):
                await self._database.pause()
            else:
                await asyncio.sleep(min(_HEARTBEAT, self._lease / 5))

    def _cut(self) -> None:
        """Cut all connections. What was under way is rolled back, and begins anew."""
        self._database.cut()
        self._log_connection.cut()
        self._lane_connection.cut()

    async def _beat(self) -> None:
        """Show that this worker lives, renew its leases, and see what has changed around it."""
        names = list(self._handlers)
        cursors = names + [cursor_of(name) for name in names]
        held, asked_at = None, time.monotonic()
        async with self._database.connection() as connection:
            quotas = await leases.join(connection, self.id, self.name, cursors, ttl=self._lease)
            await self._database.end_left(connection)
            await sessions.end_late(connection, connection.get_server_pid(), lease=self._lease)
            # A host that was frozen or cut off counts as running nothing: a handler may have been removed meanwhile.
            if forgotten := await control.forgotten(connection, names):
                self._log.warning("handlers_begin_anew", handlers=forgotten, why="they were removed while they ran")
                async with connection.transaction():
                    await self._begin(connection)
            orders = await control.orders(connection, names)
            lanes = await lanes_of(connection, names)
            if orders != self._orders or time.monotonic() - self._renewed_at > self._lease / 3:
                loops = [*self._loops, *(lane.loop for lane in self._lanes.values())]
                known = [one for loop in loops for one in loop.leases]
                held = await leases.renew(connection, self.id, known, ttl=self._lease)
                self._renewed_at = time.monotonic()
            free = await leases.free(connection, cursors)
            due = await failures.due_handlers(connection, list(self._due))
            await self._obey(connection)
            await self._retry_in_order(connection)
            ended = await end_finished(connection, list(lanes))
        self._orders = orders
        self._follow_lanes({name: lane for name, lane in lanes.items() if name not in ended})
        for loop in [*self._loops, *(lane.loop for lane in self._lanes.values())]:
            if held is not None:
                loop.compare(held, asked_at=asked_at)
            paused = orders.get(loop.handler, _NO_ORDER).paused
            self._look_again(loop, 0 if paused else quotas[loop.name], free=loop.name in free)
        for lane in self._lanes.values():
            lane.reader.share = quotas[lane.loop.name] / SHARDS
        for name in due:
            self._due[name].set()
        self._beaten_at = time.monotonic()

    async def _obey(self, sql: Sql) -> None:
        holds = await breakers.holds(sql, list(self._breakers))
        for breaker in self._breakers.values():
            breaker.obey(holds)

    async def _retry_in_order(self, sql: Sql) -> None:
        """Ordered handlers' due events are their loops' business."""
        self._beats += 1  # first: what takes too long is not tried at every beat
        for loop in self._loops:
            if loop.name not in self._due:
                if self._beats % _UNPARK_EVERY == 1:
                    await ordering.unpark(sql, loop.name)
                shards = await ordering.due_shards(sql, loop.name)
                if shards:
                    loop.retry(shards)

    def _look_again(self, loop: HandlerLoop, quota: int, *, free: bool) -> None:
        if free or quota != loop.quota:
            loop.quota = quota
            loop.free_shards()
            self._pulse.wake()

    def _follow_lanes(self, lanes: Mapping[str, Lane]) -> None:
        """Start reading lanes that are new, and stop reading those that have gone."""
        for name, running in list(self._lanes.items()):
            if lanes.get(name) != running.lane:
                running.stop.set()
                self._pulse.wake()
                if running.task.done():
                    del self._lanes[name]
        for name, lane in lanes.items():
            if name not in self._lanes and not self._stop.is_set():
                self._lanes[name] = self._read_lane(lane)

    def _read_lane(self, lane: Lane) -> _RunningLane:
        caller, stop = self._callers[lane.handler], asyncio.Event()
        runner = self._runner(caller, lane)
        reader = LaneReader(lane, self._lane_connection, self._database, batch=caller.handler.run.batch_size)
        loop = self._loop(caller, runner, reader, stop)
        self._log.info("lane_read", handler=lane.handler, kind=lane.kind, since=lane.since.isoformat())
        return _RunningLane(lane, loop, reader, stop, self._start(loop.run(), lane.cursor))

    async def _retry(self, name: str) -> None:
        while not self._stop.is_set():
            await self._due[name].wait()
            self._due[name].clear()
            try:
                await self._retriers[name].run_due(self._stop)
            except DatabaseFull as error:
                await self._setbacks[name].full(error)
            except (DatabaseGone, Conflict):
                await self._database.pause()
            except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # noqa: BLE001 - a fault of ours, or of a handler's objects, must not end them
                await self._setbacks[name].fault("retry_failed", error)


async def _end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel them, and let them clean up, but not for long."""
    for task in tasks:
        task.cancel()
    if tasks:
        ended, _ = await asyncio.wait(tasks, timeout=_CLEANING)
        await asyncio.gather(*ended, return_exceptions=True)
