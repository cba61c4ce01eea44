"""Cutting what was read into batches: how much one transaction handles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from receiver.event import Event
from receiver.plugins.filters import Accepts
from receiver.store.leases import Leased, Move
from receiver.store.log import Page


class Part(msgspec.Struct, frozen=True):
    """Events `start` to `stop` of a leased shard's page."""

    leased: Leased
    page: Page
    start: int
    stop: int

    def move(self) -> Move:
        return Move(self.leased, self.page.after(self.stop), self.stop - self.start)


class Batch(msgspec.Struct, frozen=True):
    """What one transaction handles: `events` are those that the handler wants, the others are only passed by."""

    parts: Sequence[Part]
    events: Sequence[Event]


def batches(pages: Sequence[tuple[Leased, Page]], accepts: Accepts, size: int) -> Iterator[Batch]:
    """Batches of about `size` wanted events. Late events of a page stay together, whatever their number.

    A lane's empty page is a part too: it moves the cursor to the lane's end.
    """
    parts: list[Part] = []
    events: list[Event] = []
    for leased, page in pages:
        start = 0
        for index, event in enumerate(page.events, 1):
            if accepts(event):
                events.append(event)
                if len(events) >= size and index >= page.late:
                    yield Batch([*parts, Part(leased, page, start, index)], events)
                    parts, events, start = [], [], index
        if start < len(page.events) or (not page.events and page.end is not None):
            parts.append(Part(leased, page, start, len(page.events)))
    if parts:
        yield Batch(parts, events)
