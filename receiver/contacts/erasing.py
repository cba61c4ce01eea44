"""Erasing a person: a tombstone, a wait for who has not seen it, every table cleaned, and the proof of it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from receiver.contacts import sealed
from receiver.contacts.sealed import SEALED, Sealed
from receiver.mentions import Mentions, Needles, possible_addresses
from receiver.store import erasing, searching
from receiver.store.log import FRESH
from receiver.store.queries import live_workers
from receiver.store.searching import BLOCKS, Table
from receiver.vault import Vault

PATIENCE: Final = 3.0  # seconds of waiting after which is told for whom
_PAUSE: Final = 0.05

REMOVED: Final = "removed"
ANONYMOUS: Final = "made anonymous"
CLEANED: Final = "cleaned of the person"
UNPROVABLE: Final = "cleaned, and cannot be released any more: its signature was over the person too"

Tell = Callable[[str], None]
Show = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Searched:
    """What the proof says of one table. `unread`: rows that the present keys cannot decrypt."""

    table: str
    rows: int
    hits: int
    unread: int = 0
    readable: bool = True

    @property
    def proven(self) -> bool:
        return self.readable and not self.hits and not self.unread


@dataclass(slots=True)
class Erasure:
    """One run over the database. `spellings`: as somebody wrote an address. `did`: rows by (table, what was done)."""

    connection: asyncpg.Connection
    vault: Vault
    addresses: Sequence[str]
    spellings: Sequence[str] = ()
    did: Counter[tuple[str, str]] = field(default_factory=Counter)
    mentions: Mentions = field(init=False)
    needles: Needles = field(init=False)
    hashes: list[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.mentions = Mentions([*self.addresses, *self.spellings])
        self.needles = self.mentions.needles
        self.hashes = [self.vault.address_hash(one) for one in self.addresses]

    async def bury(self, who: str, tell: Tell) -> None:
        """Leave the tombstones, and wait until nobody is left who may not have seen them."""
        await erasing.bury(self.connection, self.hashes, who)
        await self._wait(tell)

    async def by_key(self, tell: Tell) -> None:
        """What the addresses and their hashes lead to."""
        while count := await erasing.empty_events(self.connection, self.addresses, self.mentions.pattern):
            self.did["events", ANONYMOUS] += count
        if await live_workers(self.connection):
            await asyncio.sleep(FRESH + _PAUSE)  # then no worker keeps an event as it was before
        await erasing.fence(self.connection, self.addresses)
        await self._wait(tell)  # for retries, which had read one in their own transaction
        for step in erasing.STEPS:
            tag = await self.connection.execute(step.statement, step.parameter(self.addresses, self.hashes))
            self.did[step.table, step.does] += erasing.affected(tag)

    async def _wait(self, tell: Tell) -> None:
        waited, told = 0.0, ""
        open_ = await erasing.writers(self.connection)
        while (one := await erasing.still_open(self.connection, open_)) is not None:
            if waited > PATIENCE and told != one["virtualtransaction"]:
                tell(f"waiting for an older transaction to end (process {one['pid']}, {one['application_name']})")
                told = one["virtualtransaction"]
            await asyncio.sleep(_PAUSE)
            waited += _PAUSE

    # What is found by searching -----------------------------------------------------------------------------------

    async def clean(self, tables: Sequence[Table], show: Show) -> None:
        """Whatever else names the person in tables of ours; `show` is told the blocks that are done."""
        done = 0
        for table in tables:
            for start in range(0, max(table.blocks, 1), BLOCKS):
                if table.ours and table.readable:
                    async with self.connection.transaction():
                        await self._clean_blocks(table, start)
                done += min(BLOCKS, max(table.blocks - start, 0))
                show(done)
        for one in SEALED:
            async for rows in sealed.chunks(self.connection, self.vault, one):
                for row in rows:
                    if row.names(self.mentions):
                        await self._clean_sealed(one, row, self.mentions)

    async def _clean_blocks(self, table: Table, start: int) -> None:
        _, places = await searching.look(self.connection, table, self.needles, start)
        for row in await searching.rows_at(self.connection, table, places, lock=True) if places else ():
            statement = self._mended(table, row)
            if statement is None:
                continue
            try:
                async with self.connection.transaction():
                    await self.connection.execute(*statement)
            except (asyncpg.IntegrityConstraintViolationError, asyncpg.RaiseError):
                continue  # what a key or a rule keeps as it is, the proof shows
            self.did[table.table, ANONYMOUS if self._is_theirs(table, row) else CLEANED] += 1

    def _is_theirs(self, table: Table, row: asyncpg.Record) -> bool:
        return table.holds_events and row["sender" if row["type"] == "inbound" else "recipient"] in self.addresses

    def _mended(self, table: Table, row: asyncpg.Record) -> tuple[Any, ...] | None:
        """The statement that takes the person out of the row, with its parameters; None where it does not name them."""
        if self._is_theirs(table, row):
            empty = erasing.empty_one(table.name, inbound=row["type"] == "inbound")
            return empty, row["ctid"], self.mentions.pattern
        keep = Mentions([row["recipient"]]).names if table.holds_events and row["recipient"] else None
        values = {
            name: _without(table, name, value, self.mentions, keep) for name, value in row.items() if name != "ctid"
        }
        changed = {name: value for name, value in values.items() if value != row[name]}
        if not changed:
            return None
        if "raw" in changed and table.holds_events:
            changed["raw_altered"] = True
        put = ", ".join(f'"{name}" = ${number}' for number, name in enumerate(changed, 2))
        return f"UPDATE {table.name} SET {put} WHERE ctid = $1", row["ctid"], *changed.values()

    async def _clean_sealed(self, kind: Sealed, row: sealed.Row, mentions: Mentions) -> None:
        rest = sealed.without(row, mentions)
        if rest is None:
            await sealed.remove(self.connection, kind, row)
            self.did[kind.table, REMOVED] += 1
        else:
            await sealed.replace(self.connection, self.vault, kind, row, rest)
            self.did[kind.table, UNPROVABLE if row.provable else CLEANED] += 1

    async def clean_sealed_again(self) -> None:
        """What came into quarantine and the like since, about anybody who was ever erased."""
        gone = await erasing.tombstones(self.connection)
        for one in SEALED:
            async for rows in sealed.chunks(self.connection, self.vault, one):
                for row in rows:
                    named = {who for content in row.contents.values() for who in possible_addresses(content.text)}
                    found = [who for who in named if self.vault.address_hash(who) in gone]
                    if found:
                        await self._clean_sealed(one, row, Mentions(found))

    # The proof ----------------------------------------------------------------------------------------------------

    async def prove(self, tables: Sequence[Table], show: Show) -> list[Searched]:
        """Search every row of every table, ours or not, and what is encrypted once more in clear."""
        found, done = [], 0
        for table in tables:
            rows = hits = 0
            for start in range(0, max(table.blocks, 1), BLOCKS) if table.readable else ():
                count, places = await searching.look(self.connection, table, self.needles, start)
                texts = await searching.texts_at(self.connection, table, places) if places else []
                rows, hits = rows + count, hits + sum(map(self.mentions.names, texts))
                show(done + min(start + BLOCKS, table.blocks))
            done += table.blocks
            found.append(Searched(table.name, rows, hits, readable=table.readable))
        return [*found, *[await self._prove_sealed(one) for one in SEALED]]

    async def _prove_sealed(self, one: Sealed) -> Searched:
        rows = [
            row async for chunk in sealed.chunks(self.connection, self.vault, one) for row in map(self._seen, chunk)
        ]
        return Searched(f"{one.table} (decrypted)", len(rows), rows.count(True), rows.count(None))

    def _seen(self, row: sealed.Row) -> bool | None:
        return row.names(self.mentions) if row.readable else None


# What a table keeps of a value that names the person, where that is not the value without them.
_NOTHING: Final[Mapping[tuple[str, str], Any]] = {
    ("consent_log", "address"): None,
    ("consent_log", "wording"): None,
    ("consent_log", "user_agent"): None,
    ("consent_log", "detail"): "{}",
}
_REWRITTEN: Final = frozenset({"raw", "metadata", "diagnostic", "tags"})  # of events; the other columns become NULL


def _without(table: Table, name: str, value: Any, mentions: Mentions, keep: Callable[[str], bool] | None) -> Any:
    if isinstance(value, list):
        return [one for one in value if not (isinstance(one, str) and mentions.names(one))]
    if not isinstance(value, str) or not mentions.names(value):
        return value
    if (table.table, name) in _NOTHING:
        return _NOTHING[table.table, name]
    if table.holds_events and name not in _REWRITTEN:
        return None
    return mentions.without_json(value, keep=keep) if _is_json(value) else mentions.without(value)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
