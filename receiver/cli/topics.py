"""`receiver topics`: what people can subscribe to, the lists of a team."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from receiver.cli import options
from receiver.cli.asking import DryRun, Yes
from receiver.cli.options import AsJson
from receiver.store.consent import Stream

if TYPE_CHECKING:
    import asyncpg

    from receiver.cli.place import Place

group = options.group("What people can subscribe to: `list`, `show`, `add`, `edit` and `archive`.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The topic, as events and sends name it.")]
Title = Annotated[str | None, typer.Option("--title", help="What it is called on the pages that people see.")]
Description = Annotated[str | None, typer.Option("--description", help="What one gets, for the same pages.")]
OfStream = Annotated[
    Stream | None,
    typer.Option("--stream", help="marketing needs consent; transactional may be sent unless the person left it."),
]
Brand = Annotated[str | None, typer.Option("--brand", help="Whose mail it is, where there are several brands.")]
DoubleOptIn = Annotated[
    bool | None,
    typer.Option(
        "--double-opt-in/--single-opt-in",
        help="Whether who asks by the API or `contacts subscribe` has to confirm it by a mailed link.",
        show_default=False,
    ),
]
Public = Annotated[
    bool | None,
    typer.Option("--public/--private", help="Whether the preference page offers it to everybody.", show_default=False),
]

_STATES: Final = ("subscribed", "pending", "unsubscribed")
_MAX_NAME: Final = 200


@group.command("list")
def list_(
    context: typer.Context,
    *,
    all_: Annotated[
        bool, typer.Option("--all", help="Also archived ones, and lists that only providers name.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the topics, with the number of addresses that are subscribed, pending (not confirmed yet) or unsubscribed.

    Example: receiver topics
    """
    from receiver.cli.place import find_place, run_async

    run_async(_list(find_place(context), all_=all_, as_json=as_json))


@group.command()
def show(context: typer.Context, name: Name, *, as_json: AsJson = False) -> None:
    """Show one topic and its numbers.

    Example: receiver topics show newsletter
    """
    from receiver.cli.place import find_place, run_async

    run_async(_show(find_place(context), name, as_json=as_json))


@group.command()
def add(
    context: typer.Context,
    name: Name,
    title: Title = None,
    description: Description = None,
    stream: OfStream = None,
    brand: Brand = None,
    *,
    double_opt_in: DoubleOptIn = None,
    public: Public = None,
) -> None:
    """Add a topic: of marketing mail, single opt-in and public unless said otherwise.

    Example: receiver topics add newsletter --title "Monthly news" --double-opt-in
    """
    from receiver.cli.place import find_place, run_async

    values = (
        title or name,
        description or "",
        stream or "marketing",
        brand or "",
        bool(double_opt_in),
        public is not False,
    )
    run_async(_add(find_place(context), _checked(name), values))


@group.command()
def edit(
    context: typer.Context,
    name: Name,
    title: Title = None,
    description: Description = None,
    stream: OfStream = None,
    brand: Brand = None,
    *,
    double_opt_in: DoubleOptIn = None,
    public: Public = None,
) -> None:
    """Change what is given of a topic; the rest stays. Subscriptions stay as they are.

    Example: receiver topics edit newsletter --title "News, once a month"
    """
    from receiver.cli.place import find_place, run_async

    values = (title, description, stream, brand, double_opt_in, public)
    if all(value is None for value in values):
        raise typer.BadParameter("say what to change, such as --title")
    run_async(_edit(find_place(context), name, values))


@group.command()
def archive(
    context: typer.Context,
    name: Name,
    *,
    undo: Annotated[bool, typer.Option("--undo", help="Take it up again.")] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Give a topic up: nothing is sent about it any more, and no page shows it. What people have said about it stays.

    Example: receiver topics archive newsletter
    """
    from receiver.cli.place import find_place, run_async

    run_async(_archive(find_place(context), name, undo=undo, yes=yes, dry_run=dry_run))


def _checked(name: str) -> str:
    if not name.strip() or name != name.strip() or not name.isprintable() or len(name) > _MAX_NAME:
        raise typer.BadParameter(f"a topic's name has 1 to {_MAX_NAME} characters, and no space at its ends")
    return name


async def _list(place: Place, *, all_: bool, as_json: bool) -> None:
    from receiver.cli.database import connected
    from receiver.cli.lines import note
    from receiver.cli.output import json_line, table
    from receiver.store.topics import topics, undeclared

    async with connected(place.database()) as connection:
        rows = [dict(row) for row in await topics(connection, archived=all_)]
        others = [dict(row) for row in await undeclared(connection)] if all_ else []
    if as_json:
        for row in rows + others:
            json_line(row)
        return
    names = ["name", "title", "stream", "brand", *_STATES, *(["archived_at"] if all_ else [])]
    table(names, ([row.get(name) for name in names] for row in rows + others), empty="no topics")
    for row in others:
        note(f"{row['name']} is known from providers alone: `receiver topics add` declares it")


async def _found(connection: asyncpg.Connection, name: str) -> asyncpg.Record:
    from receiver.store.topics import topics

    rows = await topics(connection, [name])
    if not rows:
        raise _no_topic(name)
    return rows[0]


def _no_topic(name: str) -> Exception:
    from receiver.cli.failures import CommandError

    return CommandError(f"there is no topic {name}; `receiver topics list --all` shows those there are")


async def _show(place: Place, name: str, *, as_json: bool) -> None:
    from receiver.cli.database import connected
    from receiver.cli.output import json_line, pairs, show

    async with connected(place.database()) as connection:
        row = dict(await _found(connection, name))
    if as_json:
        json_line(row)
        return
    show(pairs(row, title="topic"))


async def _add(place: Place, name: str, values: tuple[object, ...]) -> None:
    from receiver.cli.database import connected
    from receiver.cli.failures import CommandError
    from receiver.cli.lines import say
    from receiver.cli.place import who
    from receiver.store import topics
    from receiver.store.queries import write_audit

    async with connected(place.database()) as connection, connection.transaction():
        if not await topics.add(connection, name, values):
            raise CommandError(f"there is a topic {name} already; `receiver topics edit {name}` changes it")
        await write_audit(connection, who(), "topics add", name)
    say(f"added topic {name}")


async def _edit(place: Place, name: str, values: tuple[object, ...]) -> None:
    from receiver.cli.database import connected
    from receiver.cli.lines import say
    from receiver.cli.place import who
    from receiver.store import topics
    from receiver.store.queries import write_audit

    async with connected(place.database()) as connection, connection.transaction():
        if not await topics.edit(connection, name, values):
            raise _no_topic(name)
        await write_audit(connection, who(), "topics edit", name)
    say(f"changed topic {name}")


async def _archive(place: Place, name: str, *, undo: bool, yes: bool, dry_run: bool) -> None:
    from receiver.cli.asking import go_on
    from receiver.cli.database import connected
    from receiver.cli.lines import note, say
    from receiver.cli.place import who
    from receiver.store import topics
    from receiver.store.queries import write_audit

    word = "taken up again" if undo else "archived"
    async with connected(place.database()) as connection:
        row = await _found(connection, name)
        if (row["archived_at"] is None) is undo:
            note(f"topic {name} is {'in use' if undo else 'archived'} already")
            return
        note(f"topic {name} is to be {word}: {row['subscribed']} addresses are subscribed to it")
        if not go_on(dry_run=dry_run, yes=yes):
            return
        async with connection.transaction():
            await topics.archive(connection, name, archived=not undo)
            await write_audit(connection, who(), "topics archive", f"{name} {word}")
    say(f"topic {name} is {word}")
