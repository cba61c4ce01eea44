"""Segments: named filters, and the contacts that fulfil one now."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from receiver.contacts.filter_faults import WrongFilter
from receiver.contacts.filter_sql import where
from receiver.contacts.filter_words import describe
from receiver.contacts.filters import Condition, parse_filter, to_json
from receiver.errors import ReceiverError
from receiver.faults import did_you_mean
from receiver.store import segments as store
from receiver.store.sql import Sql

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)


class UnknownSegment(ReceiverError):
    """There is no segment of this name; the message suggests one."""


class UnreadableSegment(ReceiverError):
    """A newer release has stored a filter that this one does not know."""


class WrongName(ReceiverError):
    """A text that cannot name a segment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A row of `segments`, its filter read."""

    name: str
    title: str
    filter: Condition
    created_at: datetime
    updated_at: datetime

    @property
    def words(self) -> str:
        """The filter as a sentence."""
        return describe(self.filter)


def is_name(text: str) -> bool:
    """Whether a segment can be called so."""
    return _NAME.fullmatch(text) is not None


async def all_segments(sql: Sql) -> list[Segment]:
    """Every segment, by name. Raises UnreadableSegment."""
    return [_segment(row) for row in await store.list_segments(sql)]


async def get(sql: Sql, name: str) -> Segment:
    """Raises UnknownSegment, UnreadableSegment."""
    row = await store.get_segment(sql, name)
    if row is None:
        known = [one["name"] for one in await store.list_segments(sql)]
        hint = did_you_mean(name, known) or "; `receiver segments` shows those there are"
        raise UnknownSegment(f"there is no segment {name}{hint}")
    return _segment(row)


async def save(sql: Sql, name: str, filter_: Condition, title: str | None = None) -> bool:
    """Store it, also in the place of an earlier one, whose title stays if none is given. Whether it is new.

    Raises WrongName.
    """
    if not is_name(name):
        raise WrongName("a segment's name has at most 63 small letters, digits, - and _, such as trial-clickers")
    return await store.save_segment(sql, name, to_json(filter_), title)


async def count(sql: Sql, filter_: Condition, now: datetime) -> int:
    """How many contacts are in it. Within `store.segments.looking` where somebody waits."""
    return await store.count(sql, *where(filter_, now))


async def page(
    sql: Sql, filter_: Condition, now: datetime, *, after: int = 0, limit: int = 100
) -> list[asyncpg.Record]:
    """Contacts in it, by id; the last one's id is the next page's `after`."""
    return await store.page(sql, *where(filter_, now, few=True), after=after, limit=limit)


def members(connection: asyncpg.Connection, filter_: Condition, now: datetime) -> AsyncIterator[asyncpg.Record]:
    """All contacts that are in it at one moment, in bounded memory and no order. Within a transaction."""
    return store.members(connection, *where(filter_, now))


def _segment(row: asyncpg.Record) -> Segment:
    try:
        filter_ = parse_filter(row["filter"])
    except WrongFilter as error:
        place, said = error.faults[0]
        raise UnreadableSegment(
            f"this release cannot read the filter of segment {row['name']}, which another one has stored: "
            f"{place or 'it'} {said}. Store the segment anew, or delete it"
        ) from None
    return Segment(**dict(row) | {"filter": filter_})
