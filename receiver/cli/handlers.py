"""`receiver handlers`: how far each handler has read the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from receiver.cli.options import AsJson

if TYPE_CHECKING:
    from receiver.cli.place import Place


def handlers(context: typer.Context, *, as_json: AsJson = False) -> None:
    """List the handlers that have run: what they have not read yet, retries, dead letters.

    Example: receiver handlers
    """
    from receiver.cli.place import find_place, run_async

    run_async(_handlers(find_place(context), as_json=as_json))


async def _handlers(place: Place, *, as_json: bool) -> None:
    from dataclasses import asdict

    from receiver.cli.database import connected
    from receiver.cli.output import json_line, table
    from receiver.store.log import handler_states

    async with connected(place.database()) as connection:
        states = await handler_states(connection)
    if as_json:
        for state in states:
            json_line(asdict(state))
        return
    head = ("handler", "runs in", "unread", "oldest unread", "retries", "dead letters")
    rows = (
        (one.handler, one.owners or "nothing now", one.lag_events, one.lag, one.retries, one.dead_letters)
        for one in states
    )
    table(head, rows, empty="no handler has run on this database yet: start `receiver serve` or `receiver work`")
