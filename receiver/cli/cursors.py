"""`receiver cursors`: what concerns the cursors of all handlers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from receiver.cli.asking import DryRun, Yes

if TYPE_CHECKING:
    from receiver.cli.place import Place

group = typer.Typer(
    help="The cursors of all handlers: `rebase`.", rich_markup_mode="rich", pretty_exceptions_enable=False
)


@group.callback()
def cursors() -> None:
    """Keep `rebase` a command of its own: typer would make a group of one command that command."""


@group.command()
def rebase(context: typer.Context, *, dry_run: DryRun = False, yes: Yes = False) -> None:
    """Go on after a dump was restored into another server, with exactly what each handler had not read.

    Example: receiver cursors rebase --dry-run
    """
    from receiver.cli.place import find_place, run_async

    run_async(_rebase(find_place(context), dry_run=dry_run, yes=yes))


async def _rebase(place: Place, *, dry_run: bool, yes: bool) -> None:
    import asyncpg

    from receiver.cli.asking import go_on
    from receiver.cli.database import connected
    from receiver.cli.failures import CommandError
    from receiver.cli.lines import say
    from receiver.cli.place import who
    from receiver.store import rebase as store
    from receiver.store.queries import write_audit

    async with connected(place.database()) as connection:
        found = await store.look(connection)
        if not found.needed:
            say("nothing to do: transaction ids have not gone backwards")
            return
        say(
            f"new events are to get generation {found.generation + 1}, after all that are there; "
            f"{found.cursors:,} cursors of {found.handlers:,} handlers keep their places, "
            f"and the {found.unread:,} events that they have not read stay unread"
        )
        users = await store.users(connection)
        if users and not dry_run:
            raise CommandError(f"stop every process of the service first; there still are: {', '.join(users)}")
        if not go_on(dry_run=dry_run, yes=yes):
            return
        try:
            async with connection.transaction():
                if done := await store.rebase(connection):
                    await write_audit(connection, who(), "rebase", f"cursors, to generation {found.generation + 1}")
        except asyncpg.LockNotAvailableError as error:
            raise CommandError("the events are being used: stop whatever else uses the database") from error
    say("done: start the service again" if done else "nothing was left to do: someone else has done it meanwhile")
