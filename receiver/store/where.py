"""The conditions of a listing: SQL of our own constants, values as parameters, and only those that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Where:
    """Conditions that all hold. In each, `{}` stands for its value's parameter, which has to be cast."""

    conditions: list[str] = field(default_factory=list)
    values: list[object] = field(default_factory=list)

    def add(self, condition: str, value: object) -> None:
        """A condition on a value; None: it was not asked for."""
        if value is not None:
            self.conditions.append(condition.format(self.parameter(value)))

    def parameter(self, value: object) -> str:
        """A further value, and how the statement calls it."""
        self.values.append(value)
        return f"${len(self.values)}"

    def after(self, columns: Sequence[str], types: Sequence[str], place: Sequence[object] | None, *, to: str) -> None:
        """Rows that come after a place in the order of these columns. `to`: `>` or `<`."""
        if place is not None:
            given = (f"{self.parameter(value)}::{type_}" for value, type_ in zip(place, types, strict=True))
            self.conditions.append(f"({', '.join(columns)}) {to} ({', '.join(given)})")

    def __str__(self) -> str:
        return " AND ".join(self.conditions) or "true"
