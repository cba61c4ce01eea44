"""Running a batch in one transaction, and each of its events alone when that fails."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import asyncpg

from receiver.dispatch.acks import Acks
from receiver.dispatch.batches import Batch, Part
from receiver.dispatch.breaker import Breaker, NotNow
from receiver.dispatch.calling import Caller, Raised, settled
from receiver.dispatch.database import Conflict, Database, DatabaseGone
from receiver.dispatch.failing import Failure, failure_of, plain, scrub_all
from receiver.dispatch.transaction import Aborted, Transaction, TransactionSql
from receiver.event import Event
from receiver.plugins.outcomes import GiveUp, Outcome, RetryAfter
from receiver.store import failures, ordering
from receiver.store.lanes import Lane
from receiver.store.leases import Move
from receiver.store.log import find_event
from receiver.store.ordering import key_of
from receiver.store.sql import Sql

_ASKING: Final = 1000  # batches that are known at most to have asked for later
_ALONE_TIME: Final = 5.0  # seconds after which events that run alone are committed, so that slow failures hold no locks


class Runner:
    """Runs one handler's batches and moves its cursors in the same transaction.

    `lane`: the cursors are that lane's, else the handler's own. Everything here raises DatabaseGone, Conflict,
    LeaseLost or Tripped where nothing of the transaction in hand has happened; NotNow where a batch handler is to rest.
    """

    def __init__(
        self,
        *,
        database: Database,
        caller: Caller,
        breaker: Breaker,
        acks: Acks,
        lane: Lane | None = None,
    ) -> None:
        self._database = database
        self._caller = caller
        self._breaker = breaker
        self._handler = caller.handler
        self.acks: Final = acks
        self.cursor: Final = lane.cursor if lane else caller.handler.name
        self.replaying: Final = lane is not None and lane.replaying
        self.counts: Final = caller.counts
        self._asked: Counter[UUID] = Counter()  # how often a batch that begins with this event has asked for later

    async def together(self, batch: Batch) -> bool:
        """The whole batch in one transaction; False: something failed, everything was rolled back."""
        blocked = await self._blocked(batch)
        events = [one for one in batch.events if key_of(one) not in blocked] if blocked else batch.events
        async with Transaction(self._database) as transaction:
            if events:
                context = self._caller.context(transaction, replaying=self.replaying)
                result = await self._caller.call_all(events, context)
                if not await self.fine(transaction, result):
                    self.heed(batch.events, result)
                    return False
            try:
                await self._park(transaction, [one for one in batch.events if blocked and key_of(one) in blocked])
                await self.acks.move([part.move() for part in batch.parts], transaction)
                await transaction.commit()
            except Aborted:
                return False  # a deferred constraint, or the handler went on after a statement that it had cancelled
        if events:
            self._breaker.worked()
            self.counts["handled"] += len(events)
        return True

    async def _blocked(self, batch: Batch) -> set[int]:
        """Keys whose events must wait. Nobody else works on them: their shards are leased, and no other lane's."""
        if not self._handler.run.ordered or not batch.events:
            return set()
        async with self._database.connection() as connection:
            return await ordering.blocked(connection, self._handler.name, map(key_of, batch.events))

    async def _park(self, transaction: Transaction, events: Sequence[Event]) -> None:
        if events:
            sql = TransactionSql(transaction)
            with transaction.own_statements():
                await ordering.park(sql, self._handler.name, events, replaying=self.replaying)

    async def fine(self, transaction: Transaction, result: Outcome | Raised) -> bool:
        """Whether what was done together may be committed."""
        try:
            transaction.check()
        except Aborted:
            return False
        return settled(result)

    def heed(self, events: Sequence[Event], result: Outcome | Raised) -> None:
        """Raises NotNow where a batch handler has asked for later: it speaks for all, so none is filed by itself."""
        if not isinstance(result, RetryAfter):
            return
        asked = self.asked(failure_of(events[0], result, failed_before=0, run=self._handler.run))
        if asked is not None:
            self.count_asking(events[0])
            raise NotNow(asked.seconds, scrub_all(asked.why, events))

    def count_asking(self, first: Event) -> int:
        """How often a batch that begins with this event has asked for later by now."""
        if len(self._asked) >= _ASKING:
            self._asked.clear()
        self._asked[first.id] += 1
        return self._asked[first.id]

    def asks_too_often(self, events: Sequence[Event]) -> bool:
        """Whether a batch that begins so has asked for later again and again: perhaps it is but one event that asks."""
        return bool(self._asked and events) and self._asked[events[0].id] >= self._handler.run.max_attempts

    async def alone(self, batch: Batch, stop: asyncio.Event) -> None:
        """Each event in a savepoint of its own; what fails is kept for later, and the cursors move on.

        A batch handler's event that asks for later is kept too, and those after it are left for the rest's end.
        """
        run = _Alone(self, self._database, await self._blocked(batch) if self._handler.run.ordered else None)
        try:
            for part in batch.parts:
                await self._part_alone(run, part)
                if stop.is_set() or run.asked:
                    break
            await run.commit()
            if run.asked:
                raise run.asked
        finally:
            await run.close()

    async def _part_alone(self, run: _Alone, part: Part) -> None:
        begun = part.start
        for index in range(part.start, part.stop):
            event = part.page.events[index]
            if self._handler.filter.accepts(event):
                await run.attempt(event)
            if index + 1 >= part.page.late or index + 1 == part.stop:
                run.moves[part.leased.shard] = Move(part.leased, part.page.after(index + 1), index + 1 - begun)
                if run.asked:
                    break
                if run.overdue:
                    await run.commit()
                    begun = index + 1

    async def attempt(
        self, transaction: Transaction, event: Event, *, failed_before: int = 0, replaying: bool = False
    ) -> Failure | None:
        """One event in a savepoint: its effects stay, or they are undone and the failure is returned."""
        context = self._caller.context(transaction, attempt=failed_before + 1, replaying=replaying)
        transaction.begin_attempt()
        result = await self._caller.call_one(event, context)
        result = await _settle(transaction, result)
        failure = failure_of(event, result, failed_before=failed_before, run=self._handler.run)
        if failure is None:
            self._breaker.worked()
        else:
            self._breaker.failed(failure)
        return failure

    def asked(self, failure: Failure | None) -> NotNow | None:
        """What was asked for, where it is a batch handler's."""
        if failure is None or failure.delay is None or failure.cause != "asked" or not self._handler.batch:
            return None
        return NotNow(failure.delay, failure.error)

    async def keep(self, transaction: Transaction, kept: Sequence[Failure]) -> list[Failure]:
        """Write failures down, and return them as they were kept: each in plain words where it is refused otherwise."""
        if await self._refusal(transaction, kept) is None:
            return [*kept]
        return [await self._keep_alone(transaction, failure) for failure in kept]

    async def _keep_alone(self, transaction: Transaction, failure: Failure) -> Failure:
        refusal = await self._refusal(transaction, [failure])
        if refusal is None:
            return failure
        event = failure.event
        self._caller.log.error(
            "failure_not_kept",
            event_id=str(event.id),
            error_type=failure.error_type,
            error=failure.error,
            exc_info=refusal,
        )
        sql = TransactionSql(transaction)
        with transaction.own_statements():
            failure = plain(failure, refusal, await find_event(sql, event.id, event.received_at), self._handler.run)
            await self._write(sql, failure)
        return failure

    async def _refusal(self, transaction: Transaction, kept: Sequence[Failure]) -> Exception | None:
        """Write them down; else nothing of it has happened, and what stood against it is returned."""
        if not kept:
            return None
        sql = TransactionSql(transaction)
        transaction.begin_attempt()
        try:
            with transaction.own_statements():
                for failure in kept:
                    await self._write(sql, failure)
            await transaction.keep_attempt()
        except (DatabaseGone, Conflict):
            raise
        except Exception as error:  # noqa: BLE001 - of an event that a handler has changed, or of what Postgres refuses
            await transaction.undo_attempt()
            return error.__cause__ if isinstance(error, Aborted) and isinstance(error.__cause__, Exception) else error
        return None

    async def _write(self, sql: Sql, failure: Failure) -> None:
        """A retry or a dead letter."""
        name, event = self._handler.name, failure.event
        if failure.delay is not None:
            await failures.retry_later(
                *(sql, name, event),
                cause="replay" if self.replaying else failure.cause,
                attempts=failure.attempts,
                delay=failure.delay,
                error=failure.error,
                error_type=failure.error_type,
                traceback=failure.traceback,
            )
            if self._handler.run.ordered:
                await ordering.mark(sql, name, event)
            return
        await failures.bury(
            *(sql, name, event),
            attempts=failure.attempts,
            error_type=failure.error_type,
            error=failure.error,
            traceback=failure.traceback,
            replaying=self.replaying,
        )

    def report(self, kept: Sequence[Failure]) -> None:
        """One line for all failures of a kind that were committed together; one of them stands for the others."""
        kinds: dict[tuple[str, str, str], list[Failure]] = {}
        for failure in kept:
            kinds.setdefault((*_action(failure), failure.error_type), []).append(failure)
        for (level, action, error_type), (first, *others) in kinds.items():
            self.counts[action] += 1 + len(others)
            getattr(self._caller.log, level)(
                action,
                error_type=error_type,
                error=first.error,
                event_id=str(first.event.id),
                attempts=first.attempts,
                events=1 + len(others),
            )

    async def finish(
        self, transaction: Transaction, kept: Sequence[Failure], parked: Sequence[Event], moves: Sequence[Move]
    ) -> None:
        """Write down what failed and what waits, and move the cursors, all in one transaction, and commit."""
        kept = await self.keep(transaction, kept)  # before what waits behind it
        await self._park(transaction, parked)
        await self.acks.move(moves, transaction)
        await transaction.commit()
        self.report(kept)


