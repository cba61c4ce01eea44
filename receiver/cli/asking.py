"""Asking before what cannot be undone."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from receiver.cli.failures import CommandError
from receiver.cli.lines import note

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def go_on(*, dry_run: bool, yes: bool) -> bool:
    """Whether to do what has just been announced. Asks where someone sits there, else `--yes` must have been said.

    Raises CommandError where there is nobody to ask.
    """
    if dry_run:
        note("nothing was changed (--dry-run)")
        return False
    if yes:
        return True
    if not sys.stdin.isatty():
        raise CommandError("there is nobody to ask: say --yes to do it, or --dry-run to see what it would do")
    if typer.confirm("Go on?", err=True):
        return True
    note("nothing was changed")
    return False
