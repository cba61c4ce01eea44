"""`receiver segments`: stored filters, and the contacts that fulfil one."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from receiver.cli import options
from receiver.cli.asking import Yes
from receiver.cli.options import AsJson, Limit

if TYPE_CHECKING:
    import asyncpg

    from receiver.cli.place import Place
    from receiver.contacts.filters import Condition

HEAD: Final = ("id", "address", "name", "tags", "last delivered", "last opened", "last clicked")

group = options.group("Groups of contacts by what is known of them: `list`, `show`, `save`, `preview` and `delete`.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The segment's name.")]


@group.command("list")
def list_(context: typer.Context, *, as_json: AsJson = False) -> None:
    """List the segments, each in words.

    Example: receiver segments
    """
    from receiver.cli.place import find_place, run_async

    run_async(_list(find_place(context), as_json=as_json))


@group.command()
def show(context: typer.Context, name: Name, *, as_json: AsJson = False) -> None:
    """Show a segment's filter, as `save` takes it.

    Example: receiver segments show trial-clickers
    """
    from receiver.cli.place import find_place, run_async

    run_async(_show(find_place(context), name, as_json=as_json))


@group.command()
def save(
    context: typer.Context,
    name: Name,
    file: Annotated[str, typer.Argument(metavar="FILE", help="The filter, as JSON; - for standard input.")],
    title: Annotated[str | None, typer.Option(help="What it is called for people.")] = None,
) -> None:
    """Store a filter under a name, also in the place of an earlier one.

    The filter is JSON such as {"event": "clicked", "tag": "trial", "since": "30d"}; docs/contacts.md has all of it.

    Example: receiver segments save trial-clickers filter.json
    """
    from receiver.cli.lines import say
    from receiver.cli.place import find_place, run_async
    from receiver.contacts.filter_words import describe

    filter_ = _read(file)
    new = run_async(_save(find_place(context), name, filter_, title))
    say(f"{'stored' if new else 'replaced'} {name}: {describe(filter_)}")


@group.command()
def preview(
    context: typer.Context,
    what: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A segment, or a file with a filter; - for input.")],
    limit: Limit = 20,
    *,
    count: Annotated[bool, typer.Option("--count", help="Only say how many contacts.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, max=3600, help="Give up after so many seconds.")] = 30,
    as_json: AsJson = False,
) -> None:
    """Say how many contacts are in a segment, or would be, and show the first of them.

    Example: receiver segments preview trial-clickers --count

    Example: receiver segments preview ./filter.json --limit 5
    """
    from receiver.cli.place import find_place, run_async

    patience = timedelta(seconds=timeout)
    run_async(_preview(find_place(context), what, 0 if count else limit, patience, as_json=as_json))


@group.command()
def delete(context: typer.Context, name: Name, *, yes: Yes = False) -> None:
    """Delete a segment; its contacts stay.

    Example: receiver segments delete trial-clickers
    """
    from receiver.cli.place import find_place, run_async

    run_async(_delete(find_place(context), name, yes=yes))


def _read(file: str) -> Condition:
    """The filter in a file. Raises CommandError."""
    import sys
    from pathlib import Path

    from receiver.cli.failures import CommandError
    from receiver.contacts.filter_faults import MAX_BYTES, WrongFilter
    from receiver.contacts.filters import parse_filter

    try:
        with sys.stdin.buffer if file == "-" else Path(file).open("rb") as stream:
            return parse_filter(stream.read(MAX_BYTES + 1))
    except WrongFilter as error:
        where = "standard input" if file == "-" else file
        raise CommandError(f"the filter in {where} cannot be used:\n{error}") from error


async def _filter(connection: asyncpg.Connection, what: str) -> Condition:
    """What has the form of a name is one; a file with such a name is `./name`. Raises CommandError."""
    from receiver.cli.failures import CommandError
    from receiver.contacts.segments import UnknownSegment, get, is_name

    if not is_name(what):
        return _read(what)
    try:
        return (await get(connection, what)).filter
    except UnknownSegment as error:
        raise CommandError(f"{error}; a file of that name is ./{what}") from error


async def _list(place: Place, *, as_json: bool) -> None:
    from receiver.cli.database import connected
    from receiver.cli.output import json_line, table
    from receiver.contacts.segments import all_segments

    async with connected(place.database()) as connection:
        found = await all_segments(connection)
    if as_json:
        for one in found:
            json_line({"name": one.name, "title": one.title, "words": one.words, "updated_at": one.updated_at})
        return
    rows = ((one.name, one.title or None, one.words, one.updated_at) for one in found)
    table(
        ("name", "title", "contacts that are", "updated"), rows, empty="no segments: `receiver segments save` makes one"
    )


async def _show(place: Place, name: str, *, as_json: bool) -> None:
    from receiver.cli.database import connected
    from receiver.cli.lines import note, write
    from receiver.cli.output import json_pretty, json_text, show
    from receiver.contacts.filters import to_json
    from receiver.contacts.segments import get

    async with connected(place.database()) as connection:
        found = await get(connection, name)
    if as_json:
        write(json_text(to_json(found.filter)) + "\n")
        return
    note(f"{found.title or found.name}: {found.words}")
    show(json_pretty(to_json(found.filter)))


async def _save(place: Place, name: str, filter_: Condition, title: str | None) -> bool:
    from receiver.cli.database import connected
    from receiver.cli.place import who
    from receiver.contacts.segments import save
    from receiver.store.queries import write_audit

    async with connected(place.database()) as connection, connection.transaction():
        new = await save(connection, name, filter_, title)
        await write_audit(connection, who(), "save", f"segment {name}")
    return new


async def _preview(place: Place, what: str, limit: int, patience: timedelta, *, as_json: bool) -> None:
    from datetime import UTC, datetime

    from receiver.cli.database import connected
    from receiver.cli.failures import CommandError
    from receiver.contacts.segments import count, page
    from receiver.store.segments import TooSlow, looking

    async with connected(place.database()) as connection:
        filter_, now = await _filter(connection, what), datetime.now(UTC)
        try:
            async with looking(connection, patience):
                total = await count(connection, filter_, now)
                rows = await page(connection, filter_, now, limit=limit) if limit else []
        except TooSlow as error:
            raise CommandError(f"{error}: say --timeout to wait longer") from error
    _print(total, rows, limit, as_json=as_json)


def _print(total: int, rows: list[asyncpg.Record], limit: int, *, as_json: bool) -> None:
    from receiver.cli.lines import note, say
    from receiver.cli.output import json_line, table

    if as_json and not limit:
        json_line({"count": total})
    elif as_json:
        for row in rows:
            json_line(_member(row))
    elif not limit:
        say(f"{total:,} contacts" if total != 1 else "1 contact")
    else:
        columns = ("id", "address", "name", "tags", "last_delivered_at", "last_opened_at", "last_clicked_at")
        table(HEAD, ([row[name] or None for name in columns] for row in rows), empty="no contacts")
        note(f"{len(rows):,} of {total:,} contacts")


def _member(row: asyncpg.Record) -> dict[str, Any]:
    import json

    found = {name: value for name, value in row.items() if name != "address_hash"}
    return found | {"attributes": json.loads(row["attributes"])}


async def _delete(place: Place, name: str, *, yes: bool) -> None:
    from receiver.cli.asking import go_on
    from receiver.cli.database import connected
    from receiver.cli.lines import note, say
    from receiver.cli.place import who
    from receiver.contacts.segments import get
    from receiver.store.queries import write_audit
    from receiver.store.segments import delete_segment

    async with connected(place.database()) as connection:
        found = await get(connection, name)
        note(f"{name}: {found.words}")
        if not go_on(dry_run=False, yes=yes):
            return
        async with connection.transaction():
            await delete_segment(connection, name)
            await write_audit(connection, who(), "delete", f"segment {name}")
    say(f"deleted {name}")
