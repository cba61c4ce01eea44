"""What an import of contacts does with people: fields are merged, consent is recorded, and nobody is brought back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg

from receiver.contacts.files import Row
from receiver.contacts.importing import Done
from receiver.contacts.people import Person, Reading, WrongRow, as_json
from receiver.store import imports
from receiver.store.consent import Action, Statement, record
from receiver.vault import Vault

_TAKEN: Final = "external_id is another contact's"
_STATEMENTS: Final[dict[str, Action]] = {"subscribed": "subscribed", "pending": "requested"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """The import's wishes. `consented_at`: when they agreed, where no column says so; None: `began_at`, if unknown.

    `source`: as in consent_log. `wording`: what they agreed to. `erased`: let in people who were erased.
    """

    reading: Reading
    vault: Vault
    topics: Sequence[str]
    tags: tuple[str, ...]
    source: str
    began_at: datetime
    wording: str | None = None
    consented_at: datetime | None = None
    erased: bool = False

    def read(self, row: Row) -> Person:
        """Raises WrongRow."""
        return self.reading.person(row.values)

    def key(self, person: Person) -> str:
        return person.address.key

    async def store(self, connection: asyncpg.Connection, people: Sequence[Person], *, write: bool) -> Done:
        hashes = [self.vault.address_hash(person.address.key) for person in people]
        rows = [self._row(number, one, hashes[number]) for number, one in enumerate(people)]
        judged = await imports.judge(connection, rows, erased=self.erased)
        outcomes = Counter(row["outcome"] for row in judged)
        taken = {row["number"]: WrongRow(_TAKEN) for row in judged if row["outcome"] == "taken"}
        outcomes["suppressed"] = sum(row["suppressed"] for row in judged)
        del outcomes["taken"]
        if write:
            await imports.merge(connection, erased=self.erased)
        return Done(outcomes, await self._consent(connection, people, hashes, write=write), taken)

    def _row(self, number: int, person: Person, address_hash: bytes) -> tuple[Any, ...]:
        key, display = person.address
        return (
            number,
            key,
            address_hash,
            display if display != key else None,
            person.external_id,
            person.name,
            person.locale,
            person.time_zone,
            list(dict.fromkeys((*person.tags, *self.tags))),
            as_json(person.attributes),
            person.consented_at or self.consented_at,
        )

    async def _consent(
        self, connection: asyncpg.Connection, people: Sequence[Person], hashes: Sequence[bytes], *, write: bool
    ) -> dict[str, Counter[str]]:
        counts: dict[str, Counter[str]] = {}
        if not self.topics:
            return counts
        statements: list[Statement] = []
        for number, topic, brand, answer in await imports.consent(
            connection, self.topics, vouched=self.wording is not None
        ):
            counts.setdefault(topic, Counter())[answer] += 1
            if answer in _STATEMENTS:
                person = people[number]
                statements.append(
                    Statement(
                        address_hash=hashes[number],
                        address=person.address.key,
                        action=_STATEMENTS[answer],
                        at=person.consented_at or self.consented_at or self.began_at,
                        topic=topic,
                        brand=brand,
                        source=self.source,
                        method="import",
                        wording=self.wording,
                    )
                )
        if write:
            await record(connection, statements)
        return counts
