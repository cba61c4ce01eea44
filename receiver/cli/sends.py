"""`receiver sends`: the outbox, what became of each message and why, and the accounts that send."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, cast
from uuid import UUID

import typer

from receiver.cli import options
from receiver.cli.asking import DryRun, Yes
from receiver.cli.options import AsJson, Limit, moment
from receiver.store.send_list import STATES

if TYPE_CHECKING:
    import asyncpg

    from receiver.cli.place import Place
    from receiver.store.send_list import State, Which
    from receiver.store.sql import Sql

group = options.group(
    "The outbox: `list`, `show`, `retry` and `cancel` messages, `pause` and `resume` accounts, and list `accounts`."
)


def _id_of(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text} is not a message's id; `receiver sends list` shows them") from error


def _state_of(text: str) -> str:
    if text not in STATES:
        raise typer.BadParameter(f"is none of {', '.join(STATES)}")
    return text


def _address(text: str) -> str:
    from receiver.contacts.addresses import WrongAddress, entered

    try:
        return entered(text).key
    except WrongAddress as error:
        raise typer.BadParameter(str(error)) from error


Ids = Annotated[list[UUID], typer.Argument(metavar="ID...", parser=_id_of, help="Messages, as `list` shows them.")]
SomeIds = Annotated[
    list[UUID] | None, typer.Argument(metavar="[ID]...", parser=_id_of, help="Messages, as `list` shows them.")
]
Account = Annotated[str, typer.Argument(metavar="[ACCOUNT]", help="One account; else every one: the kill switch.")]

_HEAD: Final = ("id", "created", "to", "what", "state", "reason", "attempts", "due")


@group.command("list")
def list_(
    context: typer.Context,
    states: Annotated[
        list[str] | None,
        typer.Option(
            "--state", parser=_state_of, metavar="STATE", help=f"Only this: {', '.join(STATES)}. Can be repeated."
        ),
    ] = None,
    recipient: Annotated[
        str | None, typer.Option("--recipient", parser=_address, metavar="ADDRESS", help="Only to it.")
    ] = None,
    template: Annotated[str | None, typer.Option("--template", help="Only of this template.")] = None,
    rule: Annotated[str | None, typer.Option("--rule", help="Only of this rule.")] = None,
    since: Annotated[
        datetime | None, typer.Option("--since", parser=moment, metavar="TIME", help="Only queued since then.")
    ] = None,
    *,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List messages, the newest first, with their state and why they are in it.

    Example: receiver sends list --state failed --state unknown --since 1d
    """
    from receiver.cli.place import find_place, run_async
    from receiver.store.send_list import Which

    which = Which(
        states=cast("list[State]", states) or None,
        recipient=recipient,
        template=template,
        rule=rule,
        since=since,
    )
    run_async(_list(find_place(context), which, limit, as_json=as_json))


