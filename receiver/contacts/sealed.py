"""Taking a person out of what is kept encrypted: quarantine, refused requests, answers of the API."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

import asyncpg

from receiver.mentions import Mentions, addresses_in
from receiver.store.sql import Sql
from receiver.vault import Vault, WrongSecretKey

CHUNK: Final = 100  # rows that are decrypted at a time

# Under such a name stands who wrote, which is the team.
_SENDERS: Final = ("from", "sender", "source", "reply", "return")


@dataclass(frozen=True, slots=True)
class Sealed:
    """A table with encrypted columns. `key`: what tells its rows apart, in their order."""

    table: str
    columns: Sequence[str]
    key: Sequence[str]


SEALED: Final = (
    Sealed("quarantine", ("headers", "body"), ("id",)),
    Sealed("refused", ("headers", "body"), ("id",)),
    Sealed("api_requests", ("answer",), ("key_id", "idempotency_key")),
)


class Clear(NamedTuple):
    """A decrypted content, and the encoding that gives the same bytes again."""

    text: str
    encoding: str


@dataclass(frozen=True, slots=True)
class Row:
    """`contents`: its columns in clear, without those that are NULL. `readable`: the present keys open it."""

    key: tuple[Any, ...]
    kind: str
    contents: dict[str, Clear]
    readable: bool = True

    def names(self, mentions: Mentions) -> bool:
        return any(mentions.names(one.text) for one in self.contents.values())

    @property
    def provable(self) -> bool:
        """Whether it was kept to be proven again, by a signature over what it is."""
        return self.kind in {"delivery", "stale"}


async def chunks(sql: Sql, vault: Vault, sealed: Sealed) -> AsyncIterator[list[Row]]:
    """Its rows in clear, up to CHUNK at a time."""
    keys, kind = ", ".join(sealed.key), "kind" if sealed.table == "quarantine" else "''"
    places = ", ".join(f"${number}" for number in range(1, len(sealed.key) + 1))
    select = f"SELECT {keys}, {kind} AS kind, {', '.join(sealed.columns)} FROM {sealed.table}"
    found = await sql.fetch(f"{select} ORDER BY {keys} LIMIT {CHUNK}")
    while found:
        yield [_opened(vault, sealed, row) for row in found]
        after = [found[-1][name] for name in sealed.key]
        found = await sql.fetch(f"{select} WHERE ({keys}) > ({places}) ORDER BY {keys} LIMIT {CHUNK}", *after)


def _opened(vault: Vault, sealed: Sealed, row: asyncpg.Record) -> Row:
    key = tuple(row[name] for name in sealed.key)
    try:
        contents = {
            name: _clear(vault.decrypt(row[name], context=sealed.table))
            for name in sealed.columns
            if row[name] is not None
        }
    except WrongSecretKey:
        return Row(key, row["kind"], {}, readable=False)
    return Row(key, row["kind"], contents)


def _clear(content: bytes) -> Clear:
    try:
        return Clear(content.decode(), "utf-8")
    except UnicodeDecodeError:
        return Clear(content.decode("latin-1"), "latin-1")


# What stays -------------------------------------------------------------------------------------------------------


def without(row: Row, mentions: Mentions) -> dict[str, Clear] | None:
    """Its contents without the person; None where it is about nobody else, so that all of it goes.

    Who wrote a message is nobody else: that is the team.
    """
    others = {who for one in row.contents.values() for who in recipients(one.text) if not mentions.names(who)}
    if not others:
        return None
    return {
        name: Clear(_without(one.text, mentions, lambda text: not others.isdisjoint(addresses_in(text))), one.encoding)
        for name, one in row.contents.items()
    }


def _without(text: str, mentions: Mentions, keep: Callable[[str], bool]) -> str:
    return mentions.without_json(text, keep=keep) if mentions.names(text) else text


def recipients(text: str) -> set[str]:
    """The addresses in a payload but those of senders, as far as it is JSON or a form; else all of them."""
    value = _json(text) or dict(parse_qsl(text))
    return {one for part in _texts(value) for one in addresses_in(part)} if value else addresses_in(text)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            inner = _json(value) if value[:1] in "[{" else None
            yield from _texts(inner) if isinstance(inner, (list, dict)) else [value]
        case list():
            for one in value:
                yield from _texts(one)
        case dict():
            for key, one in value.items():
                if not any(word in key.lower() for word in _SENDERS):
                    yield from _texts(one)


async def remove(sql: Sql, sealed: Sealed, row: Row) -> None:
    await sql.execute(f"DELETE FROM {sealed.table} WHERE {_where(sealed)}", *row.key)


async def replace(sql: Sql, vault: Vault, sealed: Sealed, row: Row, contents: dict[str, Clear]) -> None:
    """Keep the row with these contents instead."""
    put = ", ".join(f"{name} = ${number}" for number, name in enumerate(contents, len(sealed.key) + 1))
    values = [
        vault.encrypt(one.text.encode(one.encoding, "replace"), context=sealed.table) for one in contents.values()
    ]
    await sql.execute(f"UPDATE {sealed.table} SET {put} WHERE {_where(sealed)}", *row.key, *values)


def _where(sealed: Sealed) -> str:
    return " AND ".join(f"{name} = ${number}" for number, name in enumerate(sealed.key, 1))
