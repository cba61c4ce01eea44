"""People as rows of a file: what `importing` reads back as it was."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, TextIO

from receiver.contacts.csv_cells import escaped
from receiver.contacts.people import ATTRIBUTE, as_json, cell_of, tags_cell

TOPIC: Final = "topics."
_FIELDS: Final = ("address", "external_id", "name", "locale", "time_zone")


class Writer(Protocol):
    """Writes one contact after the other; a row is one of `store.listing`."""

    def write(self, row: Mapping[str, Any]) -> None: ...


class JsonLines:
    """One object a line. What is not known is left out."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: Mapping[str, Any]) -> None:
        self._file.write(as_json(as_object(row)) + "\n")


class Csv:
    """One column for each field, attribute and topic (whose cell is the subscription's state)."""

    def __init__(self, file: TextIO, attributes: Sequence[str], topics: Sequence[str]) -> None:
        self._writer = csv.writer(file)  # ends lines by CR LF, hence quotes either of them within a cell
        self._attributes = attributes
        self._topics = topics
        names = [*_FIELDS, "tags", *(ATTRIBUTE + name for name in attributes), *(TOPIC + name for name in topics)]
        self._writer.writerow(names)

    def write(self, row: Mapping[str, Any]) -> None:
        attributes, topics = json.loads(row["attributes"]), json.loads(row["topics"])
        cells = [
            *(row[name] or "" for name in _FIELDS),
            tags_cell(row["tags"]),
            *(cell_of(attributes[name]) if name in attributes else "" for name in self._attributes),
            *(topics.get(name, "") for name in self._topics),
        ]
        self._writer.writerow(map(escaped, cells))


def as_object(row: Mapping[str, Any]) -> dict[str, Any]:
    """A contact as JSON."""
    found = {name: row[name] for name in _FIELDS if row[name] is not None}
    return found | {
        "tags": list(row["tags"]),
        "attributes": json.loads(row["attributes"]),
        "topics": json.loads(row["topics"]),
    }
