"""`python -m tests.shifted FILE ARGUMENT...`: `receiver ARGUMENT...` by a wall clock that a file puts ahead or back.

The file holds seconds, and is read whenever the time is asked for. Clocks that only measure go on as they are.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import time
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import receiver
from receiver.cli import main

_TIME, _TIME_NS = time.time, time.time_ns


class _Kind(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, datetime)


def shift(file: Path) -> None:
    """All of `receiver` that asks what time it is hears it by the shifted clock."""

    def ahead() -> float:
        return float(file.read_text() or 0)

    class Shifted(datetime, metaclass=_Kind):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return datetime.now(tz) + timedelta(seconds=ahead())

    time.time = lambda: _TIME() + ahead()
    time.time_ns = lambda: _TIME_NS() + int(ahead() * 1e9)
    for module in _modules():
        if getattr(module, "datetime", None) is datetime:
            module.datetime = Shifted  # type: ignore[attr-defined]  # it has one


def _modules() -> list[ModuleType]:
    found: Final = pkgutil.walk_packages(receiver.__path__, "receiver.")
    return [importlib.import_module(one.name) for one in found if one.name != "receiver.__main__"]


if __name__ == "__main__":
    shift(Path(sys.argv[1]))
    main(sys.argv[2:])
