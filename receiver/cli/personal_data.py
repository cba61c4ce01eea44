"""The work of `receiver contacts export-person`: everything that is held about one person, as one JSON document."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import asyncpg

from receiver.cli.lines import note, write
from receiver.cli.output import json_text
from receiver.cli.person import found
from receiver.cli.place import Place, who
from receiver.contacts import sealed
from receiver.contacts.sealed import SEALED
from receiver.mentions import Mentions
from receiver.private_files import write_json
from receiver.store.people import Person
from receiver.store.queries import write_audit
from receiver.vault import Vault

FORM: Final = 1  # raised when a program that reads the document would have to change

_BY_HASH: Final = ("subscriptions", "consent_log", "suppressions", "bounces", "confirmations", "erasures")
_BY_ADDRESS: Final = {
    "events": "t.recipient = ANY ($1)",
    "sends": "t.recipient = ANY ($1)",
    "dead_letters": "t.event->>'recipient' = ANY ($1)",
}
_ROWS: Final = "SELECT row_to_json(t)::text FROM {table} AS t WHERE {where}"
_OF_EVENTS: Final = """
SELECT row_to_json(t)::text FROM attempts t WHERE event_id IN (SELECT id FROM events WHERE recipient = ANY ($1))
"""


async def export(place: Place, address: str, out: Path | None) -> None:
    vault = place.vault()
    async with found(place, address) as (connection, person):
        await write_audit(connection, who(), "export-person", f"address {person.address_hash.hex()[:12]}")
        document = await _document(connection, vault, person)
    if out is None:
        write(json_text(json.dumps(document, ensure_ascii=False)) + "\n")
        return
    write_json(out, document)
    note(f"wrote {out}")


async def _document(connection: asyncpg.Connection, vault: Vault, person: Person) -> dict[str, Any]:
    tables = {name: await _rows(connection, name, "t.address_hash = ANY ($1)", person.hashes) for name in _BY_HASH}
    for name, where in _BY_ADDRESS.items():
        tables[name] = await _rows(connection, name, where, person.addresses)
    tables["attempts"] = _decoded(await connection.fetch(_OF_EVENTS, person.addresses))
    mentions = Mentions(person.addresses)
    return {
        "form": FORM,
        "exported_at": datetime.now(UTC).isoformat(),
        "addresses": person.addresses,
        "contact": await _contact(connection, person),
        **{name: [_own(row, mentions) for row in rows] for name, rows in tables.items()},
        **{one.table: await _sealed(connection, vault, one, mentions) for one in SEALED},
    }


async def _contact(connection: asyncpg.Connection, person: Person) -> dict[str, Any] | None:
    if person.contact is None:
        return None
    (row,) = await _rows(connection, "contacts", "t.id = $1", person.contact["id"])
    before = await _rows(connection, "contact_addresses", "t.contact_id = $1", person.contact["id"])
    return row | {"addresses_before": before}


async def _rows(connection: asyncpg.Connection, table: str, where: str, value: object) -> list[dict[str, Any]]:
    return _decoded(await connection.fetch(_ROWS.format(table=table, where=where), value))


def _decoded(rows: list[asyncpg.Record]) -> list[dict[str, Any]]:
    return [json.loads(row[0]) for row in rows]


def _own(row: dict[str, Any], mentions: Mentions) -> dict[str, Any]:
    """The row; where its payload tells of other people too, without them. A dead letter's event holds one as text."""
    inner = row.get("event")
    if isinstance(inner, dict) and isinstance(inner.get("raw"), str):
        row["event"] = _own(inner | {"raw": json.loads(inner["raw"])}, mentions)
    if row.get("raw") is not None:
        row["raw"] = json.loads(_alone(json.dumps(row["raw"], ensure_ascii=False), mentions))
    return row


def _alone(text: str, mentions: Mentions) -> str:
    """The text without the other recipients that it names."""
    others = {one for one in sealed.recipients(text) if not mentions.names(one)}
    return Mentions(others).without_json(text, keep=mentions.names) if others else text


async def _sealed(
    connection: asyncpg.Connection, vault: Vault, kind: sealed.Sealed, mentions: Mentions
) -> list[dict[str, Any]]:
    """What is encrypted and names the person, in clear."""
    found = [row async for rows in sealed.chunks(connection, vault, kind) for row in rows if row.names(mentions)]
    return [
        dict(zip(kind.key, row.key, strict=True))
        | {name: _alone(one.text, mentions) for name, one in row.contents.items()}
        for row in found
    ]
