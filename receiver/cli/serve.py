"""`receiver serve` and `receiver work`: the processes that stay."""

from __future__ import annotations

from typing import Annotated

import typer


def serve(
    context: typer.Context,
    *,
    demo: Annotated[
        bool,
        typer.Option("--demo", help="For trying: a source for every provider, generated secrets, embedded Postgres."),
    ] = False,
    no_dispatch: Annotated[
        bool, typer.Option("--no-dispatch", help="Only receive; `receiver work` runs the handlers.")
    ] = False,
    workers: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, max=64, help="Processes that share the port, each with an admin port of its own."
        ),
    ] = 1,
) -> None:
    """Receive webhooks, and run the handlers in the same process.

    Example: receiver serve --demo

    Example: receiver serve --no-dispatch

    Example: receiver serve --workers 4
    """
    from receiver.cli.place import invocation
    from receiver.cli.service import run_service

    code = run_service(invocation(context), demo=demo, dispatch=not no_dispatch, workers=workers)
    if code:
        raise typer.Exit(code)


def work(context: typer.Context) -> None:
    """Run the handlers alone, beside any number of other workers and of `receiver serve --no-dispatch`.

    Example: receiver work
    """
    from receiver.cli.place import find_place
    from receiver.cli.service import run_worker

    run_worker(find_place(context))
