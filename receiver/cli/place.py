"""Where a command finds what it needs: the configuration, the service that runs beside it, the database."""

from __future__ import annotations

import asyncio
import getpass
import os
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from receiver.cli.failures import CommandError
from receiver.errors import ConfigError, Problem
from receiver.runfile import Run, find_runs
from receiver.settings import Settings, missing_settings, read_settings

if TYPE_CHECKING:
    from receiver.demo import Demo
    from receiver.vault import Vault

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Invocation:
    """The options before the command's name."""

    config: Path | None = None
    debug: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """`runs`: what runs from the same data directory, the last that came first. `demo`: its demo, if it is one."""

    settings: Settings
    runs: Sequence[Run] = ()
    demo: Demo | None = field(default=None, repr=False)

    @property
    def run(self) -> Run | None:
        """The service; of several, the last that came."""
        return next((run for run in self.runs if run.url), None)

    @property
    def url(self) -> str | None:
        """Where the running service listens."""
        return self.run.url if self.run else None

    def database(self) -> str:
        """The database's URL. Raises ConfigError, or CommandError where it is away with its service."""
        configured = self.settings.database
        if self.run and (configured is None or self.settings.embedded):
            return self.run.database
        if self.settings.embedded:
            raise CommandError("the embedded database runs only while the service does: start `receiver serve` first")
        if configured is None:
            missing = missing_settings(self.settings, secret_key=False)[0]
            here = self.settings.data_dir.absolute()
            right = f"{missing.right}. Or start `receiver serve --demo`, which brings one"
            raise ConfigError([Problem(missing.key, f"{missing.wrong}, and no service runs from {here}", right)])
        return configured.get_secret_value()

    def vault(self) -> Vault:
        """What decrypts. Raises ConfigError without a secret key."""
        from receiver.vault import vault_of

        if self.settings.secret_key is None:
            raise ConfigError([one for one in missing_settings(self.settings) if one.key == "secret_key"])
        return vault_of(self.settings)


def invocation(context: typer.Context) -> Invocation:
    found = context.find_root().obj
    return found if isinstance(found, Invocation) else Invocation()


def find_place(context: typer.Context) -> Place:
    """The settings, and what runs beside us. Raises ConfigError."""
    place, problems = look_around(context)
    if problems:
        raise ConfigError(problems)
    if place.run is None or not place.run.demo:
        return place
    from receiver.demo import read_demo, with_demo

    demo = read_demo(place.settings.data_dir)
    return replace(place, settings=with_demo(place.settings, demo), demo=demo) if demo else place


def look_around(context: typer.Context) -> tuple[Place, list[Problem]]:
    """What the configuration alone says, without a demo that runs beside us, and what is wrong with it.

    From here on logs go to standard error.
    """
    from receiver.logs import set_up_logs

    settings, problems = read_settings(invocation(context).config)
    set_up_logs(settings.log_level, settings.log_format)  # structlog's own default would be standard output
    return Place(settings=settings, runs=find_runs(settings.data_dir)), problems


def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end."""
    return asyncio.run(coroutine)


def who() -> str:
    """The account of the operating system that runs this command, for the audit log."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a uid without a name, as in a container
        return f"uid {os.getuid()}"
