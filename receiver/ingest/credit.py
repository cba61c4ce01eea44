"""So much at once, then so much a second: a token bucket for each key."""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import Final


class Credit:
    """Each key begins with `burst` tokens and gets one more every `every` seconds, up to `burst`.

    `most`: keys that are remembered, those that took a token last; None: all, so they must be few.
    """

    def __init__(self, burst: int, every: float, *, most: int | None = None) -> None:
        self._burst: Final = float(burst)
        self._every: Final = every
        self._most: Final = most
        self._left: dict[Hashable, tuple[float, float]] = {}

    def has(self, key: Hashable) -> bool:
        """Whether `take` would succeed now."""
        return self._tokens(key, time.monotonic()) >= 1

    def left(self, key: Hashable) -> int:
        """How many tokens could be taken now."""
        return int(self._tokens(key, time.monotonic()))

    def take(self, key: Hashable) -> bool:
        """Take one token, if there is one."""
        now = time.monotonic()
        tokens = self._tokens(key, now)
        if tokens < 1:
            return False
        self._left.pop(key, None)  # the last to take one is the last of all
        self._left[key] = (tokens - 1, now)
        if self._most is not None and len(self._left) > self._most:
            del self._left[next(iter(self._left))]
        return True

    def _tokens(self, key: Hashable, now: float) -> float:
        tokens, at = self._left.get(key, (self._burst, now))
        return min(self._burst, tokens + (now - at) / self._every)
