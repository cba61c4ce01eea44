"""`receiver dead-letters`: events that a handler gave up on."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from receiver.cli import options
from receiver.cli.asking import DryRun, Yes
from receiver.cli.options import AsJson, Limit, OfSource, moment
from receiver.event import EventType

if TYPE_CHECKING:
    import asyncpg

    from receiver.cli.place import Place
    from receiver.store.dead_letters import DeadLetters

group = options.group("Events that a handler gave up on: `list`, `groups`, `show`, `retry` and `discard`.")

Ids = Annotated[list[int] | None, typer.Argument(metavar="[ID]...", help="The numbers that `list` shows.")]
Handler = Annotated[str | None, typer.Option("--handler", help="Only of this handler.")]
ErrorType = Annotated[
    str | None, typer.Option("--error-type", help="Only with this class of error, with or without its module.")
]
Type = Annotated[EventType | None, typer.Option("--type", help="Only of this type of event.", show_choices=False)]
Since = Annotated[
    datetime | None, typer.Option(parser=moment, metavar="TIME", help="Given up since: 2h, 7d, 2026-01-31.")
]
Group = Annotated[str | None, typer.Option("--group", help="Only of this group, as `groups` shows it.")]
All = Annotated[bool, typer.Option("--all", help="Every open one.")]


@group.command("list")
def list_(  # noqa: PLR0913, PLR0917 - the options of the command
    context: typer.Context,
    handler: Handler = None,
    error_type: ErrorType = None,
    source: OfSource = None,
    type_: Type = None,
    since: Since = None,
    group: Group = None,
    limit: Limit = 50,
    *,
    all_: Annotated[bool, typer.Option("--all", help="Also what was retried or discarded.")] = False,
    as_json: AsJson = False,
) -> None:
    """List dead letters, the newest first.

    Example: receiver dead-letters list --handler suppression --since 2h
    """
    from receiver.cli.place import find_place, run_async

    which = _which(None, handler, error_type, source, type_, since, group, resolved=all_)
    run_async(_list(find_place(context), which, limit, as_json=as_json))


@group.command()
def groups(  # noqa: PLR0917 - the options of the command
    context: typer.Context,
    handler: Handler = None,
    error_type: ErrorType = None,
    source: OfSource = None,
    type_: Type = None,
    since: Since = None,
    limit: Limit = 50,
    *,
    as_json: AsJson = False,
) -> None:
    """Count the open dead letters by handler and error, with # for the numbers and ids that differ; the most first.

    Example: receiver dead-letters groups --handler suppression
    """
    from receiver.cli.place import find_place, run_async

    which = _which(None, handler, error_type, source, type_, since, None)
    run_async(_groups(find_place(context), which, limit, as_json=as_json))


@group.command()
def show(
    context: typer.Context,
    id_: Annotated[int, typer.Argument(metavar="ID", help="The number that `list` shows.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter: every attempt, the last traceback, and the copy of its event.

    Example: receiver dead-letters show 3
    """
    from receiver.cli.place import find_place, run_async

    run_async(_show(find_place(context), id_, as_json=as_json))


