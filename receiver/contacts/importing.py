"""Imports in chunks: each is one transaction with its place in the file, so that what was interrupted goes on there."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Generic, NamedTuple, Protocol, Self, TextIO, TypeVar

import asyncpg

from receiver.contacts.csv_cells import escaped
from receiver.contacts.files import Listing, Progress, Row
from receiver.contacts.people import WrongRow
from receiver.private_files import MODE
from receiver.store import imports

T = TypeVar("T")

CHUNK: Final = 2000  # rows in one transaction
_BITS: Final = 1 << 27  # of `Seen`: 16 MB
UNREADABLE: Final = "cannot be read"


@dataclass(slots=True)
class Report:
    """What became of the rows, counted. `rejected` by reason; `outcomes` by what was or would be done.

    `line`: where the last row begins.
    """

    rows: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    topics: dict[str, Counter[str]] = field(default_factory=dict)
    line: int = 0

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Report:
        topics = {name: Counter(counts) for name, counts in stored.get("topics", {}).items()}
        return cls(
            stored.get("rows", 0),
            Counter(stored.get("outcomes", {})),
            Counter(stored.get("rejected", {})),
            topics,
            stored.get("line", 0),
        )

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


class Done(NamedTuple):
    """What became of the good rows of a chunk. `rejected`: by their number in it, what only the database knew."""

    outcomes: Counter[str]
    topics: Mapping[str, Counter[str]]
    rejected: Mapping[int, WrongRow]


class Task(Protocol[T]):
    """What is imported: how a row is read, what makes two rows the same one, and how a chunk is stored."""

    def read(self, row: Row) -> T | None:
        """Raises WrongRow; None: it is left out, and counted as such."""

    def key(self, item: T) -> str | None:
        """Of rows with the same key the last one counts; None: they have none."""

    async def store(self, connection: asyncpg.Connection, items: Sequence[T], *, write: bool) -> Done:
        """Store a chunk, or only say what would become of it. Within a transaction."""


class Seen:
    """Which rows a later one replaces, in bounded memory: what is seen once costs a bit, what comes again an entry."""

    def __init__(self) -> None:
        self._bits = bytearray(_BITS // 8)
        self._last: dict[bytes, int] = {}

    def note(self, key: str, line: int) -> None:
        digest = _digest(key)
        byte, bit = divmod(int.from_bytes(digest[:4]) % _BITS, 8)
        if self._bits[byte] >> bit & 1:
            self._last[digest] = line
        self._bits[byte] |= 1 << bit

    def replaced(self, key: str, line: int) -> bool:
        return bool(self._last) and self._last.get(_digest(key), line) != line


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=16).digest()


class Rejects:
    """The rows that were not taken, as they stood, with line and reason: a CSV file that can be mended and imported.

    Of what an interrupted run has written, the rows up to the line `keep` stay: the others come again.
    """

    def __init__(self, path: Path, listing: Listing, *, keep: int = 0) -> None:
        self.path = path
        self._columns = listing.columns if listing.format == "csv" else ("row",)
        self._keep = keep
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, row: Row, why: WrongRow) -> None:
        file = self._file = self._file or self._opened()
        cells = [*row.cells, *[""] * (len(self._columns) - len(row.cells))]
        csv.writer(file).writerow([str(row.line), str(why), *map(escaped, cells)])

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def _opened(self) -> TextIO:
        kept = [row for row in self._earlier() if row[0].isdigit() and int(row[0]) <= self._keep]
        file = self.path.open("w", encoding="utf-8", newline="")
        self.path.chmod(MODE)
        csv.writer(file).writerow(["reject_line", "reject_reason", *map(escaped, self._columns)])
        csv.writer(file).writerows(kept)
        return file

    def _earlier(self) -> Iterator[list[str]]:
        if self._keep and self.path.exists():
            with self.path.open(encoding="utf-8", newline="") as file:
                yield from (row for row in csv.reader(file) if row)


def fingerprint(listing: Listing, options: Mapping[str, Any]) -> bytes:
    """The same for the same file and the same wishes: what an interrupted import is found by."""
    return hashlib.sha256(listing.digest + json.dumps(options, sort_keys=True, default=str).encode()).digest()


def look_for_doubles(listing: Listing, task: Task[Any], show: Progress) -> tuple[Seen, int]:
    """Read the file for rows that later ones replace; also the number of rows."""
    seen, rows = Seen(), 0
    for rows, row in enumerate(listing.rows(show), 1):  # noqa: B007 - the last number is the count
        item = _attempt(task, row)
        if not isinstance(item, WrongRow | None) and (key := task.key(item)) is not None:
            seen.note(key, row.line)
    return seen, rows


def _attempt(task: Task[T], row: Row) -> T | WrongRow | None:
    if row.wrong:
        return WrongRow(UNREADABLE, row.wrong)
    try:
        return task.read(row)
    except WrongRow as error:
        return error


@dataclass(slots=True)
class Import(Generic[T]):
    """One run over a file. `id_`: its row in `imports`; None: only look."""

    listing: Listing
    task: Task[T]
    seen: Seen
    rejects: Rejects
    report: Report
    id_: int | None = None

    async def run(self, connection: asyncpg.Connection, show: Progress) -> None:
        """Go on after the rows that the report counts. Raises imports.TakenOver."""
        for chunk in _chunks(self.listing.rows(), self.report.rows):
            async with connection.transaction():
                await self._chunk(connection, chunk)
            show(self.report.rows)
        if self.id_ is not None:
            await imports.finish(connection, self.id_)

    async def _chunk(self, connection: asyncpg.Connection, rows: Sequence[Row]) -> None:
        before = self.report.rows
        if self.id_ is not None:
            await imports.lock(connection, self.id_, before)
        taken, items = self._sorted(rows)
        done = await self.task.store(connection, items, write=self.id_ is not None) if items else None
        if done is not None:
            self._count(done, taken)
        self.report.rows += len(rows)
        self.report.line = rows[-1].line
        self.rejects.flush()
        if self.id_ is not None:
            await imports.advance(connection, self.id_, self.report.rows, self.report.as_json())

    def _sorted(self, rows: Sequence[Row]) -> tuple[list[Row], list[T]]:
        """The rows that are to be stored, and what they say."""
        taken, items = list[Row](), list[T]()
        for row in rows:
            item = _attempt(self.task, row)
            if isinstance(item, WrongRow):
                self._reject(row, item)
            elif item is None:
                self.report.outcomes["left_out"] += 1
            elif (key := self.task.key(item)) is not None and self.seen.replaced(key, row.line):
                self.report.outcomes["replaced"] += 1
            else:
                taken.append(row)
                items.append(item)
        return taken, items

    def _reject(self, row: Row, why: WrongRow) -> None:
        self.report.rejected[why.reason] += 1
        self.rejects.write(row, why)

    def _count(self, done: Done, taken: Sequence[Row]) -> None:
        self.report.outcomes += done.outcomes
        for name, counts in done.topics.items():
            self.report.topics[name] = self.report.topics.get(name, Counter()) + counts
        for number, why in sorted(done.rejected.items()):
            self._reject(taken[number], why)


def _chunks(rows: Iterator[Row], skip: int) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    for number, row in enumerate(rows, 1):
        if number <= skip:
            continue
        chunk.append(row)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
