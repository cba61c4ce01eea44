"""`receiver broadcast`: a template to everybody in a segment, or who is subscribed to a topic."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from receiver.cli import options
from receiver.cli.asking import DryRun, Yes
from receiver.cli.options import AsJson, Limit, moment

if TYPE_CHECKING:
    from collections.abc import Mapping

    import asyncpg

    from receiver.cli.place import Place
    from receiver.sending.broadcasts import Plan, Wanted

group = options.group("A template to many: `start`, `list`, `show`, `pause`, `resume` and `cancel` a broadcast.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name: a broadcast of one name is made once.")]

_LISTED: Final = ("name", "template", "topic", "segment", "state", "expected", "queued", "created_at", "created_by")
_BEGINNING: Final = 5  # lines of a text that are shown


def _from_now(text: str) -> datetime:
    """A time to come: `2h` is that long from now."""
    from receiver.durations import read_duration

    try:
        return datetime.now(UTC) + read_duration(text)
    except ValueError:
        return moment(text)


@group.command()
def start(  # noqa: PLR0913 - the options of the command
    context: typer.Context,
    name: Name,
    *,
    template: Annotated[str, typer.Option("--template", help="What they get.")],
    topic: Annotated[str, typer.Option("--topic", help="What it is about: only who is subscribed to it gets it.")],
    segment: Annotated[str | None, typer.Option("--segment", help="Only who of them is in this segment.")] = None,
    account: Annotated[
        str | None, typer.Option("--account", help="Send through it; else the one of marketing.")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", metavar="JSON", help="Values for the template.")] = None,
    per_minute: Annotated[int | None, typer.Option("--per-minute", min=1, help="How many at most.")] = None,
    at: Annotated[
        datetime | None, typer.Option("--at", parser=_from_now, metavar="TIME", help="Not earlier; `2h`: from now.")
    ] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Say how many would get it, show some, ask, and start. The service sends it, piece by piece.

    Example: receiver broadcast start spring-sale --template sale --topic news --segment buyers --per-minute 600
    """
    from receiver.cli.place import find_place, run_async
    from receiver.cli.templates import object_of
    from receiver.sending.broadcasts import Wanted

    wanted = Wanted(
        name=name,
        template=template,
        topic=topic,
        segment=segment,
        account=account,
        data=object_of(data),
        per_minute=per_minute,
        at=at,
    )
    run_async(_start(find_place(context), wanted, yes=yes, dry_run=dry_run))


@group.command("list")
def list_(context: typer.Context, limit: Limit = 50, *, as_json: AsJson = False) -> None:
    """List broadcasts, the newest first.

    Example: receiver broadcast
    """
    from receiver.cli.place import find_place, run_async

    run_async(_list(find_place(context), limit, as_json=as_json))


@group.command()
def show(context: typer.Context, name: Name, *, as_json: AsJson = False) -> None:
    """Show one broadcast, and how many of its messages are in each state.

    Example: receiver broadcast show spring-sale
    """
    from receiver.cli.place import find_place, run_async

    run_async(_show(find_place(context), name, as_json=as_json))


@group.command()
def pause(
    context: typer.Context,
    name: Name,
    *,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="Why, for those who look later.")],
) -> None:
    """Stop it from the next message on; what is queued waits.

    Example: receiver broadcast pause spring-sale --why "wrong price"
    """
    from receiver.cli.place import find_place, run_async

    run_async(_pause(find_place(context), name, why))


@group.command()
def resume(context: typer.Context, name: Name) -> None:
    """Let it go on where it was.

    Example: receiver broadcast resume spring-sale
    """
    from receiver.cli.place import find_place, run_async

    run_async(_resume(find_place(context), name))


@group.command()
def cancel(context: typer.Context, name: Name, *, yes: Yes = False, dry_run: DryRun = False) -> None:
    """End it for good: what is not sent yet is not sent any more.

    Example: receiver broadcast cancel spring-sale
    """
    from receiver.cli.place import find_place, run_async

    run_async(_cancel(find_place(context), name, yes=yes, dry_run=dry_run))


async def _start(place: Place, wanted: Wanted, *, yes: bool, dry_run: bool) -> None:
    from receiver.cli.asking import go_on
    from receiver.cli.database import connected
    from receiver.cli.lines import say
    from receiver.cli.place import who
    from receiver.sending.broadcasts import plan, start
    from receiver.sending.means import means_of
    from receiver.store.queries import write_audit

    async with connected(place.database()) as connection:
        planned = await plan(connection, means_of(place.settings), wanted)
        _announce(planned)
        _show_one(planned)
        if not go_on(dry_run=dry_run, yes=yes):
            return
        async with connection.transaction():
            await start(connection, planned, who())
            await write_audit(connection, who(), "broadcast start", f"{wanted.name}: {planned.expected} recipients")
    say(f"started {wanted.name}; `receiver broadcast show {wanted.name}` says how far it is")


