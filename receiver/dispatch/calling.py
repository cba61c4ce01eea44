"""One call of a handler: its context, its time limit, and what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from structlog.typing import FilteringBoundLogger

from receiver.contacts.handling import Contacts
from receiver.contacts.origin import Origin
from receiver.contacts.rules import Rules
from receiver.dispatch.limit import Ignored, Leftovers, Limit, SelfCancelled
from receiver.dispatch.threads import Gate, Threads
from receiver.dispatch.transaction import Transaction, TransactionSql
from receiver.event import Event
from receiver.plugins.context import Context
from receiver.plugins.handlers import Handler
from receiver.plugins.outcomes import Done, GiveUp, Outcome, RetryAfter, Skip, check
from receiver.plugins.sync import SyncContext
from receiver.vault import Vault

_DONE: Final = Done()


@dataclass(frozen=True, slots=True)
class Raised:
    """The handler did not return an outcome but raised, or took too long."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Caller:
    """Calls one handler. `counts`: its events by what became of them: `handled`, or the action of their failure."""

    handler: Handler
    vault: Vault
    log: FilteringBoundLogger
    rules: Rules = field(default_factory=Rules)
    counts: Counter[str] = field(default_factory=Counter)
    _threads: Threads = field(init=False, repr=False)
    _leftovers: Leftovers = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_threads", Threads(self.handler.name))
        object.__setattr__(self, "_leftovers", Leftovers(self.log))

    def context(
        self, transaction: Transaction, *, attempt: int = 1, replaying: bool = False, now: datetime | None = None
    ) -> Context[Any]:
        """What the handler gets, bound to a transaction."""
        sql = TransactionSql(transaction)
        return Context(
            sql=sql,
            contacts=Contacts(sql, self.vault, self.rules, Origin(f"handler:{self.handler.name}", "handler")),
            handler=self.handler.name,
            now=now or datetime.now(UTC),
            log=self.log,
            settings=self.handler.settings,
            attempt=attempt,
            replaying=replaying,
        )

    async def call_all(self, events: Sequence[Event], context: Context[Any]) -> Outcome | Raised:
        """Hand over all events, in as few calls as the handler allows; ends with the first that is not settled.

        Database troubles are the transaction's to tell: ask its `check` before believing this.
        """
        sql = context.sql
        assert isinstance(sql, TransactionSql)  # by `context`
        limit = Limit(self.handler.run.timeout, sql.end, self._leftovers)
        try:
            return await limit.run(self._call_each(events, context, limit))
        except (Ignored, SelfCancelled) as error:
            return Raised(error)

    async def call_one(self, event: Event, context: Context[Any]) -> Outcome | Raised:
        """Hand over one event alone."""
        return await self.call_all((event,), context)

    async def _call_each(self, events: Sequence[Event], context: Context[Any], limit: Limit) -> Outcome | Raised:
        result: Outcome | Raised = _DONE
        if self.handler.batch:
            size = self.handler.run.batch_size
            for start in range(0, len(events), size):
                result = await self.call(events[start : start + size], context, limit)
                if not settled(result):
                    break
        else:
            for event in events:
                result = await self.call(event, replace(context, event=event), limit)
                if not settled(result):
                    break
        return result

    async def call(self, argument: Any, context: Context[Any], limit: Limit) -> Outcome | Raised:
        """Call the function. It has failed when its time was over, whatever it made of that."""
        try:
            with limit.one():
                if self.handler.threaded:
                    outcome = await self._call_in_thread(argument, context)
                else:
                    outcome = await self.handler.function(argument, context)
            return Raised(_too_long(None)) if limit.exceeded else self._checked(outcome)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is that event's failure; Limit knows a real cancellation
            return Raised(_too_long(error) if limit.exceeded else error)

    async def _call_in_thread(self, argument: Any, context: Context[Any]) -> object:
        gate = Gate()
        try:
            return await self._threads.run(partial(self.handler.function, argument, SyncContext(context, gate.wait)))
        finally:
            await gate.close()

    def _checked(self, outcome: object) -> Outcome | Raised:
        if outcome is None:
            return _DONE
        if isinstance(outcome, Skip):
            self.log.debug("event_skipped", reason=outcome.reason)
        if isinstance(outcome, (Done, Skip)):
            return outcome
        if isinstance(outcome, (RetryAfter, GiveUp)):
            check(outcome)  # again: a subclass may have a constructor of its own
            return outcome
        return Raised(TypeError(f"a handler returns an outcome or nothing, not {type(outcome).__name__}"))


def _too_long(cause: BaseException | None) -> TimeoutError:
    error = TimeoutError()
    error.__cause__ = cause
    return error


def settled(result: Outcome | Raised) -> bool:
    """Whether the events are handled, so that their effects may be committed."""
    return isinstance(result, (Done, Skip))
