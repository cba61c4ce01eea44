"""`receiver handlers`: how far each handler has read the log, and what people decide about it."""

from __future__ import annotations

from typing import Annotated

import typer

from receiver.cli import options
from receiver.cli.asking import DryRun, Yes
from receiver.cli.options import AsJson, Rate

group = options.group("Handlers: `list`, `pause`, `resume`, `rewind`, `backfill`, `cancel`, `skip-to` and `remove`.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The handler, as `list` shows it.")]
Since = Annotated[str, typer.Option(help="30m, 2h, 7d (that long ago), 2026-01-31, 2026-01-31T12:00Z.")]
SideEffects = Annotated[
    bool, typer.Option("--with-side-effects", help="Do not set ctx.replaying: messages are queued, URLs called.")
]


@group.command("list")
def list_(context: typer.Context, *, as_json: AsJson = False) -> None:
    """List handlers: what they have not read yet and for how long, how fast they go, what failed.

    Example: receiver handlers
    """
    from receiver.cli.controlling import show_handlers
    from receiver.cli.place import find_place, run_async

    run_async(show_handlers(find_place(context), as_json=as_json))


@group.command()
def pause(
    context: typer.Context,
    name: Name,
    reason: Annotated[str, typer.Option(help="Why, for those who look later.")] = "",
    wait: Annotated[float, typer.Option(min=0, help="Seconds for the batches in hand; then they are undone.")] = 10.0,
    *,
    dry_run: DryRun = False,
) -> None:
    """Let a handler stand still, with its retries and replays; nothing is lost meanwhile.

    Example: receiver handlers pause tell_shop --reason "the shop is down"
    """
    from receiver.cli.controlling import pause_handler
    from receiver.cli.place import find_place, run_async

    run_async(pause_handler(find_place(context), name, reason, wait, dry_run=dry_run))


@group.command()
def resume(context: typer.Context, name: Name, *, dry_run: DryRun = False) -> None:
    """Let a paused handler go on where it stood.

    Example: receiver handlers resume tell_shop
    """
    from receiver.cli.controlling import resume_handler
    from receiver.cli.place import find_place, run_async

    run_async(resume_handler(find_place(context), name, dry_run=dry_run))


@group.command()
def rewind(
    context: typer.Context,
    name: Name,
    since: Since,
    rate: Rate = None,
    *,
    with_side_effects: SideEffects = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Give a handler again what it has read since then, beside new events and without delaying them.

    Example: receiver handlers rewind suppression --since 2h
    """
    from receiver.cli.controlling import Ask, give_again
    from receiver.cli.options import moment
    from receiver.cli.place import find_place, run_async

    ask = Ask("rewind", name, moment(since), rate, replaying=not with_side_effects)
    run_async(give_again(find_place(context), ask, dry_run=dry_run, yes=yes))


@group.command()
def backfill(
    context: typer.Context,
    name: Name,
    since: Annotated[str, typer.Option(help="As for `rewind`, or `beginning`.")],
    rate: Rate = None,
    *,
    with_side_effects: SideEffects = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Give a handler the events that were there before it, up to exactly where its own reading began.

    Example: receiver handlers backfill scoring --since beginning --rate 500
    """
    from receiver.cli.controlling import Ask, give_again
    from receiver.cli.options import moment
    from receiver.cli.place import find_place, run_async
    from receiver.plugins.handlers import BEGINNING, THE_BEGINNING

    at = THE_BEGINNING if since == BEGINNING else moment(since)
    ask = Ask("backfill", name, at, rate, replaying=not with_side_effects)
    run_async(give_again(find_place(context), ask, dry_run=dry_run, yes=yes))


@group.command()
def cancel(context: typer.Context, name: Name, *, dry_run: DryRun = False, yes: Yes = False) -> None:
    """End a handler's rewind or backfill where it stands.

    Example: receiver handlers cancel scoring
    """
    from receiver.cli.controlling import cancel_lane
    from receiver.cli.place import find_place, run_async

    run_async(cancel_lane(find_place(context), name, dry_run=dry_run, yes=yes))


@group.command("skip-to")
def skip_to(
    context: typer.Context,
    name: Name,
    to: Annotated[str, typer.Argument(metavar="now|TIME", help="`now`, 30m, 2h, 7d, 2026-01-31, 2026-01-31T12:00Z.")],
    *,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Leave out what a handler has not read yet and was received before that time.

    Example: receiver handlers skip-to tell_shop now
    """
    from receiver.cli.controlling import skip_events
    from receiver.cli.options import moment
    from receiver.cli.place import find_place, run_async

    at = None if to == "now" else moment(to)
    run_async(skip_events(find_place(context), name, at, dry_run=dry_run, yes=yes))


@group.command()
def remove(
    context: typer.Context,
    name: Name,
    *,
    dead_letters: Annotated[bool, typer.Option("--dead-letters", help="Discard its dead letters too.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Forget a handler that no worker runs any more: its progress and its retries.

    Example: receiver handlers remove old_scoring
    """
    from receiver.cli.controlling import remove_handler
    from receiver.cli.place import find_place, run_async

    run_async(remove_handler(find_place(context), name, dead_letters=dead_letters, dry_run=dry_run, yes=yes))
