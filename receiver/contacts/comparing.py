"""Two lists of suppressions side by side: ours, and a provider's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import asyncpg

from receiver.contacts.files import Listing, Progress
from receiver.contacts.people import WrongRow
from receiver.contacts.suppression_arrivals import Item, Ours, SuppressionArrivals, outcome
from receiver.contacts.suppression_files import LIST, Reason
from receiver.store import imports
from receiver.store.suppression_list import Firm, firm_suppressions

_CHUNK: Final = 2000


class Held(NamedTuple):
    """Somebody on one of the provider's lists."""

    address: str
    reason: Reason
    list: str


@dataclass(slots=True)
class Comparison:
    """`lifted_here`: what was lifted here and is still held there. `only_here`: whose address we know.

    `unknown`: how many others there are here alone, of whom only the hash is left. `rows`: of the provider's lists.
    `wrong`: rows of it that cannot be read.
    """

    rows: int = 0
    wrong: int = 0
    only_there: list[Held] = field(default_factory=list)
    lifted_here: list[Held] = field(default_factory=list)
    only_here: list[Firm] = field(default_factory=list)
    unknown: int = 0


async def compare(
    connection: asyncpg.Connection,
    listing: Listing | None,
    arrivals: SuppressionArrivals,
    ours: Ours,
    *,
    marketing: bool,
    show: Progress = lambda _rows: None,
) -> Comparison:
    """`listing`: the provider's lists; None: they are empty. `marketing`: it can hold back marketing mail alone.

    What is there because we have put it there says nothing of its own, and goes when we have lifted it.
    """
    firm = {one.address_hash: one for one in await firm_suppressions(connection)}
    found, there = Comparison(), set[bytes]()
    for chunk in _chunks(listing, arrivals, found):
        for item, name, row, what in await _judged(connection, arrivals, chunk):
            there.add(row)
            held = Held(item.address, item.reason, name)
            if arrivals.is_ours(item, ours):
                found.lifted_here += [] if row in firm else [held]
            elif what == "new":
                found.only_there.append(held)
            elif what == "stays_lifted" and not (row in firm and firm[row].all_mail):
                found.lifted_here.append(held)
        show(found.rows)
    missing = [one for one in firm.values() if one.address_hash not in there and (one.all_mail or marketing)]
    found.only_here = [one for one in missing if one.address is not None]
    found.unknown = len(missing) - len(found.only_here)
    return found


def _chunks(
    listing: Listing | None, arrivals: SuppressionArrivals, found: Comparison
) -> Iterator[list[tuple[Item, str]]]:
    """Items with their list. Who has left a topic alone is not held back from all the rest, and left out."""
    chunk: list[tuple[Item, str]] = []
    for row in listing.rows() if listing else ():
        found.rows += 1
        try:
            item = arrivals.read(row)
        except WrongRow:
            found.wrong += 1
            continue
        if item is not None and not item.topics:
            chunk.append((item, str(row.values.get(LIST) or "")))
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    yield chunk


async def _judged(
    connection: asyncpg.Connection, arrivals: SuppressionArrivals, chunk: Sequence[tuple[Item, str]]
) -> list[tuple[Item, str, bytes, str]]:
    """With the address's hash, and what an import would make of it."""
    rows = [arrivals.row_of(item) for item, _ in chunk]
    before = await imports.known_suppressions(connection, [row[:5] for row in rows])
    return [
        (item, name, row.address_hash, outcome(row, known))
        for (item, name), row, known in zip(chunk, rows, before, strict=True)
    ]
