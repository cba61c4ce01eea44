"""Showing what is encrypted at rest: redacted, or revealed on demand with a row in `audit_log`."""

from __future__ import annotations

import base64
import json
from typing import Any, Final, Literal

import asyncpg

from receiver.cli.database import connected
from receiver.cli.failures import CommandError
from receiver.cli.lines import say
from receiver.cli.output import json_line, json_pretty, pairs, show
from receiver.cli.place import Place, who
from receiver.store.queries import list_quarantine, list_refused, sealed, write_audit

Table = Literal["quarantine", "refused"]
HIDDEN: Final = "(encrypted; --reveal shows it and records that in audit_log)"


async def show_sealed(place: Place, table: Table, id_: int, *, reveal: bool, as_json: bool) -> None:
    """One row of `quarantine` or `refused`. Raises CommandError, WrongSecretKey."""
    async with connected(place.database()) as connection:
        rows = await (list_quarantine if table == "quarantine" else list_refused)(connection, id_=id_)
        if not rows:
            raise CommandError(f"there is nothing with the number {id_} in {table}")
        content = await _reveal(connection, place, table, id_) if reveal else {"headers": HIDDEN, "body": HIDDEN}
    if as_json:
        json_line({**rows[0], **content})
        return
    if reveal:
        show(pairs(dict(rows[0])))
        _show_content(content)
    else:
        show(pairs({**rows[0], **content}))


async def _reveal(connection: asyncpg.Connection, place: Place, table: Table, id_: int) -> dict[str, Any]:
    """Headers, query and body in clear. The audit row comes first: nobody sees anything without one."""
    vault = place.vault()
    await write_audit(connection, who(), "reveal", f"{table} {id_}")
    found = await sealed(connection, table, id_)
    if found is None:
        raise CommandError(f"{table} {id_} has just been removed")
    head, body = (vault.decrypt(one, context=table) for one in found)
    return {**json.loads(head), **_text_of(body)}


def _text_of(body: bytes) -> dict[str, str]:
    """The body as text, or in Base64 where it is none."""
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode()}


def _show_content(content: dict[str, Any]) -> None:
    say("")
    show(pairs(content.get("headers", {}), title="headers"))
    if content.get("query"):
        say(f"query: {content['query']}")
    say("")
    body = content.get("body")
    if body is None:
        say(f"body, in Base64: {content['body_base64']}")
        return
    try:
        show(json_pretty(body))
    except ValueError:  # not JSON, so as it is
        say(body)