def _action(failure: Failure) -> tuple[str, str]:
    """Log level and action."""
    if failure.delay is None:
        return "error", "dead_letter"
    return ("warning", "handler_failed") if failure.cause == "failed" else ("info", "handler_asked_for_later")


class _Alone:
    """The transaction in which events run alone for the moment, what failed in it, and how far it has come.

    `blocked`: keys whose events have to wait, where the handler is ordered.
    """

    def __init__(self, runner: Runner, database: Database, blocked: set[int] | None) -> None:
        self._runner = runner
        self._database = database
        self._blocked = blocked
        self.moves: dict[int, Move] = {}
        self.asked: NotNow | None = None
        self._start()

    def _start(self) -> None:
        self._transaction = Transaction(self._database)
        self._failures: list[Failure] = []
        self._parked: list[Event] = []
        self._handled = 0
        self._deadline = asyncio.get_running_loop().time() + _ALONE_TIME

    @property
    def overdue(self) -> bool:
        return asyncio.get_running_loop().time() > self._deadline

    async def attempt(self, event: Event) -> None:
        if self._blocked and key_of(event) in self._blocked:
            self._parked.append(event)
            return
        failure = await self._runner.attempt(self._transaction, event, replaying=self._runner.replaying)
        if failure is None:
            self._handled += 1
        else:
            self._failures.append(failure)
            self.asked = self.asked or self._runner.asked(failure)
            if self._blocked is not None and failure.delay is not None:
                self._blocked.add(key_of(event))

    async def commit(self) -> None:
        if self.moves:
            await self._runner.finish(self._transaction, self._failures, self._parked, list(self.moves.values()))
            self._runner.counts["handled"] += self._handled
            await self.close()
            self.moves = {}
            self._start()

    async def close(self) -> None:
        await self._transaction.close()


async def _settle(transaction: Transaction, result: Outcome | Raised) -> Outcome | Raised:
    """Keep or undo an attempt's effects. A conflict with another transaction is this event's failure here."""
    try:
        transaction.check()
        if settled(result):
            await transaction.keep_attempt()
            return result
    except (Aborted, Conflict, asyncpg.PostgresError) as error:
        if not isinstance(result, (Raised, RetryAfter, GiveUp)):
            result = Raised(error)
    await transaction.undo_attempt()
    return result
