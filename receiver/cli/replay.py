"""`receiver replay`: stored events are handed to handlers again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from receiver.cli import options
from receiver.cli.asking import DryRun, Yes
from receiver.cli.options import AsJson, Limit, OfRecipient, Rate, StartFirst, moment
from receiver.event import EventType

if TYPE_CHECKING:
    from receiver.store.replays import Selection

group = options.group(
    "Hand stored events to handlers again: `start` (also without saying so), `list`, `resume` and `cancel`.", StartFirst
)

Id = Annotated[int, typer.Argument(metavar="ID", help="The number that `list` shows.")]


@group.command()
def start(  # noqa: PLR0913, PLR0917 - the options of the command
    context: typer.Context,
    handler: Annotated[
        list[str] | None, typer.Option("--handler", help="To this handler; may be repeated. `all`: to every one.")
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(parser=moment, metavar="TIME", help="Received since: 2h, 7d, 2026-01-31.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(parser=moment, metavar="TIME", help="Received before: 2h, 7d, 2026-01-31.")
    ] = None,
    type_: Annotated[
        list[EventType] | None, typer.Option("--type", help="Only this type; may be repeated.", show_choices=False)
    ] = None,
    source: Annotated[list[str] | None, typer.Option("--source", help="Only of this source; may be repeated.")] = None,
    provider: Annotated[
        list[str] | None, typer.Option("--provider", help="Only of this provider; may be repeated.")
    ] = None,
    recipient: OfRecipient = None,
    event: Annotated[list[str] | None, typer.Option("--event", help="This event, by its id; may be repeated.")] = None,
    rate: Rate = None,
    *,
    with_side_effects: Annotated[
        bool,
        typer.Option("--with-side-effects", help="Also queue messages and send requests, as the first time."),
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Hand a selection of stored events to handlers again, whether or not they have handled them before.

    Handlers are told (ctx.replaying): messages are not queued and requests not sent, except --with-side-effects.
    What a handler has not read yet is left out, as it comes by itself.

    Example: receiver replay --handler suppression --since 2026-01-31T14:00Z --until 2026-01-31T15:00Z --dry-run

    Example: receiver replay start --handler all --type bounced --source shop --since 7d --rate 50/s
    """
    from receiver.cli.place import find_place, run_async
    from receiver.cli.replaying import Wanted, replay

    wanted = Wanted(
        handlers=handler or [],
        selection=_selection(since, until, type_, source, provider, recipient, event),
        side_effects=with_side_effects,
        rate=rate,
    )
    run_async(replay(find_place(context), wanted, yes=yes, dry_run=dry_run, as_json=as_json))


@group.command("list")
def list_(context: typer.Context, limit: Limit = 50, *, as_json: AsJson = False) -> None:
    """List replays, the newest first, and what has become of their events.

    Example: receiver replay list
    """
    from receiver.cli.place import find_place, run_async
    from receiver.cli.replaying import show_replays

    run_async(show_replays(find_place(context), limit, as_json=as_json))


@group.command()
def resume(
    context: typer.Context,
    ids: Annotated[
        list[int] | None, typer.Argument(metavar="[ID]...", help="The numbers that `list` shows; none: all unfinished.")
    ] = None,
    rate: Rate = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Go on with replays that were stopped, at the rate they had; --rate gives them another one.

    Example: receiver replay resume 7

    Example: receiver replay resume 7 --rate 20/s
    """
    from receiver.cli.place import find_place, run_async
    from receiver.cli.replaying import resume as go_on

    run_async(go_on(find_place(context), ids or None, rate, as_json=as_json))


@group.command()
def cancel(context: typer.Context, id_: Id, *, dry_run: DryRun = False, yes: Yes = False) -> None:
    """End a replay: what waits, or has failed for now, is not handed over any more.

    Example: receiver replay cancel 7 --dry-run
    """
    from receiver.cli.place import find_place, run_async
    from receiver.cli.replaying import cancel as end

    run_async(end(find_place(context), id_, dry_run=dry_run, yes=yes))


def _selection(  # noqa: PLR0917 - the options of the command
    since: datetime | None,
    until: datetime | None,
    types: Sequence[EventType] | None,
    sources: list[str] | None,
    providers: list[str] | None,
    recipient: str | None,
    events: Sequence[str] | None,
) -> Selection:
    from uuid import UUID

    from receiver.cli.failures import CommandError
    from receiver.store.replays import Selection

    try:
        ids = [UUID(text) for text in events or ()]
    except ValueError as error:
        raise CommandError("--event takes an event's id, such as 019ac3f0-5d2e-8f33-9a41-6c2d1f0be7a5") from error
    return Selection(
        types=[str(word) for word in types] if types else None,
        sources=sources or None,
        providers=providers or None,
        recipient=recipient,
        events=ids or None,
        since=since,
        until=until,
    )