def _announce(planned: Plan) -> None:
    from receiver.cli.lines import note
    from receiver.cli.output import table

    wanted = planned.wanted
    head = ("address", "name", "last_opened_at", "last_clicked_at")
    table(head, ([row[column] for column in head] for row in planned.sample), empty="nobody would get it now")
    length = _length(planned.expected, wanted.per_minute)
    begin = "" if wanted.at is None else f", from {wanted.at:%Y-%m-%d %H:%M} UTC on"
    note(f"{wanted.template} to {planned.expected:,} of {wanted.topic}{begin}{length}")


def _length(count: int, per_minute: int | None) -> str:
    """Nothing where no rate makes it long."""
    from receiver.durations import say_duration

    length = timedelta(minutes=count / per_minute) if per_minute else timedelta(0)
    return f", in about {say_duration(length)}" if length >= timedelta(seconds=1) else ""


def _show_one(planned: Plan) -> None:
    """What the first of them would read: the subject, and how the text begins."""
    from receiver.cli.lines import say

    if planned.example is None:
        return
    lines = [line for line in (planned.example.text or "").splitlines() if line.strip()]
    rest = ["..."] if len(lines) > _BEGINNING else []
    say(f"to {planned.sample[0]['address']}: {planned.example.subject}")
    for line in (*lines[:_BEGINNING], *rest):
        say(f"  {line}")


async def _list(place: Place, limit: int, *, as_json: bool) -> None:
    from receiver.cli.database import connected
    from receiver.cli.output import json_line, table
    from receiver.store.broadcasts import page

    async with connected(place.database()) as connection:
        rows = await page(connection, limit=limit)
    if as_json:
        for row in rows:
            json_line(_shown(row))
        return
    table(_LISTED, ([row[name] for name in _LISTED] for row in rows), empty="no broadcasts")


async def _show(place: Place, name: str, *, as_json: bool) -> None:
    from receiver.cli.database import connected
    from receiver.cli.output import json_line, pairs, show
    from receiver.sending.broadcasts import get
    from receiver.store.broadcasts import counts

    async with connected(place.database()) as connection:
        row = await get(connection, name)
        found = {**_shown(row), "messages": await counts(connection, row["id"])}
    if as_json:
        json_line(found)
        return
    show(pairs({**found, "messages": _counted(found["messages"])}, title="broadcast"))


def _counted(messages: Mapping[str, int]) -> str | None:
    return ", ".join(f"{count:,} {state}" for state, count in sorted(messages.items())) or None


def _shown(row: asyncpg.Record) -> dict[str, Any]:
    import json

    return {
        **row,
        "data": json.loads(row["data"]),
        "filter": None if row["filter"] is None else json.loads(row["filter"]),
    }


async def _pause(place: Place, name: str, why: str) -> None:
    from receiver.cli.database import connected
    from receiver.cli.lines import say
    from receiver.cli.place import who
    from receiver.sending.broadcasts import pause
    from receiver.store.queries import write_audit

    async with connected(place.database()) as connection, connection.transaction():
        await pause(connection, name, why)
        await write_audit(connection, who(), "broadcast pause", f"{name}: {why}")
    say(f"paused {name}")


async def _resume(place: Place, name: str) -> None:
    from receiver.cli.database import connected
    from receiver.cli.lines import say
    from receiver.cli.place import who
    from receiver.sending.broadcasts import resume
    from receiver.store.queries import write_audit

    async with connected(place.database()) as connection, connection.transaction():
        await resume(connection, name)
        await write_audit(connection, who(), "broadcast resume", name)
    say(f"resumed {name}")


async def _cancel(place: Place, name: str, *, yes: bool, dry_run: bool) -> None:
    from receiver.cli.asking import go_on
    from receiver.cli.database import connected
    from receiver.cli.lines import note, say
    from receiver.cli.place import who
    from receiver.sending.broadcasts import cancel, get
    from receiver.store.queries import write_audit

    async with connected(place.database()) as connection:
        row = await get(connection, name)
        note(f"{name} is {row['state']}; {row['queued']:,} of {row['expected']:,} are sent or queued")
        if not go_on(dry_run=dry_run, yes=yes):
            return
        async with connection.transaction():
            await cancel(connection, name)
            await write_audit(connection, who(), "broadcast cancel", name)
    say(f"cancelled {name}, with its messages that waited: none of them is sent any more")
