"""Which events a handler sees, as plain data that can be listed and tested."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from receiver.event import Actor, Event, EventType


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Every part must hold; an empty part holds always.

    `machines`: opens and clicks of scanners and prefetchers are handed over too.
    `tests`: test events of providers are handed over too.
    """

    types: frozenset[EventType] = frozenset()
    provider: frozenset[str] = frozenset()
    source: frozenset[str] = frozenset()
    stream: frozenset[str] = frozenset()
    tag: frozenset[str] = frozenset()
    machines: bool = False
    tests: bool = False

    def accepts(self, event: Event) -> bool:
        """Whether the handler wants the event."""
        return (
            (not self.types or event.type in self.types)
            and (self.tests or not event.is_test)
            and (self.machines or event.actor is not Actor.MACHINE)
            and (not self.provider or event.provider in self.provider)
            and (not self.source or event.source in self.source)
            and (not self.stream or event.stream in self.stream)
            and (not self.tag or not self.tag.isdisjoint(event.tags))
        )


Accepts = Callable[[Event], bool]
