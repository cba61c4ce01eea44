"""What a run of retention reports."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from receiver.errors import ReceiverError
from receiver.store.needs import Need


class Busy(ReceiverError):
    """A lock was held for longer than retention waits; what was begun is finished by the next run."""


class Unfinished(ReceiverError):
    """Rules that could not be followed to the end: the text names each and says why. The next run goes on there."""


@dataclass(frozen=True, slots=True)
class Done:
    """One step of a run: rows and bytes that went. `held`: who kept it from being done."""

    part: str
    relation: str
    rows: int = 0
    bytes: int = 0
    held: tuple[Need, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a long step is: `done` of `total` blocks."""

    part: str
    relation: str
    done: int
    total: int


Report = Callable[[Done | Progress], Awaitable[None]]
