"""`receiver contacts`: the people of a team's lists."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from receiver.cli import contact_changes, contact_files, options
from receiver.cli.asking import DryRun, Yes
from receiver.cli.contact_files import OfDomain, OfSegment, OfState, OfTag, OfTopic
from receiver.cli.options import AsJson, Limit

group = options.group(
    "The people of your lists: who they are, what they have said, and why they may be mailed or not.",
)

Address = Annotated[str, typer.Argument(metavar="ADDRESS", help="An e-mail address.")]


@group.command("list")
def list_(  # noqa: PLR0917 - the options of the command
    context: typer.Context,
    topic: OfTopic = None,
    state: OfState = None,
    tag: OfTag = None,
    domain: OfDomain = None,
    segment: OfSegment = None,
    limit: Limit = 50,
    *,
    as_json: AsJson = False,
) -> None:
    """List people, the newest first.

    Example: receiver contacts list --topic newsletter --state pending
    """
    from receiver.cli.exporting import Which, list_newest
    from receiver.cli.place import find_place, run_async

    which = Which(topic=topic, state=state, tag=tag, domain=domain, segment=segment)
    run_async(list_newest(find_place(context), which, limit, as_json=as_json))


@group.command()
def show(
    context: typer.Context,
    address: Address,
    limit: Limit = 50,
    *,
    raw: Annotated[bool, typer.Option("--raw", help="With the provider's own object that suppressed it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what is known of an address: what may be sent to it, why not, and its timeline across all providers.

    Example: receiver contacts show anna@example.com --raw
    """
    from receiver.cli.person import show as do
    from receiver.cli.place import find_place, run_async

    run_async(do(find_place(context), address, limit=limit, raw=raw, as_json=as_json))


@group.command()
def subscribe(
    context: typer.Context,
    address: Address,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="A topic's name.")],
    *,
    wording: Annotated[str, typer.Option("--wording", help="The words that the person agreed to; they are kept.")],
    as_json: AsJson = False,
) -> None:
    """Subscribe one person who has asked for it; a topic with double opt-in mails them a link to confirm it.

    Example: receiver contacts subscribe ada@example.com news --wording "I want the weekly news."
    """
    from receiver.cli.place import find_place, run_async
    from receiver.cli.subscribing import subscribe as do

    run_async(do(find_place(context), address, topic, wording, as_json=as_json))


@group.command()
def erase(
    context: typer.Context,
    address: Annotated[str | None, typer.Argument(metavar="ADDRESS", help="An e-mail address.")] = None,
    *,
    again: Annotated[
        bool, typer.Option("--again", help="Look through what came into quarantine about everybody erased before.")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove a person from every table, under all addresses that are theirs, and prove it by searching all of them.

    Stays: suppressions and unsubscriptions, by hash alone, so that the person is not mailed again, and what happened to
    messages without saying to whose. Later events about the person arrive without what names them. It reads the whole
    database twice. To be run again after Ctrl-C, or where the proof found something: it goes on.

    Example: receiver contacts erase anna@example.com --dry-run

    Example: receiver contacts erase --again
    """
    from receiver.cli import erasing
    from receiver.cli.place import find_place, run_async

    if again == (address is not None):
        raise typer.BadParameter("say an address, or --again for those who were erased before")
    if address is None:
        run_async(erasing.again(find_place(context), as_json=as_json))
    else:
        run_async(erasing.erase(find_place(context), address, dry_run=dry_run, yes=yes, as_json=as_json))


@group.command("export-person")
def export_person(
    context: typer.Context,
    address: Address,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write it there, readable by you alone.")
    ] = None,
) -> None:
    """Print everything that is held about one person as one JSON document, what is encrypted too.

    Other people who are named in the same payloads are left out of it. This is recorded in audit_log.

    Example: receiver contacts export-person anna@example.com --out anna.json
    """
    from receiver.cli.personal_data import export as do
    from receiver.cli.place import find_place, run_async

    run_async(do(find_place(context), address, out))


group.command("import")(contact_files.import_)
group.command("export")(contact_files.export)
for _command in (
    contact_changes.add,
    contact_changes.edit,
    contact_changes.tag,
    contact_changes.untag,
    contact_changes.unsubscribe,
):
    group.command()(_command)
