"""Looking for a text in every row of every table of the database, ours or not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from receiver.mentions import Needles
from receiver.store.schema import schema_sql
from receiver.store.sql import Sql

BLOCKS: Final = 2048  # 16 MB of a table in one statement

# A team's own tables in the same database are searched too, but not changed.
OURS: Final = frozenset(re.findall(r"^CREATE TABLE (\w+)", schema_sql(), re.MULTILINE))

# A partition, and a copy that retention makes of one, has the columns of `events`.
_TABLES: Final = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name, c.relname AS table,
       n.oid = (SELECT relnamespace FROM pg_class WHERE oid = 'events'::regclass) AS here,
       pg_relation_size(c.oid) / current_setting('block_size')::bigint AS blocks,
       has_table_privilege(c.oid, 'SELECT') AS readable,
       (SELECT count(*) FROM pg_attribute a JOIN pg_attribute e ON e.attname = a.attname
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
          AND e.attrelid = 'events'::regclass AND e.attnum > 0 AND NOT e.attisdropped)
       = (SELECT count(*) FROM pg_attribute WHERE attrelid = 'events'::regclass AND attnum > 0 AND NOT attisdropped)
       AS holds_events
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_%'
ORDER BY n.nspname, c.relname
"""
_LOOK: Final = """
SELECT count(*) AS rows, array_agg(place) FILTER (
    WHERE low LIKE ANY ($1) AND low LIKE ANY ($2) AND whole ~ $3 OR low LIKE ANY ($4) OR whole LIKE ANY ($5)) AS places
FROM (
    SELECT searched_row.ctid AS place, searched_row::text AS whole, lower(searched_row::text COLLATE "C") AS low
    FROM {name} AS searched_row WHERE searched_row.ctid >= '({start},0)' AND searched_row.ctid < '({end},0)' OFFSET 0
) AS searched
"""
_ROWS: Final = "SELECT searched_row.ctid, searched_row.* FROM {name} AS searched_row WHERE searched_row.ctid = ANY ($1)"
_TEXTS: Final = "SELECT searched_row::text FROM {name} AS searched_row WHERE searched_row.ctid = ANY ($1)"

Place = tuple[int, int]  # a row's ctid


@dataclass(frozen=True, slots=True)
class Table:
    """`name`: as SQL takes it. `table`: its bare name. `ours`: of our schema, so that its rows may be changed."""

    name: str
    table: str
    ours: bool
    blocks: int
    readable: bool
    holds_events: bool


async def list_tables(sql: Sql) -> list[Table]:
    """Every table and materialized view of the database but Postgres's own."""
    return [
        Table(
            row["name"],
            row["table"],
            row["here"] and (row["table"] in OURS or row["holds_events"]),
            row["blocks"],
            row["readable"],
            row["holds_events"],
        )
        for row in await sql.fetch(_TABLES)
    ]


async def look(sql: Sql, table: Table, needles: Needles, start: int) -> tuple[int, list[Place]]:
    """In BLOCKS blocks from `start` on: the number of rows, and the places of those that may name the person."""
    row = await sql.fetchrow(_LOOK.format(name=table.name, start=start, end=start + BLOCKS), *needles)
    assert row is not None
    return row["rows"], row["places"] or []


async def rows_at(sql: Sql, table: Table, places: Sequence[Place], *, lock: bool) -> list[asyncpg.Record]:
    """The rows that are still there, with `ctid`; `lock`: nobody else changes them until the transaction ends."""
    return await sql.fetch(_ROWS.format(name=table.name) + (" FOR UPDATE" if lock else ""), list(places))


async def texts_at(sql: Sql, table: Table, places: Sequence[Place]) -> list[str]:
    """The same rows as one text each."""
    return [row[0] for row in await sql.fetch(_TEXTS.format(name=table.name), list(places))]
