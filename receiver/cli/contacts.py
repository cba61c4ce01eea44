"""`receiver contacts`: the people of a team's lists."""

from __future__ import annotations

from typing import Annotated

import typer

from receiver.cli import contact_files
from receiver.cli.options import AsJson, Limit

group = typer.Typer(
    help="The people of your lists: who they are, what they have said, and why they may be mailed or not.",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)

Address = Annotated[str, typer.Argument(metavar="ADDRESS", help="An e-mail address.")]


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


group.command("import")(contact_files.import_)
