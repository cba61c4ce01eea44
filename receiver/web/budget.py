"""One budget of bytes for all requests in flight, so that memory stays bounded whatever arrives."""

from __future__ import annotations

from typing import Final, Protocol

OVERHEAD: Final = 4096  # bytes a request costs besides its body


class Evictable(Protocol):
    """A connection whose unfinished body can be given up."""

    def evict(self) -> None: ...


class Arriving(Protocol):
    """A request whose body costs bytes. `taken`: how many so far."""

    taken: int

    @property
    def connection(self) -> Evictable: ...


class Budget:
    """Bytes are taken as they arrive, never on somebody's word for what will come.

    When there is no room, the unfinished bodies give way, the one that has been arriving longest first: who sends
    slowly, or announces much and sends nothing, cannot keep out who sends. `unfinished`: the bodies that may give way.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self.unfinished: Final[dict[Arriving, None]] = {}
        self.used = 0

    def grow(self, request: Arriving, amount: int) -> bool:
        """Take bytes for (a part of) the request's body; False: there is no room, even without the unfinished ones."""
        if not request.taken:
            amount += OVERHEAD
        if self.used + amount > self._size and not self._make_room(request, amount):
            return False
        self.used += amount
        request.taken += amount
        return True

    def wait(self, request: Arriving) -> None:
        """The body is not whole yet."""
        self.unfinished.setdefault(request)

    def whole(self, request: Arriving) -> None:
        """The body is whole: it will be handled, and gives way to nobody."""
        self.unfinished.pop(request, None)

    def give(self, request: Arriving) -> None:
        """Return what the request has taken."""
        if self.unfinished:
            self.unfinished.pop(request, None)
        self.used -= request.taken
        request.taken = 0

    def _make_room(self, request: Arriving, amount: int) -> bool:
        for other in list(self.unfinished):
            if other is not request:
                other.connection.evict()
                if self.used + amount <= self._size:
                    return True
        return False
