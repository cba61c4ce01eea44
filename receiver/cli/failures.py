"""How a command fails: one clear message on standard error, an exit code, and a traceback only with --debug."""

from __future__ import annotations

import sys
import traceback
from typing import Final

from receiver.errors import ConfigError, ReceiverError
from receiver.printable import printable

FAILED: Final = 1
WRONG_CONFIG: Final = 2


class CommandError(ReceiverError):
    """What was asked for cannot be done; the message says why and what to do."""


def report(error: Exception, *, debug: bool) -> int:
    """Say what went wrong; returns the exit code. Values of variables are never shown: they may be secrets."""
    if debug:
        traceback.print_exception(error)
    if isinstance(error, ConfigError):
        _say("The configuration cannot be used:")
        for problem in error.problems:
            _say(f"  {problem.key or '(top)'}: {problem.wrong}")
            _say(f"      {problem.right}")
        return WRONG_CONFIG
    if isinstance(error, ReceiverError):
        _say(f"receiver: {error}")
    elif isinstance(error, OSError) and error.strerror:
        _say(f"receiver: {error.strerror}" + (f": {error.filename}" if error.filename else ""))
    else:
        # The text of an error we did not foresee may quote anything, so only its kind is shown.
        _say(f"receiver: an unexpected fault ({type(error).__name__}); run it again with --debug for the details")
    return FAILED


def _say(text: str) -> None:
    print("\n".join(map(printable, text.split("\n"))), file=sys.stderr)  # noqa: T201 - this is where messages are printed
