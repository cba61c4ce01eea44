"""`receiver alerts`: problems that are open, and those of the last days."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from receiver.cli import options
from receiver.cli.options import AsJson, Limit

if TYPE_CHECKING:
    from receiver.cli.place import Place

group = options.group("Problems that somebody should look at: `list` and `test`.")


@group.command("list")
def list_(
    context: typer.Context,
    limit: Limit = 50,
    *,
    open_: Annotated[bool, typer.Option("--open", help="Without those that are over.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the problems that are open, and below them those that ended in the last 30 days.

    Example: receiver alerts --open
    """
    from receiver.cli.place import find_place, run_async

    run_async(_list(find_place(context), limit, resolved=not open_, as_json=as_json))


@group.command()
def test(context: typer.Context) -> None:
    r"""Send a trial to the URL in `\[alerts]`.

    Example: receiver alerts test
    """
    from receiver.cli.lines import say
    from receiver.cli.place import find_place, run_async

    host = run_async(_test(find_place(context)))
    say(f"sent: {host} has accepted it")


async def _list(place: Place, limit: int, *, resolved: bool, as_json: bool) -> None:
    from dataclasses import asdict

    from receiver.cli.database import connected
    from receiver.cli.output import json_line, table
    from receiver.store.alerts import list_alerts

    async with connected(place.database()) as connection:
        found = await list_alerts(connection, resolved=resolved, limit=limit)
    if as_json:
        for one in found:
            json_line(asdict(one))
        return
    head = ("id", "severity", "since", "resolved", "told", "problem")
    rows = (
        (one.id, one.severity, one.since, one.resolved_at, one.notified_at, one.resolution or one.text) for one in found
    )
    table(head, rows, empty="no problem is open")


async def _test(place: Place) -> str:
    from receiver.cli.failures import CommandError
    from receiver.errors import ConfigError, Problem, Unavailable
    from receiver.faults import right_value
    from receiver.watching.notices import Notices

    settings = place.settings.alerts
    if settings.url is None:
        raise ConfigError([Problem("alerts.url", "is missing, so nobody is told", right_value(type(settings), "url"))])
    notices = Notices(settings)
    try:
        await notices.send_test()
    except Unavailable as error:
        raise CommandError(f"not sent: {error}") from error
    finally:
        await notices.close()
    return notices.host
