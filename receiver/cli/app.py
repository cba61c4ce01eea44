"""The tree of commands."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from receiver.cli import (
    alerts,
    broadcast,
    classify,
    contacts,
    cursors,
    dead_letters,
    doctor,
    events,
    handlers,
    keys,
    links,
    policy,
    quarantine,
    refused,
    replay,
    reprocess,
    retention,
    segments,
    send_test,
    sends,
    serve,
    setup,
    simulate,
    sources,
    suppressions,
    templates,
    topics,
)

RUNNING: Final = "Running"
LOOKING: Final = "Looking"
LISTS: Final = "People"
SENDING: Final = "Sending"
TRYING: Final = "Trying"

app = typer.Typer(
    name="receiver",
    help="Receives the webhooks of email providers: verifies, normalizes and stores them, and runs handlers on them.",
    epilog="First steps: `receiver serve --demo`, then in another terminal `receiver simulate postmark bounced`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it so
    if wanted:
        from importlib.metadata import version

        typer.echo(version("email-event-receiver"))
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The configuration file; else RECEIVER_CONFIG, else receiver.toml."),
    ] = None,
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[  # noqa: ARG001 - its callback does the work
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    from receiver.cli.place import Invocation

    context.obj = Invocation(config=config, debug=debug)


for _command in (setup.init, serve.serve, serve.work, setup.migrate, setup.check, setup.health):
    app.command(rich_help_panel=RUNNING)(_command)
app.command(rich_help_panel=LOOKING)(setup.database)
app.command(rich_help_panel=LOOKING)(doctor.doctor)
app.add_typer(sources.group, name="sources", rich_help_panel=LOOKING)
app.add_typer(handlers.group, name="handlers", rich_help_panel=LOOKING)
app.add_typer(cursors.group, name="cursors", rich_help_panel=RUNNING)
app.add_typer(keys.group, name="keys", rich_help_panel=RUNNING)
app.add_typer(events.group, name="events", rich_help_panel=LOOKING)
app.add_typer(quarantine.group, name="quarantine", rich_help_panel=LOOKING)
app.add_typer(refused.group, name="refused", rich_help_panel=LOOKING)
app.add_typer(dead_letters.group, name="dead-letters", rich_help_panel=LOOKING)
app.add_typer(replay.group, name="replay", rich_help_panel=LOOKING)
app.command(rich_help_panel=LOOKING)(reprocess.reprocess)
app.command(rich_help_panel=LOOKING)(classify.classify)
app.add_typer(suppressions.group, name="suppressions", rich_help_panel=LISTS)
app.add_typer(policy.group, name="policy", rich_help_panel=LISTS)
app.add_typer(retention.group, name="retention", rich_help_panel=LOOKING)
app.add_typer(contacts.group, name="contacts", rich_help_panel=LISTS)
app.add_typer(links.group, name="links", rich_help_panel=LISTS)
app.add_typer(topics.group, name="topics", rich_help_panel=LISTS)
app.add_typer(segments.group, name="segments", rich_help_panel=LISTS)
app.add_typer(sends.group, name="sends", rich_help_panel=SENDING)
app.add_typer(broadcast.group, name="broadcast", rich_help_panel=SENDING)
app.add_typer(templates.group, name="templates", rich_help_panel=SENDING)
app.command(name="send-test", rich_help_panel=SENDING)(send_test.send_test)
app.add_typer(alerts.group, name="alerts", rich_help_panel=LOOKING)
app.command(rich_help_panel=TRYING)(simulate.simulate)


@cache
def tree() -> Any:  # typer's own class of a command, which it does not export
    """What runs a command line. Made once: to read the signatures of a hundred commands takes longer than most run."""
    return typer.main.get_command(app)
