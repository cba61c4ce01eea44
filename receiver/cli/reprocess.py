"""`receiver reprocess`: what was not understood is read again."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from receiver.cli.asking import DryRun, Yes
from receiver.cli.options import AsJson, moment
from receiver.event import EventType


def reprocess(  # noqa: PLR0913 - the options of the command
    context: typer.Context,
    source: Annotated[list[str] | None, typer.Option("--source", help="Only of this source; may be repeated.")] = None,
    since: Annotated[
        datetime | None, typer.Option(parser=moment, metavar="TIME", help="Received since: 2h, 7d, 2026-01-31.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(parser=moment, metavar="TIME", help="Received before: 2h, 7d, 2026-01-31.")
    ] = None,
    type_: Annotated[
        list[EventType] | None,
        typer.Option("--type", help="Events of this type, else unknown; may be repeated.", show_choices=False),
    ] = None,
    *,
    events: Annotated[bool, typer.Option("--events", help="Only stored events, not the quarantine.")] = False,
    quarantine: Annotated[bool, typer.Option("--quarantine", help="Only the quarantine, not stored events.")] = False,
    dispatch: Annotated[
        bool, typer.Option("--dispatch", help="Hand the changed events to the handlers that have passed them.")
    ] = False,
    with_side_effects: Annotated[
        bool, typer.Option("--with-side-effects", help="With --dispatch: also queue messages and send requests.")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Read stored events of type unknown, and the quarantine, again with this release and the present settings.

    An event is changed in place: id, time and place in the log stay, so handlers do not see it again, except with
    --dispatch. What was in quarantine and can be read now is stored as new events, which handlers see as all others.

    Example: receiver reprocess --source shop --dry-run

    Example: receiver reprocess --type unknown --since 7d --dispatch --yes
    """
    from receiver.cli.place import find_place, run_async
    from receiver.cli.reprocessing import Wanted, run
    from receiver.store.reprocessing import Selection

    bounds = {name: value for name, value in (("since", since), ("until", until)) if value is not None}
    types = [str(one) for one in type_ or [EventType.UNKNOWN]]
    wanted = Wanted(
        selection=Selection(types=types, sources=source or None, **bounds),
        events=events or not quarantine,
        quarantine=quarantine or not (events or type_),
        dispatch=dispatch or with_side_effects,
        side_effects=with_side_effects,
    )
    run_async(run(find_place(context), wanted, yes=yes, dry_run=dry_run, as_json=as_json))
