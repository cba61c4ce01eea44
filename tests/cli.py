"""The command line as a test calls it: in a thread of its own, with what it printed and its exit code."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from receiver.cli import main
from tests.pgbouncer import through
from tests.service import SECRET_KEY


@dataclass(frozen=True, slots=True)
class Ended:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Its JSON Lines."""
        return [json.loads(line) for line in self.out.splitlines()]


Receiver: TypeAlias = Callable[..., Awaitable[Ended]]


def command(capsys: pytest.CaptureFixture[str]) -> Receiver:
    """A function that runs `receiver ARGUMENTS`."""

    def run(*arguments: str) -> Ended:
        capsys.readouterr()
        try:
            main(arguments)
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 0 if exit_.code is None else 1
        else:
            code = 0
        printed = capsys.readouterr()
        return Ended(code, printed.out, printed.err)

    async def run_in_thread(*arguments: str) -> Ended:
        return await asyncio.to_thread(run, *arguments)

    return run_in_thread


def command_for(
    database: str, directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Receiver:
    """The command line in a directory of its own, with this database, the tests' secret key and nothing else."""
    for name in [name for name in os.environ if name.startswith("RECEIVER_") or name == "DATABASE_URL"]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(directory)
    monkeypatch.setenv("RECEIVER_DATABASE", through(database))
    monkeypatch.setenv("RECEIVER_SECRET_KEY", SECRET_KEY)
    return command(capsys)
