"""A listing as CSV (RFC 4180), for spreadsheets."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

from pydantic import BaseModel

from receiver.contacts.csv_cells import escaped


def to_csv(model: type[BaseModel], items: Sequence[BaseModel]) -> str:
    """One line for each item, below the names of the columns: those of the model."""
    into = io.StringIO()
    writer = csv.writer(into)
    names = list(model.model_fields)
    writer.writerow(names)
    for item in items:
        values = item.model_dump(mode="json")
        writer.writerow([escaped(_text(values[name])) for name in names])
    return into.getvalue()


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case str():
            return value
        case bool() | dict() | list():
            return json.dumps(value, ensure_ascii=False)
        case _:
            return str(value)
