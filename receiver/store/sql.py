"""What every function here needs of a connection, so that a handler's transaction can stand in for one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import asyncpg


class Sql(Protocol):
    """Runs single statements with `$1`, `$2`, ... as parameters. asyncpg's connections and pools fit."""

    async def execute(self, query: str, *args: Any) -> str:
        """Run a statement; returns its command tag, such as `UPDATE 3`."""

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """All rows."""

    async def fetchrow(self, query: str, *args: Any) -> asyncpg.Record | None:
        """The first row."""

    async def fetchval(self, query: str, *args: Any) -> Any:
        """The first column of the first row."""


def array(values: Iterable[object]) -> str:
    """The text of an array, for a parameter like `$1::text::int8[]`; no value is NULL, empty, or has a quote in it.

    A list costs the driver more, since it asks of each member whether it is iterable.
    """
    members = '","'.join(map(str, values))
    return f'{{"{members}"}}' if members else "{}"
