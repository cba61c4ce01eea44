"""How often values fell into which range: cheap to add to, read only when somebody asks for metrics."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator


class Histogram:
    """`bounds`: upper ends of the ranges, rising and inclusive; one more range takes what is above them all."""

    def __init__(self, *bounds: float) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def cumulative(self) -> Iterator[tuple[str, int]]:
        """(upper end, how many values were at most that), as Prometheus wants it; the last end is `+Inf`."""
        so_far = 0
        for bound, count in zip((*map(repr, map(float, self._bounds)), "+Inf"), list(self._counts), strict=True):
            so_far += count
            yield bound, so_far
