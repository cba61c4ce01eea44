"""Events that are due again: each in a transaction of its own, locked, so that any worker may run it."""

from __future__ import annotations

import asyncio

from receiver.dispatch.calling import Caller
from receiver.dispatch.database import Database
from receiver.dispatch.failing import Failure
from receiver.dispatch.running import Runner
from receiver.dispatch.transaction import Transaction, TransactionSql
from receiver.store import failures
from receiver.store.failures import Due


class Retrier:
    """Runs one handler's due events. Raises DatabaseGone or Conflict: the event in hand stays due."""

    def __init__(self, database: Database, caller: Caller, runner: Runner) -> None:
        self._database = database
        self._caller = caller
        self._runner = runner
        self._name = caller.handler.name

    async def run_due(self, stop: asyncio.Event) -> None:
        """Run what is due, one event after the other, until nothing is or `stop` is set."""
        while not stop.is_set() and await self._run_next():
            pass

    async def _run_next(self) -> bool:
        async with Transaction(self._database) as transaction:
            sql = TransactionSql(transaction)
            with transaction.own_statements():
                due = await failures.take_due(sql, self._name)
            if due is None:
                return False
            failure = await self._run(transaction, sql, due)
            await transaction.commit()
        self._runner.report([] if failure is None else [failure])
        return True

    async def _run(self, transaction: Transaction, sql: TransactionSql, due: Due) -> Failure | None:
        failure = None
        if due.event is None:
            self._caller.log.error("retry_without_event", event_id=str(due.event_id))
        elif self._caller.handler.filter.accepts(due.event):
            failure = await self._runner.attempt(
                transaction, due.event, failed_before=due.failed, replaying=due.replaying
            )
        with transaction.own_statements():
            if failure is None:
                await failures.settle(sql, self._name, due.event_id)
            else:
                await self._runner.keep(sql, failure)
        return failure
