"""Group commit: the rows of all requests that wait at the same time share one transaction.

Where few requests come, each is committed at once, without a timer; where many do, a group waits up to three
milliseconds for those whose answers have just gone out (`_let_come`). A group that Postgres refuses is split by
request, so that only the culprit waits, is refused, or has its bad row quarantined. Who waits for somebody else's
transaction does so on a connection of its own, and holds up nobody.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

import asyncpg
import structlog

from receiver.errors import SchemaError
from receiver.histogram import Histogram
from receiver.ingest.link import Link
from receiver.store import intake
from receiver.store.intake import BAD_ROWS, MAX_ROWS, Quarantined, Row
from receiver.store.partitions import MissingPartition, ensure_partitions
from receiver.store.privacy import Privacy

log = structlog.get_logger("writer")

SECOND_WRITER_ROWS: Final = 100  # waiting rows that make a second connection pay
SECOND_WRITER_DELAY: Final = 0.02  # seconds until the second connection helps anyway: the first may be stuck
LINGER: Final = 3  # milliseconds that a group waits at most for those who were here at the last commit
CROWD: Final = 0.6  # of them; so that of up to four nobody is waited for
SWEEP: Final = 0.25  # seconds between looks for requests whose deadline has passed
CONNECT_BACKOFF: Final = (0.1, 0.2, 0.5, 1.0, 2.0)

COMMIT_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCH_ROWS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, MAX_ROWS)

# Milliseconds to wait for a lock: of a whole group; of one request of a group that met one; of one that waits alone.
GROUP_LOCK: Final = 250
SINGLE_LOCK: Final = 20
ALONE_LOCK: Final = 1000
MANY_LOCKED: Final = 5  # single requests in a row after which the rest of the group is taken to be locked too

# Postgres is up and this transaction met another one; the same rows may go through next time.
_CONTENTION: Final = (
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
)
# The database is away, refuses connections, is read-only, is full: hold the requests and try again.
_AWAY: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, SchemaError)


class Owner(Protocol):
    """Who put something into the writer's hands."""

    def committed(self, waiting: Any, why: str | None) -> None:
        """Called once, from the loop: with None after the commit, else with why it is not known to be committed."""

    def set_aside(self, waiting: Any, row: Row, why: str) -> Quarantined:
        """The entry of a row that Postgres cannot hold."""


class Waiting:
    """One request's part of a transaction: `rows` and `quarantined` are to be there by `deadline` (`time.monotonic()`).

    The rest is the writer's.
    """

    __slots__ = ("contended", "deadline", "owner", "quarantined", "rows", "settled", "since", "weight")
    owner: Owner
    since: float
    weight: int

    def __init__(self, rows: Sequence[Row], quarantined: Sequence[Quarantined], deadline: float) -> None:
        self.rows = rows
        self.quarantined = quarantined
        self.deadline = deadline
        self.settled = False
        self.contended = False  # waits on the connection for those

    def settle(self, why: str | None = None) -> None:
        if not self.settled:
            self.settled = True
            self.owner.committed(self, why)


class _Parts:
    """Owns the parts of what needs several transactions: it is settled by the last, or by the first that fails."""

    __slots__ = ("_left", "_whole")

    def __init__(self, whole: Waiting, count: int) -> None:
        self._left = count
        self._whole = whole

    def committed(self, _part: Waiting, why: str | None) -> None:
        self._left -= 1
        if why is not None or self._left == 0:
            self._whole.settle(why)

    def set_aside(self, _part: Waiting, row: Row, why: str) -> Quarantined:
        return self._whole.owner.set_aside(self._whole, row, why)


def _patience(group: Sequence[Waiting]) -> float:
    """Seconds until nobody of the group waits any more."""
    return max(max(waiting.deadline for waiting in group) - time.monotonic(), 0) + SWEEP


