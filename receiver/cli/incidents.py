"""`receiver suppressions incidents`: bad days of mailbox providers, and what somebody has decided about them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer

from receiver.cli import options
from receiver.cli.asking import DryRun, Yes
from receiver.cli.options import AsJson, Limit, moment

if TYPE_CHECKING:
    from receiver.cli.place import Place
    from receiver.store.incidents import Decision, Incident

group = options.group("Bad days of mailbox providers: `list`, `confirm`, `release` and `declare`.")

Id = Annotated[int, typer.Argument(metavar="ID", help="The number that `list` shows.")]
Because = Annotated[str, typer.Option("--why", metavar="TEXT", help="Why, for those who look later.")]


@group.command("list")
def list_(context: typer.Context, limit: Limit = 50, *, as_json: AsJson = False) -> None:
    """List times in which a mailbox provider said of far more addresses than usual that they do not exist.

    Suppressions that rest on such a time alone are provisional: they no longer count from its release on.

    Example: receiver suppressions incidents
    """
    from receiver.cli.place import find_place, run_async

    run_async(_list(find_place(context), limit, as_json=as_json))


@group.command()
def confirm(context: typer.Context, id_: Id, why: Because, *, yes: Yes = False, dry_run: DryRun = False) -> None:
    """The addresses really are dead: their suppressions stay for good.

    Example: receiver suppressions incidents confirm 3 --why "the provider has closed these accounts"
    """
    from receiver.cli.place import find_place, run_async

    run_async(_decide(find_place(context), id_, "confirmed", why, yes=yes, dry_run=dry_run))


@group.command()
def release(context: typer.Context, id_: Id, why: Because, *, yes: Yes = False, dry_run: DryRun = False) -> None:
    """It was the provider's mistake: suppressions that rest on it alone no longer count, now and while it goes on.

    Example: receiver suppressions incidents release 3 --why "Gmail has said so"
    """
    from receiver.cli.place import find_place, run_async

    run_async(_decide(find_place(context), id_, "released", why, yes=yes, dry_run=dry_run))


@group.command()
def declare(
    context: typer.Context,
    mailbox_provider: Annotated[str, typer.Argument(metavar="PROVIDER", help="google, microsoft, ..., as in events.")],
    since: Annotated[datetime, typer.Option("--since", parser=moment, metavar="TIME", help="When it began.")],
    why: Because,
    until: Annotated[
        datetime | None,
        typer.Option("--until", parser=moment, metavar="TIME", help="When it was over; else until it is."),
    ] = None,
) -> None:
    """Say that there is a bad day which was not noticed, as when there is too little mail to judge.

    Example: receiver suppressions incidents declare google --since 2026-12-14T18:00Z --why "Gmail has said so"
    """
    from receiver.cli.place import find_place, run_async

    run_async(_declare(find_place(context), _known(mailbox_provider.lower()), since, until, why))


def _known(name: str) -> str:
    """A mailbox provider, as events name it. Raises CommandError for other words: they would concern nothing."""
    from receiver.classify.mailboxes import MAILBOX_PROVIDERS, mailbox_provider
    from receiver.cli.failures import CommandError
    from receiver.faults import did_you_mean

    if name in MAILBOX_PROVIDERS:
        return name
    meant = mailbox_provider(name) or mailbox_provider(f"{name}.com")
    guess = f" (did you mean {meant}?)" if meant else did_you_mean(name, MAILBOX_PROVIDERS)
    raise CommandError(f"there is no mailbox provider {name!r}{guess}; known are {', '.join(MAILBOX_PROVIDERS)}")


async def _list(place: Place, limit: int, *, as_json: bool) -> None:
    from dataclasses import asdict

    from receiver.cli.database import connected
    from receiver.cli.output import json_line
    from receiver.store.incidents import list_incidents

    async with connected(place.database()) as connection:
        found = await list_incidents(connection, limit=limit)
    if as_json:
        for one in found:
            json_line(asdict(one) | {"state": _state(one)})
        return
    _table(found)


def _table(found: list[Incident]) -> None:
    from receiver.cli.output import table

    head = ("id", "provider", "began", "ended", "hard", "attempted", "rate", "usual", "suppressed", "state", "release")
    rows = (
        (
            *(one.id, one.mailbox_provider, one.began_at, one.ended_at, one.hard, one.attempted),
            f"{one.hard / one.attempted:.1%}" if one.attempted else None,
            *(f"{one.baseline:.1%}", one.suppressed, _state(one), one.release_at),
        )
        for one in found
    )
    table(head, rows, empty="no bad days")


def _state(one: Incident) -> str:
    return one.decision or ("provisional" if one.ended_at else "goes on")


async def _decide(place: Place, id_: int, decision: Decision, why: str, *, yes: bool, dry_run: bool) -> None:
    from receiver.cli.asking import go_on
    from receiver.cli.database import connected
    from receiver.cli.failures import CommandError
    from receiver.cli.lines import note, say
    from receiver.cli.place import who
    from receiver.store.incidents import decide, list_incidents
    from receiver.store.queries import write_audit

    _require(why)
    async with connected(place.database()) as connection:
        found = await list_incidents(connection, id_=id_)
        if not found:
            raise CommandError(f"there is no incident {id_}; `receiver suppressions incidents` shows those there are")
        _table(found)
        count = found[0].suppressed
        note(f"{count} suppression{'' if count == 1 else 's'}: {_WHAT[decision]}")
        if not go_on(dry_run=dry_run, yes=yes):
            return
        async with connection.transaction():
            await decide(connection, id_, decision, why)
            await write_audit(connection, who(), decision, f"incident {id_} ({count} suppressions): {why}")
    say(f"{decision} incident {id_}")


_WHAT: Final[dict[Decision, str]] = {"confirmed": "they stay for good", "released": "they do not count any more"}


async def _declare(place: Place, mailbox_provider: str, since: datetime, until: datetime | None, why: str) -> None:
    from receiver.cli.database import connected
    from receiver.cli.failures import CommandError
    from receiver.cli.lines import say
    from receiver.cli.place import who
    from receiver.store.incidents import close, open_incident
    from receiver.store.queries import write_audit

    _require(why)
    if until is not None and until <= since:
        raise CommandError("--until must be later than --since")
    async with connected(place.database()) as connection, connection.transaction():
        one = await open_incident(connection, mailbox_provider, since, 0.0, note=why)
        if one is None:
            raise CommandError(f"an incident of {mailbox_provider} goes on already: `receiver suppressions incidents`")
        if until is not None:
            await close(connection, one.id, until, place.settings.policy.release_after)
        await write_audit(connection, who(), "declare", f"incident {one.id} of {mailbox_provider}: {why}")
    say(f"declared incident {one.id}; `receiver suppressions incidents` shows what it concerns")


def _require(why: str) -> None:
    from receiver.cli.failures import CommandError

    if not why.strip():
        raise CommandError("say why: --why must not be empty")
