"""`receiver simulate`: play a provider."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from receiver.cli.options import AsJson, moment
from receiver.cli.options import rate as read_rate
from receiver.event import EventType

if TYPE_CHECKING:
    from receiver.cli.simulator import Report

# Written out, so that `receiver --help` need not load what plays them; a test compares.
PACKS: Final = ("duplicates", "disorder", "batch", "mangled", "skew", "unknown", "nobody")
RECIPIENT: Final = "ada@customer-domain.test"


def simulate(  # noqa: PLR0913, PLR0917 - the options of the command
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The source to post to, see `receiver sources`.")],
    type_: Annotated[
        EventType, typer.Argument(metavar="TYPE", help="What happens, in our words: bounced, opened, ...")
    ],
    to: Annotated[str, typer.Option(help="The recipient; with --count a number is added.")] = RECIPIENT,
    count: Annotated[int, typer.Option(min=1, max=10_000_000, help="How many events, each to another recipient.")] = 1,
    rate: Annotated[
        float | None,
        typer.Option("--rate", parser=read_rate, metavar="RATE", help="10, 10/s, 600/min; else as fast as it goes."),
    ] = None,
    duplicate: Annotated[int, typer.Option(min=0, max=1000, help="Send each so many times more, as a retry.")] = 0,
    at_once: Annotated[int, typer.Option(min=1, max=256, help="Requests at the same time.")] = 8,
    at: Annotated[
        datetime | None, typer.Option(parser=moment, metavar="TIME", help="When it happened: 2h (ago), 2026-01-31.")
    ] = None,
    run: Annotated[
        str | None, typer.Option(metavar="NAME", help="Ids are made from it; the same NAME and --at repeat a run.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Post here; else to the service that runs here.")] = None,
    keys: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON object with the keys to sign with, if not the source's own."),
    ] = None,
    pack: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Nasty input instead: " + ", ".join(PACKS) + "; or all."),
    ] = None,
    *,
    shuffle: Annotated[bool, typer.Option("--shuffle", help="In random order.")] = False,
    bad_signature: Annotated[
        bool, typer.Option("--bad-signature", help="Sign with wrong keys: must be refused.")
    ] = False,
    remote: Annotated[bool, typer.Option("--remote", help="Allow a URL that is not on this machine.")] = False,
    as_json: AsJson = False,
) -> None:
    """Post events as the provider does: its format, its batches, its signature. Exits 1 after an unexpected answer.

    Example: receiver simulate postmark bounced --to ada@customer-domain.test

    Example: receiver simulate sendgrid clicked --count 5000 --duplicate 1 --shuffle

    Example: receiver simulate mailgun opened --bad-signature

    Example: receiver simulate sendgrid bounced --pack all
    """
    from secrets import token_hex

    from receiver.cli.place import find_place, run_async
    from receiver.cli.simulator import Plan, play, play_packs, prepare

    place = find_place(context)
    plan = Plan(
        type=type_,
        to=to,
        count=count,
        rate=rate,
        duplicate=duplicate,
        shuffle=shuffle,
        at_once=at_once,
        at=at,
        run=run or token_hex(4),
    )
    prepared = prepare(place, source, plan, url=url, keys_file=keys, bad_signature=bad_signature, remote=remote)
    playing = play_packs(prepared, plan, pack, as_json=as_json) if pack else play(prepared, plan, as_json=as_json)
    report = run_async(playing)
    _summary(report, source, plan.run, as_json=as_json)
    if report.unexpected:
        raise typer.Exit(1)


def _summary(report: Report, source: str, run: str, *, as_json: bool) -> None:
    from receiver.cli.lines import note, say

    text = (
        f"{report.events} {'event' if report.events == 1 else 'events'} in {report.requests} "
        f"{'request' if report.requests == 1 else 'requests'} to {source}, {report.expected} answered as expected"
        f"{f', {report.unexpected} NOT' if report.unexpected else ''}; {report.times()}; run {run}"
    )
    (note if as_json else say)(text)