class Writer:
    """Owns the ingest connections. `start`, then `put` any number of times, then `stop`.

    `trouble`: why the last try to write failed; None after a commit. `troubled_at`: when the database was last found
    away or refusing, by `time.monotonic()`; contention of single rows does not count. `events`: new ones by
    `intake.kind_of`. `commits` and `batches`: seconds and rows of transactions.
    """

    def __init__(
        self, dsn: str, privacy: Privacy, *, connections: int = 2, on_commit: Callable[[], None] = lambda: None
    ) -> None:
        self._privacy = privacy
        self._links = [Link(dsn) for _ in range(connections + 1)]  # the last is for what waits for others
        self._on_commit = on_commit
        self._queue: deque[Waiting] = deque()
        self._queued_rows = 0
        self._crowd = 0  # requests that waited or were being written at the last commit
        self._contended: deque[Waiting] = deque()
        self._in_flight: set[Waiting] = set()
        self._wake = asyncio.Event()
        self._wake_contended = asyncio.Event()
        self._idle = asyncio.Event()  # nothing waits and nothing is being written
        self._idle.set()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self.trouble: str | None = None
        self.troubled_at = float("-inf")
        self.counts: Counter[str] = Counter()
        self.events: Counter[tuple[str, str, str | None, str | None]] = Counter()
        self.commits = Histogram(*COMMIT_SECONDS)
        self.batches = Histogram(*BATCH_ROWS)

    async def start(self) -> None:
        """Start the writing tasks; they connect by themselves and go on trying."""
        work: list[Coroutine[Any, Any, None]] = [self._work(number) for number in range(len(self._links) - 1)]
        self._tasks = [asyncio.create_task(one) for one in (*work, self._work_contended(), self._sweep())]

    async def stop(self) -> None:
        """Write what is queued, as far as Postgres lets us before the deadlines, and close the connections."""
        await self._idle.wait()
        self._stopping = True
        self._wake.set()
        self._wake_contended.set()
        self._tasks[-1].cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def put(self, waiting: Waiting, owner: Owner) -> None:
        """Have the rows and the quarantine committed, and the owner told."""
        waiting.owner = owner
        if len(waiting.rows) <= MAX_ROWS:
            self._enqueue(waiting)
            return
        starts = range(0, len(waiting.rows), MAX_ROWS)
        parts = _Parts(waiting, len(starts))
        for start in starts:
            rows, quarantined = waiting.rows[start : start + MAX_ROWS], () if start else waiting.quarantined
            part = Waiting(rows, quarantined, waiting.deadline)
            part.owner = parts
            self._enqueue(part)

    def _enqueue(self, waiting: Waiting) -> None:
        waiting.weight = weight = len(waiting.rows) + len(waiting.quarantined) or 1
        waiting.since = time.monotonic()
        if not self._queue:
            self._idle.clear()
            self._wake.set()
        self._queue.append(waiting)
        self._queued_rows += weight

    @property
    def connected(self) -> int:
        """Open connections."""
        return sum(link.open for link in self._links)

    @property
    def waiting(self) -> int:
        """Rows that wait for a transaction."""
        return self._queued_rows

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            now = time.monotonic()
            for waiting in [*self._queue, *self._contended, *self._in_flight]:
                if waiting.deadline <= now:
                    waiting.settle(self.trouble or "the database did not answer in time")
            self._queue = deque(waiting for waiting in self._queue if not waiting.settled)
            self._queued_rows = sum(waiting.weight for waiting in self._queue)
            self._contended = deque(waiting for waiting in self._contended if not waiting.settled)
            self._look_idle()

    def _look_idle(self) -> None:
        if not (self._queue or self._contended or self._in_flight):
            self._idle.set()

    # The usual way ------------------------------------------------------------------------------------------------

    async def _work(self, number: int) -> None:
        link = self._links[number]
        while (group := await self._next_group(number)) is not None:
            await self._guarded(self._write_group, link, group)
        await link.close()

    async def _guarded(
        self, write: Callable[[Link, list[Waiting]], Coroutine[Any, Any, None]], link: Link, group: list[Waiting]
    ) -> None:
        try:
            await write(link, group)
        except Exception:  # a fault of ours: these requests are asked to come again, the others go on
            log.exception("the writer failed", action="writer_failed", requests=len(group))
            link.drop()
            for waiting in group:
                waiting.settle("internal error")
        finally:
            self._in_flight.difference_update(waiting for waiting in group if not waiting.contended)
            self._look_idle()

    async def _next_group(self, number: int) -> list[Waiting] | None:
        while True:
            while not self._queue:
                if self._stopping:
                    return None
                self._wake.clear()
                await self._wake.wait()
            if number and not self._needs_help():
                await asyncio.sleep(SECOND_WRITER_DELAY)
                continue
            await self._let_come()
            if group := self._take():
                return group

    def _needs_help(self) -> bool:
        """Whether a further connection should write: for many rows, or when the first seems to be stuck.

        Not for a few rows that the first will take in a moment: two small transactions cost more than one.
        """
        stuck = time.monotonic() - self._queue[0].since > SECOND_WRITER_DELAY
        return stuck or self._queued_rows >= SECOND_WRITER_ROWS

    async def _let_come(self) -> None:
        """Let a group grow: a transaction costs the same for one row as for fifty.

        While much fewer are here than were at the last commit, those that it has answered are likely on their way with
        their next request. Among a few, nobody is waited for.
        """
        expected = int(self._crowd * CROWD)
        await asyncio.sleep(0)  # what became whole in this turn of the loop
        for _ in range(LINGER):
            if len(self._queue) >= expected or self._queued_rows >= SECOND_WRITER_ROWS:
                return
            await asyncio.sleep(0.001)

    def _take(self) -> list[Waiting]:
        """As many as fit into one transaction; those whose deadline has passed are left out."""
        if self._queued_rows <= MAX_ROWS:
            taken = list(self._queue)
            self._queue.clear()
            self._queued_rows = 0
        else:
            taken, weight = [], 0
            while self._queue and (not taken or weight + self._queue[0].weight <= MAX_ROWS):
                taken.append(self._queue.popleft())
                weight += taken[-1].weight
            self._queued_rows -= weight
        group = [waiting for waiting in taken if not waiting.settled]
        self._in_flight.update(group)
        return group

    async def _write_group(self, link: Link, group: list[Waiting]) -> None:
        """Write until every member is settled or contended, or its deadline has passed."""
        attempt = 0
        while group := [waiting for waiting in group if not (waiting.settled or waiting.contended)]:
            try:
                # A database that has gone silent must not hold the writer longer than anybody waits.
                async with asyncio.timeout(_patience(group)):
                    await self._attempt(await link.get(), group)
            except _AWAY as error:
                self._note(error)
                link.drop()
                await asyncio.sleep(CONNECT_BACKOFF[min(attempt, len(CONNECT_BACKOFF) - 1)])
                attempt += 1

    async def _attempt(self, connection: asyncpg.Connection, group: list[Waiting]) -> None:
        try:
            await self._write_whole(connection, group, lock=GROUP_LOCK)
        except _CONTENTION:
            await self._write_each(connection, group)
        except MissingPartition:
            if not await ensure_partitions(connection, ahead=0):
                raise
        except BAD_ROWS:
            await self._write_each(connection, group)

    async def _write_each(self, connection: asyncpg.Connection, group: Sequence[Waiting]) -> None:
        """Each request alone; who meets somebody else's lock goes to wait elsewhere."""
        locked = 0
        for waiting in group:
            try:
                if locked < MANY_LOCKED:
                    await self._write_alone(connection, waiting, lock=SINGLE_LOCK)
                    locked = 0
                else:
                    self._contend(waiting)
            except _CONTENTION as error:
                self._note(error)
                self._contend(waiting)
                locked += 1

    def _contend(self, waiting: Waiting) -> None:
        waiting.contended = True
        self._in_flight.discard(waiting)
        self._contended.append(waiting)
        self._wake_contended.set()

    # What waits for somebody else's transaction -------------------------------------------------------------------

    async def _work_contended(self) -> None:
        link = self._links[-1]
        while not self._stopping:
            if not self._contended:
                self._wake_contended.clear()
                await self._wake_contended.wait()
                continue
            waiting = self._contended.popleft()
            if not waiting.settled:
                self._in_flight.add(waiting)
                await self._guarded(self._write_contended, link, [waiting])
                self._in_flight.discard(waiting)
                self._look_idle()
        await link.close()

    async def _write_contended(self, link: Link, group: list[Waiting]) -> None:
        (waiting,) = group
        try:
            async with asyncio.timeout(_patience(group)):
                # All get their turn within about a second: not each of them is locked. And Postgres gives up before we
                # do, or a wait for a lock would look like a database that is silent.
                left = int((waiting.deadline - time.monotonic()) * 1000)
                lock = max(min(ALONE_LOCK // (1 + len(self._contended)), left), SINGLE_LOCK)
                await self._write_alone(await link.get(), waiting, lock=lock)
        except _CONTENTION as error:
            self._note(error)
            self._contended.append(waiting)  # behind the others
        except _AWAY as error:
            self._note(error)
            link.drop()
            self._contended.append(waiting)
            await asyncio.sleep(CONNECT_BACKOFF[0])

    # Transactions -------------------------------------------------------------------------------------------------

    async def _write_whole(self, connection: asyncpg.Connection, group: Sequence[Waiting], *, lock: int) -> None:
        if len(group) == 1:
            rows, quarantined = group[0].rows, group[0].quarantined
        else:
            rows = [row for waiting in group for row in waiting.rows]
            quarantined = [entry for waiting in group for entry in waiting.quarantined]
        await self._commit(connection, rows, quarantined, lock=lock)
        self._crowd = len(group) + len(self._queue)
        for waiting in group:
            waiting.settle()

    async def _write_alone(self, connection: asyncpg.Connection, waiting: Waiting, *, lock: int) -> None:
        """Store the request's rows, and quarantine those that Postgres cannot hold."""
        try:
            await self._write_whole(connection, [waiting], lock=lock)
        except BAD_ROWS:
            bad = await self._sift(connection, waiting, waiting.rows, lock=lock)
            await self._commit(connection, (), [*waiting.quarantined, *bad], lock=lock)
            self.counts["set_aside"] += len(bad)
            waiting.settle()

    async def _sift(
        self, connection: asyncpg.Connection, waiting: Waiting, rows: Sequence[Row], *, lock: int
    ) -> list[Quarantined]:
        """Halve the rows until those that Postgres cannot hold are alone; the others are committed."""
        try:
            await self._commit(connection, rows, (), lock=lock)
        except BAD_ROWS as error:
            if len(rows) == 1:
                return [waiting.owner.set_aside(waiting, rows[0], f"Postgres cannot hold it: {type(error).__name__}")]
            middle = len(rows) // 2
            left = await self._sift(connection, waiting, rows[:middle], lock=lock)
            return left + await self._sift(connection, waiting, rows[middle:], lock=lock)
        return []

    async def _commit(
        self, connection: asyncpg.Connection, rows: Sequence[Row], quarantined: Sequence[Quarantined], *, lock: int
    ) -> None:
        started = time.perf_counter()
        new = await intake.write(connection, rows, quarantined, lock_timeout=lock, privacy=self._privacy)
        self.trouble = None
        self.commits.add(time.perf_counter() - started)
        self.batches.add(len(rows))
        self.counts["rows"] += len(rows)
        self.counts["new"] += len(new)
        self.events.update(map(intake.kind_of, new))
        if new:
            self._on_commit()

    def _note(self, error: Exception) -> None:
        trouble = f"the database refuses to write ({type(error).__name__})"
        if trouble != self.trouble:
            log.warning("cannot write", action="write_failed", error=type(error).__name__, waiting=self._queued_rows)
        self.trouble = trouble
        if not isinstance(error, _CONTENTION):
            self.troubled_at = time.monotonic()
