"""Asking before something is done to many rows, or cannot be undone."""

from __future__ import annotations

import sys

import typer

from receiver.cli.failures import FAILED, CommandError
from receiver.cli.lines import note


def confirm(question: str, *, yes: bool) -> None:
    """Go on only where `yes` was said, or a person says so now. Raises CommandError where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError(f"{question} Nobody can be asked here: say --yes, or --dry-run to only look")
    if not typer.confirm(question, err=True):
        note("nothing was done")
        raise typer.Exit(FAILED)
