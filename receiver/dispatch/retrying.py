"""Events that are due again: each in a transaction of its own, locked, so that any worker may run it.

A batch handler gets as many as it takes together, and each alone only where that fails. Those of an ordered handler
are run one by one, and by the holder of their shard's lease alone, which no transaction may have lost.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from receiver.dispatch.breaker import Breaker, NotNow, Tripped
from receiver.dispatch.calling import Caller
from receiver.dispatch.database import ENFORCE, Conflict, Database
from receiver.dispatch.failing import Failure
from receiver.dispatch.running import Runner
from receiver.dispatch.transaction import Aborted, Transaction, TransactionSql
from receiver.event import Event
from receiver.store import control, dead_letters, failures, ordering
from receiver.store.failures import Due
from receiver.store.leases import Leased, Move
from receiver.store.ordering import Turn

_TURN: Final = 5.0  # seconds after which an ordered handler's new events have their turn again
_AFTER_PROBE: Final = 60.0  # seconds until an event that failed as a probe is due again: the next probe is another


class Retrier:
    """Runs one handler's due events. Raises DatabaseGone, Conflict or LeaseLost: the event in hand stays due."""

    def __init__(self, database: Database, caller: Caller, runner: Runner, breaker: Breaker) -> None:
        self._database = database
        self._caller = caller
        self._runner = runner
        self._breaker = breaker
        self._name = caller.handler.name
        self._alone = 0  # so many are to be run one by one, as they have failed together

    async def run_due(self, stop: asyncio.Event, leased: Sequence[Leased] | None = None) -> None:
        """Run what is due, one after the other, until nothing is, `stop` is set, the breaker opens or a rest begins.

        `leased`: shards of an ordered handler; then other work may have its turn after a while. While the breaker is
        open, one event at most is run, as a probe.
        """
        if self._breaker.open:
            await self._probe(leased)
            return
        deadline = asyncio.get_running_loop().time() + _TURN
        while not stop.is_set() and await self._run_next(leased):
            if leased is not None and asyncio.get_running_loop().time() > deadline:
                break

    async def _run_next(self, leased: Sequence[Leased] | None) -> bool:
        if self._breaker.holds:
            return False
        try:
            return await self._try_next(leased)
        except Tripped as tripped:
            await self._breaker.trip(tripped)
        except NotNow as asked:
            await self._breaker.rest(asked)
        return False

    async def _probe(self, leased: Sequence[Leased] | None) -> None:
        # Every other time it is a new event's turn: what is due may be all that is bad.
        its_turn = leased is not None or random.random() < 0.5  # noqa: S311 - no secret
        if not (its_turn and self._breaker.probe_due and await self._breaker.claim()):
            return
        try:
            await self._try_next(leased)
        except Tripped as tripped:
            async with self._database.connection() as connection:
                await failures.postpone(connection, self._name, tripped.failure.event.id, delay=_AFTER_PROBE)
            await self._breaker.probed(tripped)
        except NotNow as asked:
            await self._breaker.rest(asked)
        else:
            await self._breaker.probed(None)

    async def _try_next(self, leased: Sequence[Leased] | None) -> bool:
        failure = None
        async with Transaction(self._database) as transaction:
            sql = TransactionSql(transaction)
            turns = await self._take(transaction, sql, leased)
            if not turns:
                return False
            if len(turns) == 1:
                failure = await self._run(transaction, sql, turns[0].due)
            elif not await self._run_together(transaction, sql, [turn.due for turn in turns]):
                self._alone = len(turns)
                return True
            if leased is not None:
                await self._go_on(transaction, sql, turns[0], leased)
            elif await self._paused(transaction, sql):
                return False  # what was taken stays due
            await transaction.commit()
        self._runner.counts["handled"] += len(turns) - (failure is not None)
        self._runner.report([] if failure is None else [failure])
        asked = self._runner.asked(failure)
        if asked is not None and self._alone:
            self._alone = 0  # the others may be fine together
            raise asked
        return True

    async def _take(self, transaction: Transaction, sql: TransactionSql, leased: Sequence[Leased] | None) -> list[Turn]:
        """Several are a batch handler's, and either all for a replay or none."""
        if leased is not None:
            turn = await self._take_in_order(transaction, sql, [one.shard for one in leased])
            return [] if turn is None else [turn]
        handler = self._caller.handler
        single = self._alone > 0 or self._breaker.open or not handler.batch
        self._alone = max(self._alone - 1, 0)
        with transaction.own_statements():
            found = await failures.take_due(sql, self._name, 1 if single else handler.run.batch_size)
        return [Turn(due, None, -1) for due in found if due.replaying == found[0].replaying]

    async def _take_in_order(self, transaction: Transaction, sql: TransactionSql, shards: Sequence[int]) -> Turn | None:
        async with self._database.connection() as connection:  # by itself: an attempt is not to hold these rows' locks
            await ordering.file(connection, self._name, shards)
        with transaction.own_statements():
            return await ordering.take_due(sql, self._name, shards)

    async def _run_together(self, transaction: Transaction, sql: TransactionSql, due: Sequence[Due]) -> bool:
        """False: something failed, and nothing of the transaction may be committed."""
        events = [event for one in due if (event := self._wanted(one)) is not None]
        if self._runner.asks_too_often(events):
            return False
        try:
            if events and not await self._call_together(transaction, events, due):
                return False
            with transaction.own_statements():
                await sql.execute(ENFORCE)
            for one in due:
                await self._settle(transaction, sql, one)
        except (Aborted, Conflict):  # where each runs alone it is one event's failure
            return False
        return True

    async def _call_together(self, transaction: Transaction, events: Sequence[Event], due: Sequence[Due]) -> bool:
        attempt, replaying = 1 + max(one.failed for one in due), due[0].replaying
        context = self._caller.context(transaction, attempt=attempt, replaying=replaying)
        result = await self._caller.call_all(events, context)
        if not await self._runner.fine(transaction, result):
            self._runner.heed(events, result)
            return False
        self._breaker.worked()
        return True

    async def _run(self, transaction: Transaction, sql: TransactionSql, due: Due) -> Failure | None:
        failure, event = None, self._wanted(due)
        if event is not None:
            failure = await self._runner.attempt(transaction, event, failed_before=due.failed, replaying=due.replaying)
        if failure is None:
            await self._settle(transaction, sql, due)
            return None
        (kept,) = await self._runner.keep(transaction, [self._patient(failure)])
        return replace(kept, delay=failure.delay)  # others are to wait for what was asked for, and no longer

    def _wanted(self, due: Due) -> Event | None:
        return due.event if due.event is not None and self._caller.handler.filter.accepts(due.event) else None

    async def _settle(self, transaction: Transaction, sql: TransactionSql, due: Due) -> None:
        """It is handled, or never will be. A letter that the filter does not take is reopened: it was not handled."""
        letter = None
        with transaction.own_statements():
            if due.event is not None and self._wanted(due) is None:
                letter = await dead_letters.reopen(sql, self._name, due.event_id)
            await failures.settle(sql, self._name, due.event_id)
        if due.event is None:
            self._caller.log.error("retry_without_event", event_id=str(due.event_id))
        if letter is not None:
            self._caller.log.warning("letter_left_out", dead_letter=letter, event_id=str(due.event_id))

    def _patient(self, failure: Failure) -> Failure:
        """What asks for later alone must not make a batch handler rest again and again: it waits longer each time."""
        asked = self._runner.asked(failure)
        if asked is None:
            return failure
        times = self._runner.count_asking(failure.event)
        return replace(failure, delay=max(asked.seconds, self._caller.handler.run.backoff(times)))

    async def _paused(self, transaction: Transaction, sql: TransactionSql) -> bool:
        with transaction.own_statements():
            return await control.paused(sql, self._name)

    async def _go_on(self, transaction: Transaction, sql: TransactionSql, turn: Turn, leased: Sequence[Leased]) -> None:
        """Let the next of the key come, and prove that the shard is still ours."""
        if turn.key is not None:
            with transaction.own_statements():
                await ordering.promote(sql, self._name, turn.key)
        await self._runner.acks.move([Move(one, one.cursor) for one in leased if one.shard == turn.shard], transaction)
