"""Files of people that teams and providers hand over: their encoding and format, and their rows, one by one."""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, NamedTuple, NoReturn, TypeAlias

from receiver.classify.addresses import normalize_address
from receiver.contacts.csv_cells import unescaped
from receiver.errors import ReceiverError

Format: TypeAlias = Literal["csv", "jsonl", "json"]
Progress: TypeAlias = Callable[[int], None]

MAX_ROW: Final = 1 << 20  # characters of a line of JSON, or of a cell
_BLOCK: Final = 1 << 20
_LOOK: Final = 1000  # lines of JSON whose keys are the columns
_OURS: Final = ("attributes.", "topics.")  # how columns of an export begin
_DELIMITERS: Final = ",;\t|"
_JSON_SUFFIXES: Final[Mapping[str, Format]] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv"}

csv.field_size_limit(MAX_ROW)


class WrongFile(ReceiverError):
    """The file cannot be read at all; says why and what to do."""


class Row(NamedTuple):
    """One row. `line`: where it begins, from 1. `cells`: as they stand in the file, for the file of rejected rows.

    `wrong`: why it cannot be read; empty where it can.
    """

    line: int
    values: Mapping[str, Any]
    cells: Sequence[str]
    wrong: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A file that was looked through. `sure`: its encoding was declared or fits, and was not only assumed.

    `columns`: the header's words; of JSON Lines, the keys that their beginning has. `header`: whether there is one.
    """

    path: Path
    size: int
    digest: bytes
    encoding: str
    sure: bool
    format: Format
    delimiter: str = ","
    columns: tuple[str, ...] = ()
    header: bool = True
    cells: tuple[str, ...] = field(default=())

    def rows(self, show: Progress = lambda _bytes: None) -> Iterator[Row]:
        """All rows, in bounded memory unless it is one JSON document; `show` gets the bytes that were read."""
        with self.path.open("rb") as file:
            text = TextIOWrapper(file, encoding=self.encoding, newline="")
            for number, row in enumerate(_rows(self, text)):
                if number % 1000 == 0:
                    show(file.tell())
                yield row
        show(self.size)


def format_of_export(path: Path) -> Format:
    """How an export of a provider is written: CSV, one JSON document, or JSON Lines."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        start = file.read(_BLOCK).lstrip()
    first, _, rest = start.partition("\n")
    if not start.startswith(("[", "{")):
        return "csv"
    try:
        value = decoded(first)
    except (ValueError, RecursionError):
        return "json"
    return "jsonl" if isinstance(value, dict) and _page(value) is None and rest.strip() else "json"


def look_through(path: Path, *, format_: Format | None = None, show: Progress = lambda _bytes: None) -> Listing:
    """Read a file once, for its encoding, columns and digest. Raises WrongFile, OSError."""
    with path.open("rb") as file:
        encoding, sure, digest = _encoding(file, show)
    size = path.stat().st_size
    with path.open(encoding=encoding, newline="") as text:
        start = text.read(_BLOCK)
    if not start.strip():
        raise WrongFile(f"{path} is empty")
    found = Listing(
        path=path, size=size, digest=digest, encoding=encoding, sure=sure, format=format_ or _format(path, start)
    )
    return _with_header(found, start) if found.format == "csv" else _with_keys(found)


def _encoding(file: BinaryIO, show: Progress) -> tuple[str, bool, bytes]:
    """Encoding, whether it is sure, and SHA-256."""
    digest, done = hashlib.sha256(), 0
    candidates: dict[str, Any] = {}
    declared: str | None = None
    while block := file.read(_BLOCK):
        if not done:
            declared = _declared(block)
            candidates = (
                {} if declared else {name: codecs.getincrementaldecoder(name)() for name in ("utf-8", "cp1252")}
            )
        digest.update(block)
        done += len(block)
        candidates = {name: decoder for name, decoder in candidates.items() if _decodes(decoder, block)}
        show(done)
    candidates = {name: decoder for name, decoder in candidates.items() if _decodes(decoder, b"", final=True)}
    encoding = declared or next(iter(candidates), "latin-1")
    return encoding, encoding not in ("cp1252", "latin-1"), digest.digest()


def _declared(block: bytes) -> str | None:
    """By its first bytes: a byte order mark, or the zeros that UTF-16 has in Western text."""
    if block.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    even, odd = block[:4096:2].count(0), block[1:4096:2].count(0)
    if max(even, odd) * 4 < len(block[:4096]):
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def _decodes(decoder: Any, block: bytes, *, final: bool = False) -> bool:
    try:
        decoder.decode(block, final)
    except UnicodeDecodeError:
        return False
    return True


def _format(path: Path, start: str) -> Format:
    known = _JSON_SUFFIXES.get(path.suffix.lower())
    return known or ("jsonl" if start.lstrip().startswith("{") else "csv")


