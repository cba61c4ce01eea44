"""Options that several commands share, and groups whose `list` need not be said."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from receiver.durations import read_moment

AsJson = Annotated[bool, typer.Option("--json", help="JSON Lines: one object a line.")]
Limit = Annotated[int, typer.Option(min=1, max=1_000_000, help="How many at most.")]
OfSource = Annotated[str | None, typer.Option("--source", help="Only of this source.")]
Reveal = Annotated[bool, typer.Option("--reveal", help="Decrypt headers and body; this is recorded in audit_log.")]


class ListFirst(TyperGroup):
    """`receiver events --json` means `receiver events list --json`."""

    first = "list"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ("-h", "--help")):
            args = [self.first, *args]
        return super().parse_args(ctx, args)


class StartFirst(ListFirst):
    """`receiver replay --since 2h` means `receiver replay start --since 2h`."""

    first = "start"


def group(help_: str, cls: type[TyperGroup] = ListFirst) -> typer.Typer:
    """A group of commands with one, such as `list`, that is meant where none is named."""
    return typer.Typer(cls=cls, help=help_, rich_markup_mode="rich", pretty_exceptions_enable=False)


_RATE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(?:/\s*(s|min|h))?")


def rate(text: str) -> float:
    """Events a second: `50`, `50/s`, `600/min`, `1000/h`."""
    found = _RATE.fullmatch(text.strip().lower())
    if found is None or float(found[1]) <= 0:
        raise typer.BadParameter("say how many in which time: 50/s, 600/min, 1000/h")
    return float(found[1]) / {None: 1, "s": 1, "min": 60, "h": 3600}[found[2]]


def address(text: str) -> str:
    """An address as events are looked up by it, in any spelling.

    What cannot be an address is no address, and never "any": an empty variable of a shell's would choose everybody.
    """
    from receiver.classify.addresses import normalize_address

    found = normalize_address(text)
    if found is None:
        raise typer.BadParameter("is no mail address: one looks like ada@example.com")
    return found


def words(text: str) -> str:
    """A text that says something; an empty one is a slip, and not the option left out."""
    if not text.strip():
        raise typer.BadParameter("is empty: say what is meant, or leave the option out")
    return text


def moment(text: str) -> datetime:
    """A time: `2h` (that long ago), `2026-01-31`, `2026-01-31T12:00Z`. Without a zone it is UTC."""
    try:
        return read_moment(text, datetime.now(UTC))
    except ValueError as error:
        raise typer.BadParameter(str(error).removeprefix("is no time: ")) from error


Rate = Annotated[
    float | None,
    typer.Option("--rate", parser=rate, metavar="RATE", help="At most so many of each handler: 50, 50/s, 600/min."),
]
OfRecipient = Annotated[
    str | None, typer.Option("--recipient", parser=address, metavar="ADDRESS", help="Only about this address.")
]
