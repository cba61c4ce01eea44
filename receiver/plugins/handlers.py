"""The decorator that makes a handler of an async function."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, TypeVar, overload

from pydantic import BaseModel

from receiver.event import Event, EventType
from receiver.plugins.context import Context
from receiver.plugins.filters import Filter
from receiver.plugins.outcomes import Outcome

MAX_ATTEMPTS: Final = 8
TIMEOUT: Final = 30.0
BATCH_SIZE: Final = 500
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")

S = TypeVar("S", bound=BaseModel)
Words: TypeAlias = str | Collection[str] | None

Single: TypeAlias = Callable[[Event, Context], Awaitable[Outcome | None]]
Batch: TypeAlias = Callable[[Sequence[Event], Context], Awaitable[Outcome | None]]
SingleWith: TypeAlias = Callable[[Event, Context[S]], Awaitable[Outcome | None]]
BatchWith: TypeAlias = Callable[[Sequence[Event], Context[S]], Awaitable[Outcome | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """One handler: its function, which events it sees, and how it is run. Made by `@handler`.

    `timeout`: seconds that one call may take. `settings`: an instance of `settings_type`, bound when it is loaded.
    `origin`: the file or package that it came from.
    """

    name: str
    function: Callable[[Any, Any], Awaitable[Outcome | None]]
    filter: Filter
    batch: bool = False
    batch_size: int = BATCH_SIZE
    max_attempts: int = MAX_ATTEMPTS
    timeout: float = TIMEOUT
    settings_type: type[BaseModel] | None = None
    settings: BaseModel | None = None
    origin: str = ""

    def __post_init__(self) -> None:
        if not inspect.iscoroutinefunction(self.function):
            raise TypeError(f"the handler {self.name!r} must be an async function: write `async def {self.name}`")
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"a handler's name is 1 to 63 letters, digits, '_', '.' and '-', not {self.name!r}")
        if self.max_attempts < 1 or self.batch_size < 1 or self.timeout <= 0:
            raise ValueError(f"max_attempts, batch_size and timeout of {self.name!r} must be positive")

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


@overload
def handler(
    *,
    batch: Literal[True],
    settings: type[S],
    types: Collection[EventType] = ...,
    provider: Words = ...,
    source: Words = ...,
    stream: Words = ...,
    tag: Words = ...,
    machines: bool = ...,
    tests: bool = ...,
    name: str | None = ...,
    max_attempts: int = ...,
    timeout: float = ...,
    batch_size: int = ...,
) -> Callable[[BatchWith[S]], Handler]: ...
@overload
def handler(
    *,
    batch: Literal[True],
    types: Collection[EventType] = ...,
    provider: Words = ...,
    source: Words = ...,
    stream: Words = ...,
    tag: Words = ...,
    machines: bool = ...,
    tests: bool = ...,
    name: str | None = ...,
    max_attempts: int = ...,
    timeout: float = ...,
    batch_size: int = ...,
) -> Callable[[Batch], Handler]: ...
@overload
def handler(
    *,
    settings: type[S],
    batch: Literal[False] = ...,
    types: Collection[EventType] = ...,
    provider: Words = ...,
    source: Words = ...,
    stream: Words = ...,
    tag: Words = ...,
    machines: bool = ...,
    tests: bool = ...,
    name: str | None = ...,
    max_attempts: int = ...,
    timeout: float = ...,
    batch_size: int = ...,
) -> Callable[[SingleWith[S]], Handler]: ...
@overload
def handler(
    *,
    batch: Literal[False] = ...,
    types: Collection[EventType] = ...,
    provider: Words = ...,
    source: Words = ...,
    stream: Words = ...,
    tag: Words = ...,
    machines: bool = ...,
    tests: bool = ...,
    name: str | None = ...,
    max_attempts: int = ...,
    timeout: float = ...,
    batch_size: int = ...,
) -> Callable[[Single], Handler]: ...
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
    max_attempts: int = MAX_ATTEMPTS,
    timeout: float = TIMEOUT,
    batch_size: int = BATCH_SIZE,
) -> Callable[[Callable[[Any, Any], Awaitable[Outcome | None]]], Handler]:
    """Make a handler of an async function `(event, ctx)`, or `(events, ctx)` with `batch=True`.

    Filters: `types` (none named: all), `provider`, `source`, `stream`, `tag` (one word or several). Opens and clicks of
    machines come only with `machines=True`, test events of providers only with `tests=True`.

    `name`: under which the handler's progress is kept, by default the function's. A new name starts at new events.
    `max_attempts`: failures after which an event becomes a dead letter.
    `timeout`: seconds one call may take before it is cancelled, which counts as a failure.
    `batch_size`: the most events of one transaction, and of one call with `batch=True`.
    `settings`: a pydantic model for the configuration's table `[handlers.<name>]`; an instance is `ctx.settings`.
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

    def make(function: Callable[[Any, Any], Awaitable[Outcome | None]]) -> Handler:
        return Handler(
            name=name or str(getattr(function, "__name__", "")),
            function=function,
            filter=wanted,
            batch=batch,
            batch_size=batch_size,
            max_attempts=max_attempts,
            timeout=timeout,
            settings_type=settings,
        )

    return make


def _words(words: Words) -> frozenset[str]:
    return frozenset((words,) if isinstance(words, str) else words or ())
