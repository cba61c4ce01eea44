"""What a command prints: tables for people, JSON Lines for programs, plain text into a pipe.

Everything that came from outside passes `printable`, and nothing is read as markup.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import IO, Any, Final

import msgspec
from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from receiver.cli.lines import is_terminal, note, say, write
from receiver.printable import printable

_UNBOUND: Final = 10_000  # columns of a pipe: nothing is cut or folded there


def console(file: IO[str] | None = None) -> Console:
    """A console for standard output, or `file`, that interprets nothing in the texts it prints."""
    return Console(file=file or sys.stdout, markup=False, highlight=False, emoji=False, soft_wrap=False)


def show(what: RenderableType) -> None:
    """Print for people; into a pipe without colours, folding or padding."""
    if is_terminal():
        console().print(what)
        return
    into = io.StringIO()
    Console(file=into, width=_UNBOUND, markup=False, highlight=False, emoji=False, no_color=True).print(what)
    write("".join(f"{line.rstrip()}\n" for line in into.getvalue().splitlines()))


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "nothing", head: bool = True
) -> None:
    """A plain table; `empty` is said, on standard error, where there are no rows."""
    lines = [[cell(value) for value in row] for row in rows]
    if not lines:
        note(empty)
        return
    shown = Table(box=None, header_style="bold", pad_edge=False, show_header=head)
    for column in columns:
        shown.add_column(column, overflow="fold")
    for line in lines:
        shown.add_row(*line)
    show(shown)


def narrow(width: int) -> bool:
    """Whether this is a terminal with fewer columns than `width`."""
    return is_terminal() and console().width < width


def two_lines(first: Iterable[object], second: Iterable[object]) -> None:
    """One entry of a list on a narrow terminal, where a table would break its words."""
    show(Text("  ").join(cell(value) for value in first))
    show(Text("    ").append_text(Text("  ").join(cell(value) for value in second if value is not None)))


def cell(value: object) -> Text:
    """One value in a table."""
    return Text("-", style="dim") if value is None else Text(printable(_text(value)))


def _text(value: object) -> str:
    match value:
        case datetime():
            return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
        case timedelta():
            return duration(value)
        case bool():
            return "yes" if value else "no"
        case Mapping():
            return json.dumps(value, default=_jsonable)
        case list() | tuple():
            return ", ".join(map(str, value))
        case _:
            return str(value)


def pairs(values: Mapping[str, object], *, title: str | None = None) -> Table:
    """Names and values below each other."""
    grid = Table(box=None, show_header=title is not None, header_style="bold", pad_edge=False)
    grid.add_column(title or "", style="dim", no_wrap=True)
    grid.add_column("", overflow="fold")
    for name, value in values.items():
        grid.add_row(printable(name), cell(value))
    return grid


def beside(left: RenderableType, right: RenderableType) -> None:
    """Two things beside each other on a wide terminal, else one after the other."""
    if is_terminal() and console().width >= 140:
        show(Columns([left, right], equal=True, expand=True))
        return
    show(left)
    say("")
    show(right)


def duration(value: timedelta) -> str:
    """A length of time in the largest unit that fits."""
    seconds = value.total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if abs(seconds) >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def json_line(value: Mapping[str, Any]) -> None:
    """One line of JSON."""
    write(json_text(json.dumps(value, default=_jsonable, ensure_ascii=False)) + "\n")


def json_text(text: str) -> str:
    """JSON text on one line, in which nothing drives a terminal."""
    return _escaped(msgspec.json.format(text, indent=-1))


def json_pretty(text: str) -> Text:
    """JSON text for people."""
    return Text(_escaped(msgspec.json.format(text, indent=2), keep="\n"))


def decode(text: str) -> dict[str, Any]:
    """The object in JSON text from Postgres, with `raw` left as text: its numbers may be of any size."""
    fields = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    return {name: "" if name == "raw" else json.loads(bytes(value)) for name, value in fields.items()}


def split_raw(text: str) -> str:
    """The JSON text of the member `raw`."""
    return bytes(msgspec.json.decode(text, type=dict[str, msgspec.Raw])["raw"]).decode()


def _escaped(text: str, keep: str = "") -> str:
    """In JSON every unsafe character stands inside a string, where an escape means the same."""
    return "".join(char if char in keep or printable(char) == char else _unicode(char) for char in text)


def _unicode(char: str) -> str:
    return json.dumps(char)[1:-1] if ord(char) != 0x7F else "\\u007f"


def _jsonable(value: object) -> object:
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value)
