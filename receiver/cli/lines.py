"""Lines of text, for what needs no tables: quick to import."""

from __future__ import annotations

import sys

from receiver.printable import printable


def is_terminal() -> bool:
    return sys.stdout.isatty()


def write(text: str) -> None:
    """Write and flush, so that a closed pipe shows here and not at the interpreter's end."""
    sys.stdout.write(text)
    sys.stdout.flush()


def say(text: str) -> None:
    """One line for people."""
    write(f"{printable(text)}\n")


def note(text: str) -> None:
    """One line for people that is no part of the answer."""
    print(printable(text), file=sys.stderr)  # noqa: T201 - this is where notes are printed
