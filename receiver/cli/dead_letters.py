"""`receiver dead-letters`: events that a handler gave up on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from receiver.cli import options
from receiver.cli.options import AsJson, Limit

if TYPE_CHECKING:
    from receiver.cli.place import Place

group = options.group("Events that a handler gave up on: `list`, `show`, `retry` and `discard`.")

Id = Annotated[int, typer.Argument(metavar="ID", help="The number that `list` shows.")]
Handler = Annotated[str | None, typer.Option("--handler", help="Only of this handler.")]


@group.command("list")
def list_(
    context: typer.Context,
    handler: Handler = None,
    limit: Limit = 50,
    *,
    all_: Annotated[bool, typer.Option("--all", help="Also what was retried or discarded.")] = False,
    as_json: AsJson = False,
) -> None:
    """List dead letters, the newest first.

    Example: receiver dead-letters list --handler suppression
    """
    from receiver.cli.place import find_place, run_async

    run_async(_list(find_place(context), handler, limit, resolved=all_, as_json=as_json))


@group.command()
def show(context: typer.Context, id_: Id, *, as_json: AsJson = False) -> None:
    """Show one dead letter: why the handler gave up, and the copy of its event.

    Example: receiver dead-letters show 3
    """
    from receiver.cli.place import find_place, run_async

    run_async(_show(find_place(context), id_, as_json=as_json))


@group.command()
def retry(
    context: typer.Context,
    id_: Annotated[int | None, typer.Argument(metavar="[ID]", help="The number that `list` shows.")] = None,
    handler: Handler = None,
    *,
    all_: Annotated[bool, typer.Option("--all", help="Every open one (of --handler).")] = False,
) -> None:
    """Hand the event to its handler again, with all attempts before it.

    Example: receiver dead-letters retry 3

    Example: receiver dead-letters retry --all --handler suppression
    """
    from receiver.cli.failures import CommandError
    from receiver.cli.place import find_place, run_async

    if (id_ is None) is not all_:
        raise CommandError("say which one to retry, or --all")
    run_async(_retry(find_place(context), id_, handler))


@group.command()
def discard(
    context: typer.Context,
    id_: Id,
    reason: Annotated[str, typer.Option(help="Why, for those who look later.")] = "",
) -> None:
    """Close one dead letter without another attempt.

    Example: receiver dead-letters discard 3 --reason "address was a typo"
    """
    from receiver.cli.place import find_place, run_async

    run_async(_discard(find_place(context), id_, reason))


async def _list(place: Place, handler: str | None, limit: int, *, resolved: bool, as_json: bool) -> None:
    from dataclasses import asdict

    from receiver.cli.database import connected
    from receiver.cli.output import json_line, table
    from receiver.store.failures import list_dead_letters

    async with connected(place.database()) as connection:
        rows = await list_dead_letters(connection, handler=handler, resolved=resolved, limit=limit)
    if as_json:
        for row in rows:
            json_line(asdict(row))
        return
    names = ["id", "dead_at", "handler", "event_type", "attempts", "error_type", "error", "event_id"]
    names += ["resolution"] if resolved else []
    table(names, ([getattr(row, name) for name in names] for row in rows), empty="no dead letters")


async def _show(place: Place, id_: int, *, as_json: bool) -> None:
    import msgspec

    from receiver.cli.database import connected
    from receiver.cli.failures import CommandError
    from receiver.cli.lines import say, write
    from receiver.cli.output import json_pretty, json_text, pairs, show
    from receiver.store.failures import show_dead_letter

    async with connected(place.database()) as connection:
        letter = await show_dead_letter(connection, id_)
    if letter is None:
        raise CommandError(f"there is no dead letter {id_}")
    shown: dict[str, Any] = msgspec.to_builtins(letter)
    if as_json:
        write(json_text(msgspec.json.encode(letter).decode()) + "\n")
        return
    event, traceback = shown.pop("event"), shown.pop("traceback")
    show(pairs(shown, title="dead letter"))
    for line in (traceback or "").splitlines():
        say(line)
    show(json_pretty(msgspec.json.encode({**event, "raw": msgspec.Raw(letter.event.raw.encode())}).decode()))


async def _retry(place: Place, id_: int | None, handler: str | None) -> None:
    from receiver.cli.database import connected
    from receiver.cli.failures import CommandError
    from receiver.cli.lines import say
    from receiver.cli.place import who
    from receiver.store.failures import list_dead_letters, retry_dead_letter
    from receiver.store.queries import write_audit

    async with connected(place.database()) as connection:
        every = await list_dead_letters(connection, handler=handler, limit=1_000_000) if id_ is None else []
        done = [
            one
            for one in ([letter.id for letter in every] if id_ is None else [id_])
            if await retry_dead_letter(connection, one)
        ]
        if id_ is not None and not done:
            raise CommandError(f"there is no open dead letter {id_}")
        for one in done:
            await write_audit(connection, who(), "retry", f"dead letter {one}")
    say(f"{len(done)} to be retried" if id_ is None else f"dead letter {id_} will be retried")


async def _discard(place: Place, id_: int, reason: str) -> None:
    from receiver.cli.database import connected
    from receiver.cli.failures import CommandError
    from receiver.cli.lines import say
    from receiver.cli.place import who
    from receiver.store.failures import discard_dead_letter
    from receiver.store.queries import write_audit

    async with connected(place.database()) as connection, connection.transaction():
        if not await discard_dead_letter(connection, id_, reason=reason):
            raise CommandError(f"there is no open dead letter {id_}")
        await write_audit(connection, who(), "discard", f"dead letter {id_}")
    say(f"discarded dead letter {id_}")
