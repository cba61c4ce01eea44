"""`receiver refused`: a sample of the requests that did not prove their sender."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from receiver.cli import options
from receiver.cli.asking import DryRun, Yes
from receiver.cli.options import AsJson, Limit, OfSource, Reveal

if TYPE_CHECKING:
    from receiver.cli.place import Place

group = options.group("A sample of the requests that did not prove their sender: `list`, `show` and `release`.")


@group.command("list")
def list_(
    context: typer.Context,
    source: OfSource = None,
    reason: Annotated[str | None, typer.Option(help="Only with this reason, such as wrong_key.")] = None,
    limit: Limit = 50,
    *,
    as_json: AsJson = False,
) -> None:
    """List refused requests, with the reason.

    Example: receiver refused list --source shop
    """
    from receiver.cli.place import find_place, run_async

    run_async(_list(find_place(context), source, reason, limit, as_json=as_json))


@group.command()
def show(
    context: typer.Context,
    id_: Annotated[int, typer.Argument(metavar="ID", help="The number that `list` shows.")],
    *,
    reveal: Reveal = False,
    as_json: AsJson = False,
) -> None:
    """Show one refused request; with --reveal also its headers and body, which are encrypted at rest.

    Example: receiver refused show 7 --reveal
    """
    from receiver.cli.place import find_place, run_async
    from receiver.cli.sealed import show_sealed

    run_async(show_sealed(find_place(context), "refused", id_, reveal=reveal, as_json=as_json))


@group.command()
def release(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A source's name.")],
    *,
    since: Annotated[Any, typer.Option(parser=options.moment, help="Only requests since then, such as 2h.")] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Verify a source's refused requests again with the present settings, and store those that are authentic now.

    For after a mistake in the settings was mended; `receiver doctor` finds it. Time windows count from when they came.

    Example: receiver refused release shop --dry-run
    """
    from receiver.cli.place import find_place, run_async
    from receiver.cli.released import release as do

    run_async(do(find_place(context), source, since=since, dry_run=dry_run, yes=yes, as_json=as_json))


async def _list(place: Place, source: str | None, reason: str | None, limit: int, *, as_json: bool) -> None:
    from receiver.cli.database import connected
    from receiver.cli.output import json_line, table
    from receiver.store.queries import list_refused

    async with connected(place.database()) as connection:
        rows = await list_refused(connection, source=source, reason=reason, limit=limit)
    if as_json:
        for row in rows:
            json_line(dict(row))
        return
    names = ("id", "refused_at", "source", "reason", "detail", "times", "client_ip", "size")
    table(names, ([row[name] for name in names] for row in rows), empty="no refused requests are kept")
