"""Garbage collection for a process that has started and now handles many small, short-lived objects."""

from __future__ import annotations

import gc
from typing import Final

# What a delivery makes is freed by reference counts; only what hangs in cycles waits for the collector.
YOUNG: Final = 50_000  # allocations between two looks at the young ones; Python's default is 700 or 2,000


def settle() -> None:
    """Leave everything that start-up made (modules, classes, tables) out of later collections, and collect seldom.

    Called once, when the process is ready. Measured with `make bench`: see docs/performance.md.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 50)
