"""What an import of suppressions does: each row is evidence of the time that it states, and never lowers anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import asyncpg

from receiver.classify.addresses import domain_of, normalize_address
from receiver.classify.mailboxes import mailbox_provider
from receiver.contacts.files import Row
from receiver.contacts.importing import Done
from receiver.contacts.people import WrongRow, storable
from receiver.contacts.suppression_files import LIST, PRESETS, Reason, plain
from receiver.contacts.times import WrongTime, time_in
from receiver.store import imports, moves
from receiver.store.consent import SAID, Statement, record
from receiver.store.suppressions import SuppressionRow, suppress
from receiver.vault import Vault

_NOTE = 1000  # characters


class Item(NamedTuple):
    """One address, normalized, and what it is suppressed for. `topics`: what it has left instead."""

    address: str
    reason: Reason
    at: datetime
    note: str
    topics: tuple[str, ...]


class Ours(NamedTuple):
    """Whom we have put on a provider's lists, and the reason for which they are there then."""

    reason: Reason
    address_hashes: frozenset[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class SuppressionArrivals:
    """The import's wishes. `as_of`: the time of rows that state none. `reason`: what rows are taken for that say none.

    `topic`: what unsubscribes are from, where the list is that of one topic. `ours`: what is left out.
    """

    preset: str
    which: str
    vault: Vault
    as_of: datetime
    now: datetime
    brand: str = ""
    topic: str | None = None
    reason: Reason | None = None
    ours: Ours | None = None

    def read(self, row: Row) -> Item | None:
        """Raises WrongRow."""
        item = self._read(row)
        return None if item and self.ours and self.is_ours(item, self.ours) else item

    def is_ours(self, item: Item, ours: Ours) -> bool:
        """Whether it is there only because we have put it there."""
        return item.reason == ours.reason and self.vault.address_hash(item.address) in ours.address_hashes

    def _read(self, row: Row) -> Item | None:
        entry = PRESETS[self.preset].read(plain(row.values), row.values.get(LIST) or self.which)
        if entry is None:
            return None
        address = normalize_address(entry.address) if storable(entry.address) else None
        if address is None:
            raise WrongRow("no usable address" if entry.address else "no address")
        reason = self.reason if self.reason and entry.reason == "imported" else entry.reason
        topics = (self.topic,) if self.topic and reason == "unsubscribe" else entry.topics
        if "" in topics:
            raise WrongRow("no topic", "the row does not say what was left, which is not everything: say --topic")
        note = entry.note.replace("\0", "")[:_NOTE]
        if not all(map(storable, (note, *topics))):
            raise WrongRow("a note cannot be stored")
        return Item(address, reason, self._time(entry.at), note, topics)

    def _time(self, text: object) -> datetime:
        try:
            return time_in(text, now=self.now) or self.as_of
        except WrongTime as error:
            raise WrongRow("wrong time", str(error)) from None

    def key(self, _item: Item) -> None:
        """All rows count: the earliest and the latest time of each."""

    async def store(self, connection: asyncpg.Connection, items: Sequence[Item], *, write: bool) -> Done:
        merged = self._merged(items)
        known = await imports.known_suppressions(connection, [row[:5] for row in merged])
        outcomes = Counter(outcome(row, before) for row, before in zip(merged, known, strict=True))
        statements = [one for item in items for one in self._statements(item)]
        left = [one for one in statements if one.topic]
        counts = Counter(await imports.leaving(connection, [(one.address_hash, one.topic, one.at) for one in left]))
        if write:
            items = [*items, *await self._of_moved(connection, items)]
            await suppress(connection, self._merged(items))
            await record(connection, [one for item in items for one in self._statements(item)])
        return Done(outcomes + counts, {}, {})

    async def _of_moved(self, connection: asyncpg.Connection, items: Sequence[Item]) -> list[Item]:
        """What people said by an earlier address of theirs holds for the present one too."""
        said = [(self.vault.address_hash(item.address), item) for item in items if item.reason in SAID]
        now = await moves.moved(connection, [hashed for hashed, _ in said]) if said else {}
        return [item._replace(address=now[hashed][0]) for hashed, item in said if hashed in now]

    def _merged(self, items: Sequence[Item]) -> list[SuppressionRow]:
        """One row for each suppression."""
        rows: dict[tuple[bytes, str], SuppressionRow] = {}
        for item in items:
            if item.topics:
                continue
            row = self.row_of(item)
            before = rows.get(row[:2], row)
            since, last = min(before.since, row.since), max(before.last_at, row.last_at)
            rows[row[:2]] = row._replace(since=since, last_at=last)
        return list(rows.values())

    def row_of(self, item: Item) -> SuppressionRow:
        """The suppression that it is evidence of."""
        marketing = item.reason in SAID  # which concerns marketing mail alone
        return SuppressionRow(
            address_hash=self.vault.address_hash(item.address),
            reason=item.reason,
            scope="marketing" if marketing else "all",
            brand=self.brand if marketing else "",
            topic="",
            since=item.at,
            last_at=item.at,
            source=f"import:{self.preset}",
            event_id=None,
            echo=False,
            expires_at=None,
            note=item.note,
            recipient_domain=domain_of(item.address),
            mailbox_provider=mailbox_provider(domain_of(item.address)),
        )

    def _statements(self, item: Item) -> list[Statement]:
        marketing = item.reason in SAID
        return [
            Statement(
                address_hash=self.vault.address_hash(item.address),
                address=item.address,
                action=SAID.get(item.reason, "suppressed"),
                at=item.at,
                topic=topic,
                brand=self.brand if marketing else "",
                source=f"import:{self.preset}",
                method="import",
                wording=item.note or None,
                detail={} if marketing else {"reason": item.reason, "scope": "all"},
            )
            for topic in item.topics or ("",)
        ]


def outcome(row: SuppressionRow, before: asyncpg.Record) -> str:
    """What a row does to what is there: new, stays_lifted, changed or unchanged."""
    if before["since"] is None:
        return "new"
    if before["lifted_at"] is not None and max(before["last_at"], row.last_at) <= before["lifted_at"]:
        return "stays_lifted"
    if before["echo"] or row.since < before["since"] or row.last_at > before["last_at"]:
        return "changed"
    return "unchanged"
