"""Group commit: the rows of all requests that wait at the same time share one transaction.

When nobody waits, a single request is committed at once; there is no timer on that path. A group that Postgres refuses
is split by request, so that only the culprit waits, is refused, or has its bad row quarantined.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import asyncpg
import structlog

from receiver.errors import Unavailable
from receiver.histogram import Histogram
from receiver.store import intake
from receiver.store.intake import MAX_ROWS, Quarantined, Row
from receiver.store.partitions import MissingPartition, ensure_partitions

log = structlog.get_logger("writer")

SECOND_WRITER_ROWS: Final = 100  # waiting rows that make a second connection pay
SECOND_WRITER_DELAY: Final = 0.02  # seconds until the second connection helps anyway: the first may be stuck
SWEEP: Final = 0.25  # seconds between looks for requests whose deadline has passed
CONNECT_BACKOFF: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
COMMIT_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCH_ROWS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, MAX_ROWS)

SetAside = Callable[[Row, str], Quarantined]

# Postgres is up and this transaction met another one; the same rows may go through next time.
_CONTENTION: Final = (
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
)
# The rows themselves are the trouble; the second is raised by the driver before Postgres sees them.
_BAD_ROWS: Final = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    asyncpg.UntranslatableCharacterError,
    ValueError,
    TypeError,
    OverflowError,
)
# The database is away, refuses connections, is read-only, is full: hold the requests and try again.
_AWAY: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)


@dataclass(eq=False, slots=True)
class Waiting:
    """One request's part of a transaction. `done` is settled after the commit, or gets Unavailable."""

    rows: Sequence[Row]
    quarantined: Sequence[Quarantined]
    set_aside: SetAside
    deadline: float
    done: asyncio.Future[None]
    weight: int = field(init=False)
    since: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.weight = len(self.rows) + len(self.quarantined) or 1

    def settle(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(Unavailable(why))


def _patience(group: Sequence[Waiting]) -> float:
    """Seconds until nobody of the group waits any more."""
    return max(max(waiting.deadline for waiting in group) - time.monotonic(), 0) + SWEEP


class Writer:
    """Owns the ingest connections. `start`, then `store` from any number of tasks, then `stop`.

    `trouble`: why the last try to write failed; None after a commit. `troubled_at`: when the database was last found
    away or refusing, by `time.monotonic()`; contention of single rows does not count. `events`: new ones by
    `intake.kind_of`. `commits` and `batches`: seconds and rows of transactions.
    """

    def __init__(self, dsn: str, *, connections: int = 2, on_commit: Callable[[], None] = lambda: None) -> None:
        self._dsn = dsn
        self._connections = connections
        self._on_commit = on_commit
        self._queue: deque[Waiting] = deque()
        self._queued_rows = 0
        self._in_flight: set[Waiting] = set()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self.connected = 0
        self.trouble: str | None = None
        self.troubled_at = float("-inf")
        self.counts: Counter[str] = Counter()
        self.events: Counter[tuple[str, str, str | None, str | None]] = Counter()
        self.commits = Histogram(*COMMIT_SECONDS)
        self.batches = Histogram(*BATCH_ROWS)

    async def start(self) -> None:
        """Start the writing tasks; they connect by themselves and go on trying."""
        self._tasks = [asyncio.create_task(self._work(number)) for number in range(self._connections)]
        self._tasks.append(asyncio.create_task(self._sweep()))

    async def stop(self) -> None:
        """Write what is queued, as far as Postgres lets us before the deadlines, and close the connections."""
        while self._queue or self._in_flight:
            await asyncio.wait([waiting.done for waiting in (*self._queue, *self._in_flight)], timeout=SWEEP)
        self._stopping = True
        self._wake.set()
        self._tasks[-1].cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def store(
        self, rows: Sequence[Row], quarantined: Sequence[Quarantined], set_aside: SetAside, *, deadline: float
    ) -> None:
        """Commit the rows and the quarantine.

        `deadline`: by `time.monotonic()`. `set_aside(row, why)` makes the quarantine entry of a row that Postgres
        cannot hold. Raises Unavailable when it is not known to be committed by the deadline.
        """
        loop = asyncio.get_running_loop()
        parts = []
        for start in range(0, max(len(rows), 1), MAX_ROWS):
            part = Waiting(
                rows[start : start + MAX_ROWS],
                quarantined if start == 0 else (),
                set_aside,
                deadline,
                loop.create_future(),
            )
            parts.append(part)
            self._queue.append(part)
            self._queued_rows += part.weight
        self._wake.set()
        if len(parts) == 1:
            await parts[0].done
        else:
            await asyncio.gather(*(part.done for part in parts))

    @property
    def waiting(self) -> int:
        """Rows that wait for a transaction."""
        return self._queued_rows

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            now = time.monotonic()
            for waiting in [*self._queue, *self._in_flight]:
                if waiting.deadline <= now:
                    waiting.fail(self.trouble or "the database did not answer in time")

    async def _work(self, number: int) -> None:
        connection: asyncpg.Connection | None = None
        while True:
            group = await self._next_group(number)
            if group is None:
                break
            try:
                connection = await self._write_group(connection, group)
            except Exception:  # a fault of ours: these requests are asked to come again, the others go on
                log.exception("the writer failed", action="writer_failed", requests=len(group))
                self._drop(connection)
                connection = None
                for waiting in group:
                    waiting.fail("internal error")
            finally:
                self._in_flight.difference_update(group)
        if connection is not None:
            await connection.close()

    async def _next_group(self, number: int) -> list[Waiting] | None:
        while True:
            while not self._queue:
                if self._stopping:
                    return None
                self._wake.clear()
                await self._wake.wait()
            if number and not self._needs_help():
                await asyncio.sleep(SECOND_WRITER_DELAY)
            elif group := self._take():
                return group

    def _needs_help(self) -> bool:
        """Whether a further connection should write: for many rows, or when the first seems to be stuck.

        Not for a few rows that the first will take in a moment: two small transactions cost more than one.
        """
        stuck = time.monotonic() - self._queue[0].since > SECOND_WRITER_DELAY
        return stuck or self._queued_rows >= SECOND_WRITER_ROWS

    def _take(self) -> list[Waiting]:
        group: list[Waiting] = []
        weight = 0
        while self._queue and (not group or weight + self._queue[0].weight <= MAX_ROWS):
            waiting = self._queue.popleft()
            self._queued_rows -= waiting.weight
            if not waiting.done.done():  # its deadline may have passed
                group.append(waiting)
                weight += waiting.weight
        self._in_flight.update(group)
        return group

    async def _write_group(
        self, connection: asyncpg.Connection | None, group: list[Waiting]
    ) -> asyncpg.Connection | None:
        """Write until every member is settled or its deadline has passed; returns the connection to go on with."""
        attempt = 0
        while group := [waiting for waiting in group if not waiting.done.done()]:
            try:
                if connection is None or connection.is_closed():
                    connection = await self._connect()
                # A connection that has gone silent must not hold the writer longer than anybody waits.
                async with asyncio.timeout(_patience(group)):
                    await self._attempt(connection, group)
            except _AWAY as error:
                self._note(error)
                self._drop(connection)
                connection = None
                await asyncio.sleep(CONNECT_BACKOFF[min(attempt, len(CONNECT_BACKOFF) - 1)])
                attempt += 1
        return connection

    async def _attempt(self, connection: asyncpg.Connection, group: Sequence[Waiting]) -> None:
        try:
            await self._write_whole(connection, group)
        except _CONTENTION as error:
            self._note(error)
            await self._write_each(connection, group)
        except MissingPartition:
            if not await ensure_partitions(connection, ahead=0):
                raise
        except _BAD_ROWS:
            await self._write_each(connection, group)

    async def _write_whole(self, connection: asyncpg.Connection, group: Sequence[Waiting]) -> None:
        if len(group) == 1:
            rows, quarantined = group[0].rows, group[0].quarantined
        else:
            rows = [row for waiting in group for row in waiting.rows]
            quarantined = [entry for waiting in group for entry in waiting.quarantined]
        await self._commit(connection, rows, quarantined)
        for waiting in group:
            waiting.settle()

    async def _commit(
        self, connection: asyncpg.Connection, rows: Sequence[Row], quarantined: Sequence[Quarantined]
    ) -> None:
        started = time.perf_counter()
        new = await intake.write(connection, rows, quarantined)
        self.trouble = None
        self.commits.add(time.perf_counter() - started)
        self.batches.add(len(rows))
        self.counts["rows"] += len(rows)
        self.counts["new"] += len(new)
        self.events.update(map(intake.kind_of, new))
        if new:
            self._on_commit()

    async def _write_each(self, connection: asyncpg.Connection, group: Sequence[Waiting]) -> None:
        """Each request alone, once; who meets contention again stays unsettled and is tried again."""
        for waiting in group:
            try:
                await self._write_whole(connection, [waiting])
            except _CONTENTION as error:
                self._note(error)
            except _BAD_ROWS:
                await self._write_rows(connection, waiting)

    async def _write_rows(self, connection: asyncpg.Connection, waiting: Waiting) -> None:
        """Store the rows that Postgres can hold and quarantine the others."""
        bad = await self._sift(connection, waiting.rows, waiting.set_aside)
        await self._commit(connection, (), [*waiting.quarantined, *bad])
        self.counts["set_aside"] += len(bad)
        waiting.settle()

    async def _sift(
        self, connection: asyncpg.Connection, rows: Sequence[Row], set_aside: SetAside
    ) -> list[Quarantined]:
        """Halve the rows until those that Postgres cannot hold are alone; the others are committed."""
        try:
            await self._commit(connection, rows, ())
        except _BAD_ROWS as error:
            if len(rows) == 1:
                return [set_aside(rows[0], f"Postgres cannot hold it: {type(error).__name__}")]
            middle = len(rows) // 2
            left = await self._sift(connection, rows[:middle], set_aside)
            return left + await self._sift(connection, rows[middle:], set_aside)
        return []

    async def _connect(self) -> asyncpg.Connection:
        connection = await asyncpg.connect(
            self._dsn, timeout=5, command_timeout=30, server_settings={"application_name": "receiver ingest"}
        )
        await intake.prepare(connection)
        self.connected += 1
        return connection

    def _drop(self, connection: asyncpg.Connection | None) -> None:
        if connection is not None:
            self.connected -= 1
            connection.terminate()

    def _note(self, error: Exception) -> None:
        trouble = f"{type(error).__name__}: {error}"
        if trouble != self.trouble:
            log.warning("cannot write", action="write_failed", error=type(error).__name__, waiting=self._queued_rows)
        self.trouble = f"the database refuses to write ({type(error).__name__})"
        if not isinstance(error, _CONTENTION):
            self.troubled_at = time.monotonic()
