"""`receiver keys`: who may use the API."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from receiver.api_keys import SCOPES
from receiver.cli import options
from receiver.cli.asking import DryRun, Yes
from receiver.cli.options import AsJson

if TYPE_CHECKING:
    import asyncpg

    from receiver.cli.place import Place
    from receiver.store.api_keys import NewKey

group = options.group("Keys of the API: `list`, `create`, `rotate` and `revoke`.")


def _length(text: str) -> timedelta:
    from receiver.durations import read_duration

    try:
        return read_duration(text)
    except ValueError as error:
        raise typer.BadParameter("say how long: 12h, 90d, 2w") from error


Id = Annotated[int, typer.Argument(metavar="ID", help="The number that `list` shows.")]
_COLUMNS: Final = ("id", "name", "start", "state", "scopes", "created_at", "created_by", "expires_at", "used_at")


@group.command("list")
def list_(
    context: typer.Context,
    *,
    all_: Annotated[bool, typer.Option("--all", help="Also those that were revoked or have expired.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the keys that are good now. Of a key itself only the start is known.

    Example: receiver keys --all
    """
    from receiver.cli.place import find_place, run_async

    run_async(_list(find_place(context), ended=all_, as_json=as_json))


@group.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is for, such as the program that gets it.")],
    *,
    scope: Annotated[
        list[str], typer.Option(help=f"What it may do, as often as needed: {', '.join(SCOPES)}, read or all.")
    ],
    expires: Annotated[Any, typer.Option(parser=_length, metavar="LENGTH", help="How long it is good: 90d.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. It is shown this once; only a hash of it is stored.

    Example: receiver keys create shop --scope sendable:read --scope contacts:write --expires 365d
    """
    from receiver.api_keys import scopes_of
    from receiver.cli.place import find_place, run_async

    if not name.strip() or len(name) > 100:
        raise typer.BadParameter("1 to 100 characters", param_hint="NAME")
    try:
        scopes = scopes_of(scope)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--scope") from error
    run_async(_create(find_place(context), name.strip(), scopes, expires, as_json=as_json))


@group.command()
def rotate(
    context: typer.Context,
    id_: Id,
    *,
    overlap: Annotated[
        Any, typer.Option(parser=_length, metavar="LENGTH", help="How long the old one is still good.")
    ] = "24h",
    expires: Annotated[
        Any,
        typer.Option(parser=_length, metavar="LENGTH", help="How long the new one is good; else as long as the old."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key with the same name and scopes; the old one expires once whoever uses it had time to change.

    Example: receiver keys rotate 3 --overlap 24h
    """
    from receiver.cli.place import find_place, run_async

    run_async(_rotate(find_place(context), id_, overlap, expires, as_json=as_json))


@group.command()
def revoke(context: typer.Context, id_: Id, *, dry_run: DryRun = False, yes: Yes = False) -> None:
    """End a key at once, and every access token that was made with it. A revoked key stays revoked.

    Example: receiver keys revoke 3 --yes
    """
    from receiver.cli.place import find_place, run_async

    run_async(_revoke(find_place(context), id_, dry_run=dry_run, yes=yes))


async def _list(place: Place, *, ended: bool, as_json: bool) -> None:
    from receiver.cli.database import connected
    from receiver.cli.output import json_line, table
    from receiver.store.api_keys import list_keys

    async with connected(place.database()) as connection:
        rows = await list_keys(connection, ended=ended)
    if as_json:
        for row in rows:
            json_line(dict(row))
        return
    table(_COLUMNS, ([row[name] for name in _COLUMNS] for row in rows), empty="there is no key: receiver keys create")


async def _create(place: Place, name: str, scopes: list[str], expires: timedelta | None, *, as_json: bool) -> None:
    from receiver.cli.database import connected
    from receiver.cli.place import who
    from receiver.store import api_keys
    from receiver.store.queries import write_audit

    key, new = _new(name, scopes, expires)
    async with connected(place.database()) as connection, connection.transaction():
        row = await api_keys.make(connection, new)
        await write_audit(connection, who(), "key_create", f"key {row['id']} {name}: {' '.join(scopes)}")
    _show(row, key, as_json=as_json)


async def _rotate(place: Place, id_: int, overlap: timedelta, expires: timedelta | None, *, as_json: bool) -> None:
    from receiver.cli.database import connected
    from receiver.cli.lines import note
    from receiver.cli.place import who
    from receiver.store import api_keys
    from receiver.store.queries import write_audit

    async with connected(place.database()) as connection, connection.transaction():
        old = await _live(connection, id_)
        length = expires or (old["expires_at"] - old["created_at"] if old["expires_at"] else None)
        key, new = _new(old["name"], old["scopes"], length, replaces=id_)
        row, until = await api_keys.make(connection, new), await api_keys.end(connection, id_, overlap)
        await write_audit(connection, who(), "key_rotate", f"key {id_} by key {row['id']}, until {until}")
    _show(row, key, as_json=as_json)
    note(f"key {id_} is good until {until:%Y-%m-%d %H:%M} UTC")


async def _revoke(place: Place, id_: int, *, dry_run: bool, yes: bool) -> None:
    from receiver.cli.asking import go_on
    from receiver.cli.database import connected
    from receiver.cli.lines import say
    from receiver.cli.place import who
    from receiver.store import api_keys
    from receiver.store.queries import write_audit

    async with connected(place.database()) as connection:
        row = await _live(connection, id_)
        used = f"last used {row['used_at']:%Y-%m-%d %H:%M} UTC" if row["used_at"] else "never used"
        say(f"key {id_}, {row['name']}, {row['start']}..., {used}: whoever has it is refused from then on")
        if not go_on(dry_run=dry_run, yes=yes):
            return
        async with connection.transaction():
            await api_keys.revoke(connection, id_)
            await write_audit(connection, who(), "key_revoke", f"key {id_} {row['name']}")
    say("done")


def _new(name: str, scopes: list[str], length: timedelta | None, *, replaces: int | None = None) -> tuple[str, NewKey]:
    """A key, and what is stored of it."""
    from receiver.api_keys import START, digest, make_key
    from receiver.cli.place import who
    from receiver.store.api_keys import NewKey

    key = make_key()
    until = None if length is None else datetime.now(UTC) + length
    new = NewKey(
        name=name, start=key[:START], hash=digest(key), scopes=scopes, created_by=who(), expires_at=until,
        replaces=replaces,
    )  # fmt: skip
    return key, new


async def _live(connection: asyncpg.Connection, id_: int) -> asyncpg.Record:
    """Raises CommandError where there is no such key, or it is not good any more."""
    from receiver.cli.failures import CommandError
    from receiver.store.api_keys import get

    row = await get(connection, id_)
    if row is None:
        raise CommandError(f"there is no key {id_}: see `receiver keys --all`")
    if row["state"] != "live":
        raise CommandError(f"key {id_} is {row['state']} already")
    return row


def _show(row: asyncpg.Record, key: str, *, as_json: bool) -> None:
    from receiver.cli.lines import note, say
    from receiver.cli.output import json_line

    if as_json:
        json_line({"key": key, **dict(row)})
        return
    say(key)
    until = f"until {row['expires_at']:%Y-%m-%d %H:%M} UTC" if row["expires_at"] else "until it is revoked"
    note(f"key {row['id']}, {row['name']}, good {until}. It is shown this once: put it where its user finds it")
