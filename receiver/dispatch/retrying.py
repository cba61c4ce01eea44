"""Events that are due again: each in a transaction of its own, locked, so that any worker may run it.

Those of an ordered handler are run by the holder of their shard's lease alone, which no transaction may have lost.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Final

from receiver.dispatch.breaker import Breaker, Tripped
from receiver.dispatch.calling import Caller
from receiver.dispatch.database import Database
from receiver.dispatch.failing import Failure
from receiver.dispatch.running import Runner
from receiver.dispatch.transaction import Transaction, TransactionSql
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

    async def run_due(self, stop: asyncio.Event, leased: Sequence[Leased] | None = None) -> None:
        """Run what is due, one event after the other, until nothing is, `stop` is set or the breaker opens.

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
        if self._breaker.open:
            return False
        try:
            return await self._try_next(leased)
        except Tripped as tripped:
            await self._breaker.trip(tripped)
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
        else:
            await self._breaker.probed(None)

    async def _try_next(self, leased: Sequence[Leased] | None) -> bool:
        async with Transaction(self._database) as transaction:
            sql = TransactionSql(transaction)
            turn = await self._take(transaction, sql, leased)
            if turn is None:
                return False
            failure = await self._run(transaction, sql, turn.due)
            if leased is not None:
                await self._go_on(transaction, sql, turn, leased)
            elif await self._paused(transaction, sql):
                return False  # the event stays due
            await transaction.commit()
        self._runner.counts["handled"] += failure is None
        self._runner.report([] if failure is None else [failure])
        return True

    async def _take(
        self, transaction: Transaction, sql: TransactionSql, leased: Sequence[Leased] | None
    ) -> Turn | None:
        if leased is not None:
            return await self._take_in_order(transaction, sql, [one.shard for one in leased])
        with transaction.own_statements():
            due = await failures.take_due(sql, self._name)
        return None if due is None else Turn(due, None, -1)

    async def _take_in_order(self, transaction: Transaction, sql: TransactionSql, shards: Sequence[int]) -> Turn | None:
        async with self._database.connection() as connection:  # by itself: an attempt is not to hold these rows' locks
            await ordering.file(connection, self._name, shards)
        with transaction.own_statements():
            return await ordering.take_due(sql, self._name, shards)

    async def _run(self, transaction: Transaction, sql: TransactionSql, due: Due) -> Failure | None:
        failure = None
        if due.event is None:
            self._caller.log.error("retry_without_event", event_id=str(due.event_id))
        elif self._caller.handler.filter.accepts(due.event):
            failure = await self._runner.attempt(
                transaction, due.event, failed_before=due.failed, replaying=due.replaying
            )
        else:
            await self._leave_out(transaction, sql, due)
        if failure is not None:
            (failure,) = await self._runner.keep(transaction, [failure])
            return failure
        with transaction.own_statements():
            await failures.settle(sql, self._name, due.event_id)
        return None

    async def _leave_out(self, transaction: Transaction, sql: TransactionSql, due: Due) -> None:
        """The filter does not take it. A letter that was retried is not handled by that: it is open again."""
        with transaction.own_statements():
            letter = await dead_letters.reopen(sql, self._name, due.event_id)
        if letter is not None:
            self._caller.log.warning("letter_left_out", dead_letter=letter, event_id=str(due.event_id))

    async def _paused(self, transaction: Transaction, sql: TransactionSql) -> bool:
        with transaction.own_statements():
            return await control.paused(sql, self._name)

    async def _go_on(self, transaction: Transaction, sql: TransactionSql, turn: Turn, leased: Sequence[Leased]) -> None:
        """Let the next of the key come, and prove that the shard is still ours."""
        if turn.key is not None:
            with transaction.own_statements():
                await ordering.promote(sql, self._name, turn.key)
        await self._runner.acks.move([Move(one, one.cursor) for one in leased if one.shard == turn.shard], transaction)
