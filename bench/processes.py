"""A process of the benchmark, as the one that runs it sees it: lines of JSON in and out."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import ExitStack
from typing import Any, Final

_PATIENCE: Final = 20.0  # seconds for an orderly end


class Failed(Exception):
    """A process of the benchmark has ended, or something did not happen in time."""


class Process:
    """`python -m MODULE ARGUMENT...`; ends with the stack, or with us, because its standard input does."""

    def __init__(self, stack: ExitStack, module: str, *arguments: str) -> None:
        self.name: Final = " ".join((module, *arguments[:1]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # the terminal's Ctrl-C is for us, who end all of them in order
        )
        stack.callback(self.end)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, **words: Any) -> dict[str, Any]:
        """Say something and hear the answer. Raises Failed."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(words) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise Failed(f"{self.name} has ended") from error
        return self.hear()

    def hear(self) -> dict[str, Any]:
        """The next thing it says. Raises Failed when it has ended instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"{self.name} ended with status {self._process.wait()}")
        return dict(json.loads(line))

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Ask it to end: there is nothing more to say."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def end(self) -> None:
        """End it and wait until it is gone."""
        self.thaw()
        self.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def say(**words: Any) -> None:
    """What a process says to the one that started it."""
    print(json.dumps(words), flush=True)
