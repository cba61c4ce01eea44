"""The decorator that makes a handler of a function."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, Protocol, TypeAlias, TypedDict, TypeVar, Unpack, overload

from pydantic import BaseModel, ValidationError

from receiver.event import Event, EventType
from receiver.plugins.context import Context
from receiver.plugins.execution import TABLE, Execution, Options
from receiver.plugins.filters import Filter
from receiver.plugins.outcomes import Outcome
from receiver.plugins.sync import SyncContext

START: Final = "now"
BEGINNING: Final = "beginning"
THE_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)  # before any event
_SPAN: Final = re.compile(r"(\d{1,4})([mhdw])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")

S = TypeVar("S", bound=BaseModel)
Words: TypeAlias = str | Collection[str] | None

Function: TypeAlias = Callable[[Any, Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """One handler: its function, which events it sees, and how it is run. Made by `@handler`.

    `settings`: an instance of `settings_type`, bound when it is loaded.
    `opt_in`: it is loaded only where the configuration has a table for it.
    `origin`: the file or package that it came from.
    `threaded`: it is a `def` function, which is called in a thread.
    """

    name: str
    function: Function
    filter: Filter
    batch: bool = False
    run: Execution = field(default_factory=Execution)
    start: str = START
    settings_type: type[BaseModel] | None = None
    settings: BaseModel | None = None
    opt_in: bool = False
    origin: str = ""
    threaded: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "threaded", not inspect.iscoroutinefunction(self.function))
        if inspect.isgeneratorfunction(self.function) or inspect.isasyncgenfunction(self.function):
            raise TypeError(f"the handler {self.name!r} must not yield: it returns an outcome or nothing")
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"a handler's name is 1 to 63 letters, digits, '_', '.' and '-', not {self.name!r}")
        if self.settings_type is not None and TABLE in self.settings_type.model_fields:
            raise ValueError(
                f"the settings of {self.name!r} may not have a field {TABLE!r}: the table "
                f"[handlers.{self.name}.{TABLE}] says how the handler is run"
            )
        if self.start not in (START, BEGINNING) and not _SPAN.fullmatch(self.start):
            raise ValueError(f"start of {self.name!r} is 'now', 'beginning' or a time such as '7d', not {self.start!r}")

    def since(self, now: datetime) -> datetime | None:
        """From when on a new handler gets old events; None: it gets none."""
        if self.start == START:
            return None
        span = _SPAN.fullmatch(self.start)
        return now - timedelta(**{_UNITS[span[2]]: int(span[1])}) if span else THE_BEGINNING

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


class Events(TypedDict, total=False):
    """Which events, from when on, under which name, and whether only on request."""

    types: Collection[EventType]
    provider: Words
    source: Words
    stream: Words
    tag: Words
    machines: bool
    tests: bool
    name: str | None
    start: str
    opt_in: bool


class _Keywords(Events, Options, total=False):
    """What every handler may say."""


class ForEvent(Protocol):
    """Decorates a function of one event."""

    @overload
    def __call__(self, function: Callable[[Event, Context], Awaitable[Outcome | None]], /) -> Handler: ...
    @overload
    def __call__(self, function: Callable[[Event, SyncContext], Outcome | None], /) -> Handler: ...


class ForEvents(Protocol):
    """Decorates a function of several events."""

    @overload
    def __call__(self, function: Callable[[Sequence[Event], Context], Awaitable[Outcome | None]], /) -> Handler: ...
    @overload
    def __call__(self, function: Callable[[Sequence[Event], SyncContext], Outcome | None], /) -> Handler: ...


class ForEventWith(Protocol[S]):
    """Decorates a function of one event and a context with settings."""

    @overload
    def __call__(self, function: Callable[[Event, Context[S]], Awaitable[Outcome | None]], /) -> Handler: ...
    @overload
    def __call__(self, function: Callable[[Event, SyncContext[S]], Outcome | None], /) -> Handler: ...


class ForEventsWith(Protocol[S]):
    """Decorates a function of several events and a context with settings."""

    @overload
    def __call__(self, function: Callable[[Sequence[Event], Context[S]], Awaitable[Outcome | None]], /) -> Handler: ...
    @overload
    def __call__(self, function: Callable[[Sequence[Event], SyncContext[S]], Outcome | None], /) -> Handler: ...


@overload
def handler(*, batch: Literal[True], settings: type[S], **keywords: Unpack[_Keywords]) -> ForEventsWith[S]: ...
@overload
def handler(*, batch: Literal[True], **keywords: Unpack[_Keywords]) -> ForEvents: ...
@overload
def handler(*, settings: type[S], batch: Literal[False] = ..., **keywords: Unpack[_Keywords]) -> ForEventWith[S]: ...
@overload
def handler(*, batch: Literal[False] = ..., **keywords: Unpack[_Keywords]) -> ForEvent: ...
def handler(  # noqa: PLR0913 - keywords with defaults are the interface
    *,
    batch: bool = False,
    settings: type[BaseModel] | None = None,
    types: Collection[EventType] = (),
    provider: Words = None,
    source: Words = None,
    stream: Words = None,
    tag: Words = None,
    machines: bool = False,
    tests: bool = False,
    name: str | None = None,
    start: str = START,
    opt_in: bool = False,
    **run: Unpack[Options],
) -> Callable[[Function], Handler]:
    """Make a handler of a function `(event, ctx)`, or `(events, ctx)` with `batch=True`.

    An `async def` runs on the event loop; a `def` runs in a thread and gets a `SyncContext`.

    Filters: `types` (none named: all), `provider`, `source`, `stream`, `tag` (one word or several). Opens and clicks of
    machines come only with `machines=True`, test events of providers only with `tests=True`.

    `name`: under which the handler's progress is kept, by default the function's. A new name starts at new events.
    `start`: what a handler that is new to the database gets of the events that were there before it: none (`now`), all
    (`beginning`), or those of a time (`7d`, `12h`, `30m`). They come beside new events, with `ctx.replaying`.
    `settings`: a pydantic model for the configuration's table `[handlers.<name>]`; an instance is `ctx.settings`.

    `opt_in`: the handler is loaded only where the configuration has that table.

    How it is run, which operators can change in `[handlers.<name>.run]` (times in seconds):
    `max_attempts` (8): failures after which an event becomes a dead letter.
    `first_delay` (2), `delay_factor` (4), `longest_delay` (3600): the waits between attempts.
    `timeout` (30): how long one call may take before it is cancelled, which counts as a failure.
    `concurrency` (1): how many batches, of different shards, one worker runs at the same time.
    `batch_size` (500): the most events of one transaction, and of one call with `batch=True`.
    `ordered` (False): later events of a recipient wait behind one that failed.
    `breaker` (10): failures in a row, of different events, that stop the handler until a probe succeeds; 0: never.
    """
    wanted = Filter(
        types=frozenset(map(EventType, types)),
        provider=_words(provider),
        source=_words(source),
        stream=_words(stream),
        tag=_words(tag),
        machines=machines,
        tests=tests,
    )
    execution = _execution(run)

    def make(function: Function) -> Handler:
        return Handler(
            name=name or str(getattr(function, "__name__", "")),
            function=function,
            filter=wanted,
            batch=batch,
            run=execution,
            settings_type=settings,
            start=start,
            opt_in=opt_in,
        )

    return make


def _execution(options: Options) -> Execution:
    unknown = options.keys() - Execution.model_fields.keys()
    if unknown:
        raise TypeError(f"@handler does not know {', '.join(sorted(unknown))}")
    try:
        return Execution(**options)
    except ValidationError as error:
        (first, *_) = error.errors(include_input=False, include_url=False, include_context=False)
        raise ValueError(f"{'.'.join(map(str, first['loc']))} of @handler: {first['msg']}") from None


def _words(words: Words) -> frozenset[str]:
    return frozenset((words,) if isinstance(words, str) else words or ())
