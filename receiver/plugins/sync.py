"""The context of `def` handlers: as `Context`, but each method waits, in the thread, for the loop to do the work."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from structlog.typing import FilteringBoundLogger

from receiver.contacts.handling import Contacts
from receiver.event import Event
from receiver.plugins.context import Context, HandlerSql, Settings

P = ParamSpec("P")
T = TypeVar("T")


class Wait(Protocol):
    """Runs a coroutine on the loop and returns, in the thread that calls it, what came of it."""

    def __call__(self, work: Coroutine[Any, Any, T], /) -> T: ...


def _waits(method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[Any, P], T]:
    """The method of the same name, with the same parameters, for a thread."""
    name = method.__name__

    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = self._wait(getattr(self._inner, name)(*args, **kwargs))
        return result

    update_wrapper(call, method)
    return call


@dataclass(frozen=True, slots=True)
class SyncSql:
    """SQL in the transaction that also records the events as handled: both are committed, or neither."""

    _inner: HandlerSql
    _wait: Wait

    execute = _waits(HandlerSql.execute)
    fetch = _waits(HandlerSql.fetch)
    fetchrow = _waits(HandlerSql.fetchrow)
    fetchval = _waits(HandlerSql.fetchval)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """`with ctx.sql.savepoint():` undoes its statements when they raise, and lets the handler go on."""
        point = self._inner.savepoint()
        self._wait(_enter(point))
        try:
            yield
        except BaseException as error:
            self._wait(_leave(point, error))
            raise
        self._wait(_leave(point, None))


async def _enter(point: AbstractAsyncContextManager[None]) -> None:
    await point.__aenter__()


async def _leave(point: AbstractAsyncContextManager[None], error: BaseException | None) -> None:
    await point.__aexit__(None if error is None else type(error), error, None if error is None else error.__traceback__)


@dataclass(frozen=True, slots=True)
class SyncContacts:
    """Contacts, subscriptions and suppressions in the handler's transaction; see `Contacts`."""

    _inner: Contacts
    _wait: Wait

    get = _waits(Contacts.get)
    update = _waits(Contacts.update)
    tag = _waits(Contacts.tag)
    untag = _waits(Contacts.untag)
    change_address = _waits(Contacts.change_address)
    record = _waits(Contacts.record)
    heed = _waits(Contacts.heed)
    verified = _waits(Contacts.verified)
    sendable = _waits(Contacts.sendable)
    subscribe = _waits(Contacts.subscribe)
    request = _waits(Contacts.request)
    unsubscribe = _waits(Contacts.unsubscribe)
    suppress = _waits(Contacts.suppress)
    suppress_many = _waits(Contacts.suppress_many)
    lift = _waits(Contacts.lift)


@dataclass(frozen=True, slots=True)
class SyncContext(Generic[Settings]):
    """A `def` handler's world for one call: what `Context` has, without `await`.

    A call that takes longer than its timeout is given up: its thread goes on, as no thread can be stopped, but
    everything here raises RuntimeError from then on, and what it did in the transaction is rolled back.
    """

    _inner: Context[Settings]
    _wait: Wait

    send = _waits(Context.send)
    unsettled = _waits(Context.unsettled)

    @property
    def sql(self) -> SyncSql:
        return SyncSql(self._inner.sql, self._wait)

    @property
    def contacts(self) -> SyncContacts:
        return SyncContacts(self._inner.contacts, self._wait)

    @property
    def handler(self) -> str:
        return self._inner.handler

    @property
    def now(self) -> datetime:
        return self._inner.now

    @property
    def log(self) -> FilteringBoundLogger:
        return self._inner.log

    @property
    def settings(self) -> Settings:
        return self._inner.settings

    @property
    def attempt(self) -> int:
        return self._inner.attempt

    @property
    def replaying(self) -> bool:
        return self._inner.replaying

    @property
    def event(self) -> Event | None:
        return self._inner.event
