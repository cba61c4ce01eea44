"""`receiver events`: what has been stored."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from receiver.cli import options
from receiver.cli.options import AsJson, Limit, OfRecipient, OfSource, moment
from receiver.event import EventType

if TYPE_CHECKING:
    from receiver.cli.place import Place
    from receiver.store.queries import EventFilter

POLL: Final = 0.5  # seconds between two looks of --follow
WIDTH: Final = 130  # columns from which on an event fits on a line
HEAD: Final = ("occurred", "type", "source", "recipient", "detail", "id")

group = options.group("Show what has been stored: `list` (also without saying so), `show` and `schema`.")


@group.command("list")
def list_(  # noqa: PLR0913, PLR0917 - the options of the command
    context: typer.Context,
    type_: Annotated[
        list[EventType] | None, typer.Option("--type", help="Only this type; may be repeated.", show_choices=False)
    ] = None,
    source: OfSource = None,
    provider: Annotated[str | None, typer.Option(help="Only of this provider.")] = None,
    recipient: OfRecipient = None,
    message_id: Annotated[str | None, typer.Option(help="Only about this message.")] = None,
    since: Annotated[
        datetime | None, typer.Option(parser=moment, metavar="TIME", help="Occurred since: 2h, 7d, 2026-01-31.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(parser=moment, metavar="TIME", help="Occurred before: 2h, 7d, 2026-01-31.")
    ] = None,
    limit: Limit = 50,
    *,
    tests: Annotated[
        bool | None, typer.Option("--tests/--no-tests", help="Only providers' test events, or none of them.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """List events, the newest last.

    Example: receiver events list --type bounced --type complained --since 2h

    Example: receiver events --follow --json
    """
    from receiver.cli.place import find_place, run_async
    from receiver.store.queries import EventFilter

    wanted = EventFilter(
        types=type_ or None,
        source=source,
        provider=provider,
        recipient=recipient,
        message_id=message_id,
        tests=tests,
        since=since,
        until=until,
    )
    run_async(_list(find_place(context), wanted, limit, follow=follow, as_json=as_json))


@group.command()
def show(
    context: typer.Context,
    event_id: Annotated[str, typer.Argument(metavar="ID", help="The event's id, as `list` shows it.")],
    *,
    as_json: AsJson = False,
    cloudevent: Annotated[
        bool, typer.Option("--cloudevent", help="As JSON for programs (CloudEvents), as `forward` sends it.")
    ] = False,
) -> None:
    """Show one event: our columns beside the provider's own object.

    Example: receiver events show 019ac3f0-5d2e-8f33-9a41-6c2d1f0be7a5
    """
    from receiver.cli.place import find_place, run_async

    run_async(_show(find_place(context), event_id, as_json=as_json, cloudevent=cloudevent))


@group.command()
def schema() -> None:
    """Print the JSON Schema of what `show --cloudevent` prints and `forward` sends.

    Example: receiver events schema > event.schema.json
    """
    from receiver.cli.lines import write
    from receiver.cloudevents import json_schema

    write(json_schema())


async def _list(place: Place, wanted: EventFilter, limit: int, *, follow: bool, as_json: bool) -> None:
    from receiver.cli.database import connected
    from receiver.store.queries import Follower, list_events

    async with connected(place.database()) as connection:
        follower = Follower(wanted)
        if follow:
            await follower.start(connection)
        _print(list(reversed(await list_events(connection, wanted, limit))), as_json=as_json, more=follow)
        while follow:
            await asyncio.sleep(POLL)
            if found := await follower.look(connection):
                _print(found, as_json=as_json, more=True, head=False)


def _print(events: list[str], *, as_json: bool, more: bool, head: bool = True) -> None:
    from receiver.cli.lines import write
    from receiver.cli.output import json_text, narrow, table, two_lines

    if as_json:
        write("".join(f"{json_text(event)}\n" for event in events))
    elif events and narrow(WIDTH):
        for *first, detail, id_ in map(_line, events):
            two_lines(first, (id_, detail))
    elif events or not more:
        table(HEAD, map(_line, events), empty="no events", head=head)


def _line(event: str) -> tuple[object, ...]:
    from receiver.cli.output import decode

    row = decode(event)
    when = datetime.fromisoformat(row["occurred_at"])
    type_ = f"{row['type']} (test)" if row["is_test"] else row["type"]
    return when, type_, row["source"], row["recipient"], _detail(row), row["id"]


def _detail(row: dict[str, Any]) -> str | None:
    """What matters most beside the type."""
    parts = [row["bounce_category"], row["bounce_class"], row["reject_reason"], row["enhanced_code"], row["actor"]]
    return " ".join(part for part in [*parts, (row["url"] or "")[:60]] if part) or None


async def _show(place: Place, text: str, *, as_json: bool, cloudevent: bool) -> None:
    from uuid import UUID

    from receiver.cli.database import connected
    from receiver.cli.failures import CommandError
    from receiver.cli.lines import write
    from receiver.cli.output import json_text
    from receiver.cloudevents import encode_event
    from receiver.store.queries import get_event, show_event

    try:
        id_ = UUID(text)
    except ValueError as error:
        raise CommandError("that is not an event's id: it looks like 019ac3f0-5d2e-8f33-9a41-6c2d1f0be7a5") from error
    async with connected(place.database()) as connection:
        found, event = await show_event(connection, id_), await get_event(connection, id_)
    if found is None or event is None:
        raise CommandError(f"there is no event {id_}")
    if cloudevent:
        write(json_text(encode_event(event).decode()) + "\n")
    elif as_json:
        write(json_text(found) + "\n")
    else:
        _show_beside(found)


def _show_beside(found: str) -> None:
    from receiver.cli.output import beside, decode, json_pretty, pairs, split_raw

    columns = {name: value for name, value in decode(found).items() if name != "raw" and value not in (None, [], {})}
    beside(pairs(columns, title="our columns"), json_pretty(split_raw(found)))