def _with_header(found: Listing, start: str) -> Listing:
    """With delimiter and columns. A file of bare addresses needs no header. Raises WrongFile."""
    delimiter = _delimiter(start)
    try:
        first = next(cells for cells in csv.reader(StringIO(start, newline=""), delimiter=delimiter) if any(cells))
    except (csv.Error, StopIteration) as error:
        raise WrongFile(f"{found.path}: the first line cannot be read as a header") from error
    header = not any(_is_address(cell) for cell in first)
    if not header and len(first) > 1:
        raise WrongFile(f"{found.path} has no header: write the names of its columns into a line before the first")
    columns = tuple(_column(cell, number) for number, cell in enumerate(first, 1)) if header else ("address",)
    if twice := sorted({column for column in columns if columns.count(column) > 1}):
        raise WrongFile(f"{found.path} has several columns that are called {twice[0]}")
    return Listing(**_values(found) | {"delimiter": delimiter, "columns": columns, "header": header})


def _values(found: Listing) -> dict[str, Any]:
    return {name: getattr(found, name) for name in found.__slots__}


def _delimiter(start: str) -> str:
    """The one that the first line that is not empty has most of, outside of quotes."""
    line = next((line for line in StringIO(start, newline="") if line.strip()), "")
    bare = "".join(line.split('"')[::2])
    return max(_DELIMITERS, key=bare.count)


def _column(cell: str, number: int) -> str:
    cell = unescaped(cell)
    return cell if cell.startswith("attributes.") else cell.strip() or f"column {number}"


def _is_address(cell: str) -> bool:
    return "@" in cell and not cell.startswith(_OURS) and normalize_address(unescaped(cell)) is not None


def _with_keys(found: Listing) -> Listing:
    keys: dict[str, None] = {}
    for number, row in enumerate(found.rows()):
        if number >= _LOOK:
            break
        keys |= dict.fromkeys(row.values)
    return Listing(**_values(found) | {"columns": tuple(keys)})


def _rows(found: Listing, text: TextIOWrapper) -> Iterator[Row]:
    match found.format:
        case "csv":
            return _csv_rows(found, text)
        case "jsonl":
            return _json_lines(text)
        case "json":
            return _json_document(found, text)


def _csv_rows(found: Listing, text: TextIOWrapper) -> Iterator[Row]:
    reader = csv.reader(text, delimiter=found.delimiter, strict=True)
    waiting = found.header
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(line, {}, [], f"lines {line} to {reader.line_num}: {error}")
            continue
        if not any(cells):
            continue
        if waiting:
            waiting = False
            continue
        yield _csv_row(found.columns, line, cells)


def _csv_row(columns: Sequence[str], line: int, cells: list[str]) -> Row:
    """Missing cells are empty ones; too many cells show that something else is wrong."""
    if any(cells[len(columns) :]):
        return Row(line, {}, cells, f"{len(cells)} cells, but {len(columns)} columns")
    return Row(line, dict(zip(columns, map(unescaped, cells), strict=False)), cells)


def _json_lines(text: TextIOWrapper) -> Iterator[Row]:
    number, line = 0, ""
    while line := text.readline(MAX_ROW + 1):
        number += 1
        if len(line) > MAX_ROW:
            yield Row(number, {}, [], f"the line has more than {MAX_ROW} characters")
            while line and not line.endswith(("\n", "\r")):
                line = text.readline(MAX_ROW)
        elif line.strip():
            yield _json_row(number, line)


def _json_row(number: int, line: str) -> Row:
    try:
        value = decoded(line)
    except (ValueError, RecursionError) as error:
        return Row(number, {}, [line.strip()], f"no JSON: {error}")
    if not isinstance(value, dict):
        return Row(number, {}, [line.strip()], "no JSON object: one object a line is expected")
    return Row(number, value, [line.strip()])


def _json_document(found: Listing, text: TextIOWrapper) -> Iterator[Row]:
    """The objects of a document, whatever stands around them. Raises WrongFile."""
    try:
        value = decoded(text.read())
    except (ValueError, RecursionError) as error:
        raise WrongFile(f"{found.path} is no JSON: {error}") from error
    for number, one in enumerate(_objects(value), 1):
        wrong = "" if isinstance(one, dict) else "no JSON object"
        yield Row(number, {} if wrong else one, [json.dumps(one, ensure_ascii=False)], wrong)


def _objects(value: Any) -> Iterator[Any]:
    """Of lists and of pages, which are objects with a list of objects; plain texts are addresses."""
    if isinstance(value, list):
        for one in value:
            yield from _objects(one)
    elif isinstance(value, dict) and (page := _page(value)) is not None:
        yield from _objects(page)
    else:
        yield {"address": value} if isinstance(value, str) else value


def _page(value: Mapping[str, Any]) -> list[Any] | None:
    lists = (one for one in value.values() if isinstance(one, list))
    return next((one for one in lists if all(isinstance(inner, dict) for inner in one)), None)


def decoded(text: str) -> Any:
    """A JSON value. Raises ValueError for what is in no JSON standard, or no number that we could keep."""
    return json.loads(text, parse_constant=_no_constant, parse_float=_finite)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number is too large")
    return value
