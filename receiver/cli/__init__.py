"""The command line. Modules import what is slow inside their functions, so that `receiver --help` is quick.

serve.py         serve, work             place.py     where a command finds settings and database
service.py       what those two run      output.py    tables, JSON Lines, plain pipes
banner.py        what they print         failures.py  messages and exit codes
setup.py         init, migrate, check, health
template.py      the file that init writes
sources.py, handlers.py, events.py, quarantine.py, refused.py, dead_letters.py, retention.py
controlling.py   what the commands of `receiver handlers` do   asking.py   before what cannot be undone
doctor.py        the command             released.py   refused requests verified again
replay.py        the command             replaying.py  its work
simulate.py      the command             simulator.py  its work
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 failed, 2 wrong use or configuration."""
    from receiver.cli.app import tree

    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        tree()(_global_first(given), prog_name="receiver")
    except Exception as error:  # noqa: BLE001 - the outermost place: every fault becomes a message and an exit code
        from receiver.cli.failures import report

        sys.exit(report(error, debug="--debug" in given))


def _global_first(arguments: list[str]) -> list[str]:
    """`--config FILE` and `--debug` may stand anywhere before `--`; typer wants them before the command."""
    first, rest = list[str](), list[str]()
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--":
            rest += [argument, *waiting]
        elif argument == "--debug" or argument.startswith("--config="):
            first.append(argument)
        elif argument == "--config":
            first += [argument, *([value] if (value := next(waiting, None)) is not None else [])]
        else:
            rest.append(argument)
    return first + rest