@group.command()
def retry(  # noqa: PLR0913, PLR0917 - the options of the command
    context: typer.Context,
    ids: Ids = None,
    group: Group = None,
    handler: Handler = None,
    error_type: ErrorType = None,
    source: OfSource = None,
    type_: Type = None,
    since: Since = None,
    *,
    all_: All = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Hand events to their handlers again, with all attempts before them, even when their own rows are gone.

    Example: receiver dead-letters retry 3

    Example: receiver dead-letters retry --group 5f0c12ab --dry-run
    """
    from receiver.cli.place import find_place, run_async
    from receiver.cli.resolving import require_scope, resolve

    which = _which(ids, handler, error_type, source, type_, since, group)
    require_scope(which, all_=all_)
    run_async(resolve(find_place(context), which, None, yes=yes, dry_run=dry_run, as_json=as_json))


@group.command()
def discard(  # noqa: PLR0913, PLR0917 - the options of the command
    context: typer.Context,
    reason: Annotated[str, typer.Option("--reason", help="Why, for those who look later.")],
    ids: Ids = None,
    group: Group = None,
    handler: Handler = None,
    error_type: ErrorType = None,
    source: OfSource = None,
    type_: Type = None,
    since: Since = None,
    *,
    all_: All = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Close dead letters without another attempt; no command opens them again.

    Example: receiver dead-letters discard 3 --reason "address was a typo" --yes

    Example: receiver dead-letters discard --group 5f0c12ab --reason "the shop is gone" --dry-run
    """
    from receiver.cli.failures import CommandError
    from receiver.cli.place import find_place, run_async
    from receiver.cli.resolving import require_scope, resolve

    if not reason.strip():
        raise CommandError("say why: --reason must not be empty")
    which = _which(ids, handler, error_type, source, type_, since, group)
    require_scope(which, all_=all_)
    run_async(resolve(find_place(context), which, reason, yes=yes, dry_run=dry_run, as_json=as_json))


def _which(  # noqa: PLR0917 - the options of the commands
    ids: list[int] | None,
    handler: str | None,
    error_type: str | None,
    source: str | None,
    type_: EventType | None,
    since: datetime | None,
    group: str | None,
    *,
    resolved: bool = False,
) -> DeadLetters:
    from receiver.store.dead_letters import DeadLetters

    return DeadLetters(
        ids=sorted(set(ids)) if ids else None,
        handler=handler,
        error_type=error_type,
        source=source,
        event_type=type_,
        since=since,
        group=group,
        resolved=resolved,
    )


async def _list(place: Place, which: DeadLetters, limit: int, *, as_json: bool) -> None:
    from dataclasses import asdict

    from receiver.cli.database import connected
    from receiver.cli.output import json_line, table
    from receiver.store.dead_letters import list_dead_letters

    async with connected(place.database()) as connection:
        rows = await list_dead_letters(connection, which, limit=limit)
    if as_json:
        for row in rows:
            json_line(asdict(row))
        return
    names = ["id", "dead_at", "handler", "event_type", "attempts", "error_type", "error", "event_id"]
    names += ["resolution"] if which.resolved else []
    table(names, ([getattr(row, name) for name in names] for row in rows), empty="no dead letters")


async def _groups(place: Place, which: DeadLetters, limit: int, *, as_json: bool) -> None:
    from receiver.cli.database import connected

    async with connected(place.database()) as connection:
        await print_groups(connection, which, limit, as_json=as_json)


async def print_groups(connection: asyncpg.Connection, which: DeadLetters, limit: int, *, as_json: bool) -> None:
    from dataclasses import asdict

    from receiver.cli.output import json_line, table
    from receiver.store.dead_letters import list_groups

    rows = [asdict(row) for row in await list_groups(connection, which, limit=limit)]
    if as_json:
        for row in rows:
            json_line(row)
        return
    names = ["group", "letters", "handler", "error_type", "error", "first", "last", "example"]
    table(names, ([row[name] for name in names] for row in rows), empty="no dead letters")


async def _show(place: Place, id_: int, *, as_json: bool) -> None:
    import msgspec

    from receiver.cli.database import connected
    from receiver.cli.failures import CommandError
    from receiver.cli.lines import say, write
    from receiver.cli.output import json_pretty, json_text, pairs, show, table
    from receiver.store.dead_letters import show_dead_letter

    async with connected(place.database()) as connection:
        letter = await show_dead_letter(connection, id_)
    if letter is None:
        raise CommandError(f"there is no dead letter {id_}")
    shown: dict[str, Any] = msgspec.to_builtins(letter)
    if as_json:
        write(json_text(msgspec.json.encode(letter).decode()) + "\n")
        return
    event, traceback, _ = shown.pop("event"), shown.pop("traceback"), shown.pop("history")
    show(pairs(shown, title="dead letter"))
    say("")
    rows = ((one.attempt, one.at, one.worker, one.error_type, one.error) for one in letter.history)
    table(("attempt", "at", "worker", "error_type", "error"), rows, empty="its attempts were not kept")
    say("")
    for line in (traceback or "").splitlines():
        say(line)
    show(json_pretty(msgspec.json.encode({**event, "raw": msgspec.Raw(letter.event.raw.encode())}).decode()))
