"""`receiver quarantine`: authentic input that could not be turned into events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from receiver.cli import options
from receiver.cli.options import AsJson, Limit, OfSource, Reveal

if TYPE_CHECKING:
    from receiver.cli.place import Place

group = options.group(
    "Authentic input that could not be read: `list`, `show` and `discard`; `receiver reprocess` reads it again."
)

Id = Annotated[int, typer.Argument(metavar="ID", help="The number that `list` shows.")]


@group.command("list")
def list_(
    context: typer.Context,
    source: OfSource = None,
    limit: Limit = 50,
    *,
    all_: Annotated[bool, typer.Option("--all", help="Also what was released or discarded.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what is in quarantine.

    Example: receiver quarantine list --source shop
    """
    from receiver.cli.place import find_place, run_async

    run_async(_list(find_place(context), source, limit, resolved=all_, as_json=as_json))


@group.command()
def show(context: typer.Context, id_: Id, *, reveal: Reveal = False, as_json: AsJson = False) -> None:
    """Show one entry; with --reveal also its headers and body, which are encrypted at rest.

    Example: receiver quarantine show 12 --reveal
    """
    from receiver.cli.place import find_place, run_async
    from receiver.cli.sealed import show_sealed

    run_async(show_sealed(find_place(context), "quarantine", id_, reveal=reveal, as_json=as_json))


@group.command()
def discard(
    context: typer.Context,
    id_: Id,
    reason: Annotated[str | None, typer.Option(help="Why, for those who look later.")] = None,
) -> None:
    """Mark one entry as of no use.

    Example: receiver quarantine discard 12 --reason "test of the provider's"
    """
    from receiver.cli.place import find_place, run_async

    run_async(_discard(find_place(context), id_, reason))


async def _list(place: Place, source: str | None, limit: int, *, resolved: bool, as_json: bool) -> None:
    from receiver.cli.database import connected
    from receiver.cli.output import json_line, table
    from receiver.store.queries import list_quarantine

    async with connected(place.database()) as connection:
        rows = await list_quarantine(connection, source=source, resolved=resolved, limit=limit)
    if as_json:
        for row in rows:
            json_line(dict(row))
        return
    names = ("id", "received_at", "source", "kind", "why", "size", *(["resolution"] if resolved else []))
    table(names, ([row[name] for name in names] for row in rows), empty="the quarantine is empty")


async def _discard(place: Place, id_: int, reason: str | None) -> None:
    from receiver.cli.database import connected
    from receiver.cli.failures import CommandError
    from receiver.cli.lines import say
    from receiver.cli.place import who
    from receiver.store.queries import discard_quarantine, write_audit

    async with connected(place.database()) as connection, connection.transaction():
        if not await discard_quarantine(connection, id_, reason):
            raise CommandError(f"there is nothing open with the number {id_} in the quarantine")
        await write_audit(connection, who(), "discard", f"quarantine {id_}")
    say(f"discarded quarantine {id_}")