@group.command()
def show(
    context: typer.Context,
    id_: Annotated[UUID, typer.Argument(metavar="ID", parser=_id_of, help="A message, as `list` shows it.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Show one message: all that is stored of it, each attempt with what the guard said, and what providers told.

    Example: receiver sends show 2b1f6c1e-7f0a-4a51-9df6-0c54a3f0f6a1
    """
    from receiver.cli.place import find_place, run_async

    run_async(_show(find_place(context), id_, as_json=as_json))


@group.command()
def retry(context: typer.Context, ids: Ids, *, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Queue messages again that have failed, or whose outcome is unknown.

    Of an unknown one nobody knows whether it has arrived: it may arrive twice. The guard is asked again.

    Example: receiver sends retry 2b1f6c1e-7f0a-4a51-9df6-0c54a3f0f6a1
    """
    from receiver.cli.place import find_place, run_async

    run_async(_retry(find_place(context), ids, yes=yes, dry_run=dry_run))


@group.command()
def cancel(
    context: typer.Context,
    ids: SomeIds = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="PREFIX", help="Those whose keys begin so, such as `welcome:`.")
    ] = None,
    *,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Cancel messages that are not sent yet. Their keys stay taken: nothing queues them again.

    Example: receiver sends cancel --key welcome_2: --dry-run
    """
    from receiver.cli.place import find_place, run_async
    from receiver.store.send_list import Which

    if bool(ids) == bool(key):
        raise typer.BadParameter("name messages, or say --key how their keys begin")
    run_async(_cancel(find_place(context), Which(ids=ids or None, key=key), yes=yes, dry_run=dry_run))


@group.command()
def pause(
    context: typer.Context,
    account: Account = "*",
    *,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="Why, for those who look later.")],
) -> None:
    """Stop sending through an account, or at all, from the next message on. What is queued waits.

    Example: receiver sends pause --why "the wrong price is in the newsletter"
    """
    from receiver.cli.place import find_place, run_async

    run_async(_pause(find_place(context), account, why))


@group.command()
def resume(context: typer.Context, account: Account = "*") -> None:
    """Let an account send again, or lift the kill switch. What has waited beyond its deadline is skipped.

    Example: receiver sends resume main
    """
    from receiver.cli.place import find_place, run_async

    run_async(_resume(find_place(context), account))


@group.command()
def accounts(context: typer.Context, *, as_json: AsJson = False) -> None:
    """List the accounts: whether they may send, failures in a row, and what they sent in the last hour and day.

    Example: receiver sends accounts
    """
    from receiver.cli.place import find_place, run_async

    run_async(_accounts(find_place(context), as_json=as_json))


async def _list(place: Place, which: Which, limit: int, *, as_json: bool) -> None:
    from receiver.cli.database import connected
    from receiver.cli.output import json_line, table
    from receiver.store import send_list

    async with connected(place.database()) as connection:
        rows = await send_list.page(connection, which, limit=limit)
    if as_json:
        for row in rows:
            json_line(dict(row))
        return
    table(_HEAD, map(_line, rows), empty="no messages")


def _line(row: asyncpg.Record) -> tuple[object, ...]:
    what = row["template"] or row["key"]
    due = row["not_before"] if row["state"] == "queued" else None
    return (row["id"], row["created_at"], row["recipient"], what, row["state"], row["reason"], row["attempts"], due)


async def _show(place: Place, id_: UUID, *, as_json: bool) -> None:
    import json

    from receiver.cli.database import connected
    from receiver.cli.output import json_line
    from receiver.store import send_list

    async with connected(place.database()) as connection:
        row = await send_list.get(connection, id_)
        if row is None:
            raise _no_send(id_)
        attempts = [{**one, "checks": json.loads(one["checks"])} for one in await send_list.attempts(connection, id_)]
        events = [dict(one) for one in await send_list.events_of(connection, row)]
    found = {**row, "data": json.loads(row["data"])}
    if as_json:
        json_line({**found, "attempts": attempts, "attempt_count": row["attempts"], "events": events})
        return
    _print(found, attempts, events)


def _print(row: dict[str, Any], attempts: list[dict[str, Any]], events: list[dict[str, Any]]) -> None:
    from receiver.cli.lines import say
    from receiver.cli.output import pairs, show, table

    show(pairs(row, title="message"))
    say("")
    lines = (
        (one["attempt"], one["at"], one["account"], one["outcome"], _said(one["checks"]), one["detail"])
        for one in attempts
    )
    table(("attempt", "at", "account", "outcome", "the guard", "detail"), lines, empty="no attempts")
    say("")
    names = ("occurred_at", "type", "source", "actor", "url")
    table(names, ([one[name] for name in names] for one in events), empty="no events of it")


def _said(checks: list[dict[str, Any]]) -> str:
    """The guard's answers; why, where it was not `go`."""
    return ", ".join(
        one["name"] if one["verdict"] == "go" else f"{one['name']}: {one['verdict']} ({one['why']})" for one in checks
    )


def _no_send(id_: UUID) -> Exception:
    from receiver.cli.failures import CommandError

    return CommandError(f"there is no message {id_}; `receiver sends list` shows those there are")


async def _named(sql: Sql, ids: Sequence[UUID]) -> list[asyncpg.Record]:
    """Raises CommandError where one of them is not there."""
    from receiver.store import send_list

    rows = await send_list.page(sql, send_list.Which(ids=ids), limit=len(ids))
    for id_ in set(ids) - {row["id"] for row in rows}:
        raise _no_send(id_)
    return rows


async def _retry(place: Place, ids: list[UUID], *, yes: bool, dry_run: bool) -> None:
    from receiver.cli.asking import go_on
    from receiver.cli.database import connected
    from receiver.cli.failures import CommandError
    from receiver.cli.lines import note, say
    from receiver.cli.place import who
    from receiver.store import send_list
    from receiver.store.queries import write_audit

    async with connected(place.database()) as connection:
        rows = await _named(connection, ids)
        fit = [row for row in rows if row["state"] in ("failed", "unknown")]
        for row in rows:
            if row not in fit:
                note(f"{row['id']} is {row['state']}: only what has failed or is unknown can be queued again")
        if not fit:
            raise CommandError("none of them can be queued again")
        twice = sum(row["state"] == "unknown" and row["stream"] == "marketing" for row in fit)
        if twice:
            note(f"{twice} of them: marketing mail that may have arrived already, and would then arrive twice")
        if dry_run or twice:
            note(f"{len(fit)} to be queued again")
            if not go_on(dry_run=dry_run, yes=yes):
                return
        async with connection.transaction():
            done = await send_list.retry(connection, [row["id"] for row in fit])
            await write_audit(connection, who(), "sends retry", ", ".join(map(str, done)))
    say(f"queued {len(done)} again")


async def _cancel(place: Place, which: Which, *, yes: bool, dry_run: bool) -> None:
    from receiver.cli.asking import go_on
    from receiver.cli.database import connected
    from receiver.cli.lines import note, say
    from receiver.cli.place import who
    from receiver.cli.progress import progress
    from receiver.store import send_list
    from receiver.store.queries import write_audit

    async with connected(place.database()) as connection:
        rows = await _named(connection, which.ids or ())
        waiting = await send_list.count_waiting(connection, which)
        if not waiting:
            note("there is none that is not sent yet" + "".join(f"; {row['id']} is {row['state']}" for row in rows))
            return
        note(f"{waiting} not sent yet, to be cancelled")
        if not go_on(dry_run=dry_run, yes=yes):
            return
        what, total, more = f"key {which.key}" if which.key else ", ".join(map(str, which.ids or ())), 0, True
        with progress("cancelling", waiting) as advance:
            while more:
                async with connection.transaction():
                    done = len(await send_list.cancel(connection, which))
                    if done:
                        await write_audit(connection, who(), "sends cancel", f"{what}: {done}")
                total, more = total + done, done == send_list.PIECE
                advance(total)
    say(f"cancelled {total}")


async def _pause(place: Place, account: str, why: str) -> None:
    from receiver.cli.database import connected
    from receiver.cli.lines import say
    from receiver.cli.place import who
    from receiver.store import outbox
    from receiver.store.queries import write_audit

    if not why.strip():
        raise typer.BadParameter("--why must say something")
    _known(place, account)
    async with connected(place.database()) as connection, connection.transaction():
        await outbox.pause(connection, account, None, by=who(), reason=why)
        await write_audit(connection, who(), "sends pause", f"{account}: {why}")
    say(f"{_name(account)} paused; `receiver sends resume{'' if account == '*' else f' {account}'}` ends that")


async def _resume(place: Place, account: str) -> None:
    from receiver.cli.database import connected
    from receiver.cli.lines import note, say
    from receiver.cli.place import who
    from receiver.store import outbox
    from receiver.store.queries import write_audit

    async with connected(place.database()) as connection, connection.transaction():
        if not await outbox.resume(connection, account):
            _known(place, account)
            note(f"{_name(account)} not paused")
            return
        await write_audit(connection, who(), "sends resume", account)
    say(f"{_name(account)} resumed")


def _name(account: str) -> str:
    return "all sending is" if account == "*" else f"account {account} is"


def _known(place: Place, account: str) -> None:
    """Raises CommandError: to pause a name with a slip in it would stop nothing, and look as if it did."""
    from receiver.cli.failures import CommandError
    from receiver.faults import did_you_mean

    known = list(place.settings.accounts)
    if account != "*" and account not in known:
        raise CommandError(f"there is no account {account} in the configuration{did_you_mean(account, known)}")


async def _accounts(place: Place, *, as_json: bool) -> None:
    from receiver.cli.database import connected
    from receiver.cli.output import json_line, table
    from receiver.store import send_list

    async with connected(place.database()) as connection:
        found = await send_list.accounts(connection)
        now: datetime = await connection.fetchval("SELECT clock_timestamp()")
    configured = place.settings.accounts
    names = ["*", *configured, *(name for name in found if name != "*" and name not in configured)]
    rows = [
        {"name": name, "transport": configured.get(name, {}).get("transport"), "state": _state(found.get(name), now)}
        | {key: (found.get(name) or {}).get(key) for key in _OF_ACCOUNT}
        for name in names
    ]
    if as_json:
        for row in rows:
            json_line(row)
        return
    head = ("account", "transport", "state", "until", "by", "why", "failures", "last hour", "last day")
    table(head, ([row[name] or None for name in ("name", "transport", "state", *_OF_ACCOUNT)] for row in rows))


_OF_ACCOUNT: Final = ("paused_until", "paused_by", "reason", "failures", "hour", "day")


def _state(row: dict[str, Any] | None, now: datetime) -> str:
    if row is None or row["paused_at"] is None or (row["paused_until"] is not None and row["paused_until"] <= now):
        return "sends"
    return "paused" if row["paused_until"] is None else "rests"
