"""`receiver init`, `migrate`, `check`, `health`: before and beside the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pathlib import Path


def init(
    context: typer.Context,
    *,
    provider: Annotated[
        list[str] | None,
        typer.Option("--provider", help="Write the tables of these providers instead of the best-known six."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    secret_key: Annotated[
        bool, typer.Option("--secret-key/--no-secret-key", help="Generate one, or leave it to the environment.")
    ] = True,
) -> None:
    """Write a commented configuration file, readable by its owner alone, with a generated secret key.

    A file that is replaced hands its keys on; else, where a demo has run, the key is the demo's: so what is stored
    can still be read, and addresses that must not be mailed are still known.

    Example: receiver init

    Example: receiver init --provider sparkpost --provider brevo
    """
    import os

    from receiver.cli.lines import say
    from receiver.cli.place import invocation
    from receiver.cli.sources import provider_named
    from receiver.cli.template import USUAL, template
    from receiver.settings import config_path

    chosen = [provider_named(name).name for name in provider or USUAL]
    config = invocation(context).config
    path, _ = config_path(config, os.environ)
    keys, whose = _keys(path, config, force=force) if secret_key else ({}, "")
    _write(path, template(keys, chosen), force=force)
    say(f"wrote {path}" + (f", with {whose}, so that what is stored can still be read" if whose else ""))
    say("Now set `database`, add a source, and run `receiver check`.")


def _keys(path: Path, config: Path | None, *, force: bool) -> tuple[dict[str, object], str]:
    """The keys that the file is to have, and whose they were before. Raises CommandError."""
    import secrets

    from receiver.demo import read_demo
    from receiver.settings import read_settings

    before = _keys_in(path) if force else {}
    if "secret_key" in before or "secret_key_file" in before:
        return before, "the secret_key of the file that it replaces"
    demo = read_demo(read_settings(config)[0].data_dir)
    key = demo.secret_key if demo else secrets.token_urlsafe(48)
    return {**before, "secret_key": key}, "the demo's secret_key" if demo else ""


def _keys_in(path: Path) -> dict[str, object]:
    """Those of a file that is to be replaced, under the names that they have there. Raises CommandError."""
    import tomllib

    from receiver.cli.failures import CommandError
    from receiver.settings import KEYS

    try:
        written = tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:  # no UTF-8, no TOML
        why = error.strerror if isinstance(error, OSError) else "it is not TOML"
        right = "mend it, or move it away and keep its key"
        raise CommandError(f"{path} cannot be read ({why}), and its secret_key would be lost: {right}") from error
    return {one: written[one] for name in KEYS for one in (name, f"{name}_file") if one in written}


def _write(path: Path, text: str, *, force: bool) -> None:
    """Never readable by others, not even for a moment. Raises CommandError where the file is there already."""
    import os

    from receiver.cli.failures import CommandError

    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
    try:
        with os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text)
    except FileExistsError as error:
        raise CommandError(f"{path} is there already: --force replaces it") from error
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from error


def migrate(context: typer.Context) -> None:
    """Bring the database to this release's schema. May be run at any time, also by several machines at once.

    Example: DATABASE_URL=postgresql://receiver@db/receiver receiver migrate
    """
    from receiver.cli.lines import say
    from receiver.cli.place import find_place, run_async
    from receiver.settings import without_password

    dsn = find_place(context).database()
    before, after = run_async(_migrate(dsn))
    if before == after:
        say(f"{without_password(dsn)} has schema {after} already")
    else:
        say(f"{without_password(dsn)}: schema {after} is in place" + (f", it was {before}" if before else ""))


async def _migrate(dsn: str) -> tuple[int, int]:
    from receiver.cli.database import connected
    from receiver.store.schema import migrate as migrate_schema

    async with connected(dsn):  # for its messages
        return await migrate_schema(dsn)


def check(
    context: typer.Context,
    *,
    database: Annotated[
        bool, typer.Option("--database", help="Also connect to the database: its schema, and the key of its addresses.")
    ] = False,
) -> None:
    """Check all that `serve` checks, without starting: settings, sources, handlers. Shows no secret.

    A demo that runs here counts for nothing: it is about `serve` without --demo.

    Example: receiver check --database
    """
    from receiver.cli.checking import check_all
    from receiver.cli.place import look_around

    place, problems = look_around(context)
    check_all(place, problems, database=database)


def database(
    context: typer.Context,
    *,
    reveal: Annotated[bool, typer.Option("--reveal", help="With the password, if there is one.")] = False,
) -> None:
    """Print the database's URL, as psql and other programs take it.

    Example: psql "$(receiver database)"
    """
    from receiver.cli.lines import say
    from receiver.cli.place import find_place
    from receiver.settings import hide_password

    dsn = find_place(context).database()
    say(dsn if reveal else hide_password(dsn))


def health(
    context: typer.Context,
    *,
    live: Annotated[
        bool, typer.Option("--live", help="Only whether the process answers, not whether it can work.")
    ] = False,
    worker: Annotated[bool, typer.Option("--worker", help="Whether `receiver work` runs on this host.")] = False,
) -> None:
    """Ask every process that runs from this data directory how it is: exit 0 if all are well, else 1.

    Example: receiver health
    """
    from receiver.cli.health import service_health, worker_health
    from receiver.cli.lines import say
    from receiver.cli.place import find_place, run_async

    place = find_place(context)
    for line in [run_async(worker_health(place))] if worker else service_health(place, live=live):
        say(line)
