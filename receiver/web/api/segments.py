"""`/segments`: stored filters over contacts, and who fulfils one now."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import asyncpg
from pydantic import Field, JsonValue, PlainValidator

from receiver.contacts import segments
from receiver.contacts.filter_faults import WrongFilter
from receiver.contacts.filter_words import describe
from receiver.contacts.filters import Condition, read_filter, to_json
from receiver.contacts.segments import Segment as Stored
from receiver.contacts.segments import UnknownSegment, UnreadableSegment
from receiver.store import segments as store
from receiver.store.queries import write_audit
from receiver.web.api.operations import Answered, Asked, Call, Found, Listing, Made, Operation, Page
from receiver.web.api.problems import Fault, Kind, Problem, not_found


def _read(value: Any) -> Condition:
    """Raises Problem with every fault."""
    try:
        return read_filter(value)
    except WrongFilter as error:
        faults = [Fault(detail=f"{place or 'the filter'} {said}", pointer="#/filter") for place, said in error.faults]
        raise Problem(Kind.INVALID, faults[0].detail, errors=faults) from None


Filter = Annotated[Condition, PlainValidator(_read, json_schema_input_type=Condition)]


class Segment(Answered):
    """`words`: the filter as a sentence."""

    name: str
    title: str
    filter: dict[str, JsonValue]
    words: str
    created_at: datetime
    updated_at: datetime


class Segments(Page):
    items: list[Segment]


class Member(Answered):
    id: int
    address: str
    external_id: str | None
    name: str | None
    locale: str | None
    time_zone: str | None
    tags: list[str]
    attributes: dict[str, JsonValue]
    created_at: datetime
    last_delivered_at: datetime | None
    last_opened_at: datetime | None
    last_clicked_at: datetime | None


class Members(Page):
    items: list[Member]


class Preview(Answered):
    """How many contacts there are, some of them, and the filter as a sentence."""

    count: int
    words: str
    sample: list[Member]


class Count(Answered):
    count: int


class SegmentPath(Asked):
    segment: Annotated[str, Field(max_length=100)]


class SavedSegment(Asked):
    filter: Filter
    title: Annotated[str | None, Field(max_length=200, description="null: an earlier title stays.")] = None


class AskedPreview(Asked):
    filter: Filter


class All(Listing):
    pass


async def _get(call: Call) -> Stored:
    try:
        return await segments.get(call.sql, call.path.segment)
    except UnknownSegment:
        raise not_found("segment") from None
    except UnreadableSegment as error:
        raise Problem(Kind.CONFLICT, str(error)) from None


def _shown(one: Stored) -> Segment:
    filter_ = json.loads(to_json(one.filter))
    return Segment(
        name=one.name, title=one.title, filter=filter_, words=one.words, created_at=one.created_at,
        updated_at=one.updated_at,
    )  # fmt: skip


def _member(row: asyncpg.Record) -> Member:
    values = {name: row[name] for name in Member.model_fields}
    return Member(**values | {"attributes": json.loads(row["attributes"])})


async def list_segments(call: Call) -> Found:
    asked: All = call.query
    try:
        found = await segments.all_segments(call.sql)
    except UnreadableSegment as error:
        raise Problem(Kind.CONFLICT, str(error)) from None
    rest = [one for one in found if call.after is None or one.name > call.after[0]]
    shown = rest[: asked.limit]
    return Found([_shown(one) for one in shown], [shown[-1].name] if len(shown) < len(rest) else None)


async def get_segment(call: Call) -> Segment:
    return _shown(await _get(call))


async def save_segment(call: Call) -> Segment | Made:
    asked: SavedSegment = call.body
    name: str = call.path.segment
    if not segments.is_name(name):
        detail = "a segment's name has at most 63 small letters, digits, - and _"
        raise Problem(Kind.INVALID, detail, errors=[Fault(detail=detail, parameter="segment")])
    made = await segments.save(call.sql, name, asked.filter, asked.title)
    await write_audit(call.sql, call.who, "segment_save", name)
    shown = _shown(await _get(call))
    return Made(shown, f"/segments/{name}") if made else shown


async def delete_segment(call: Call) -> None:
    if not await store.delete_segment(call.sql, call.path.segment):
        raise not_found("segment")
    await write_audit(call.sql, call.who, "segment_delete", call.path.segment)


async def count_members(call: Call) -> Count:
    found = await _get(call)
    return Count(count=await segments.count(call.sql, found.filter, datetime.now(UTC)))


async def list_members(call: Call) -> Found:
    asked: All = call.query
    found = await _get(call)
    after = int(call.after[0]) if call.after else 0
    rows = await segments.page(call.sql, found.filter, datetime.now(UTC), after=after, limit=asked.limit)
    return Found([_member(row) for row in rows], [str(rows[-1]["id"])] if len(rows) == asked.limit else None)


async def preview(call: Call) -> Preview:
    asked: AskedPreview = call.body
    filter_, now = asked.filter, datetime.now(UTC)
    rows = await segments.page(call.sql, filter_, now, limit=10)
    count = await segments.count(call.sql, filter_, now)
    return Preview(count=count, words=describe(filter_), sample=[_member(row) for row in rows])


_ONE: Final = "/segments/{segment}"

OPERATIONS: Final = (
    Operation(
        id="segments_list", method="GET", path="/segments", scope="segments:read", summary="List segments.",
        run=list_segments, query=All, answer=Segments, conflicts=True,
    ),
    Operation(
        id="segment_preview", method="POST", path="/segments/preview", scope="contacts:read",
        summary="Whom a filter finds, before it is stored.", run=preview, body=AskedPreview, answer=Preview,
    ),
    Operation(
        id="segment_get", method="GET", path=_ONE, scope="segments:read", summary="Show a segment.", run=get_segment,
        in_path=SegmentPath, answer=Segment, conflicts=True,
    ),
    Operation(
        id="segment_save", method="PUT", path=_ONE, scope="segments:write", summary="Store a segment.",
        run=save_segment, in_path=SegmentPath, body=SavedSegment, answer=Segment, makes=True,
    ),
    Operation(
        id="segment_delete", method="DELETE", path=_ONE, scope="segments:write", summary="Delete a segment.",
        run=delete_segment, in_path=SegmentPath,
    ),
    Operation(
        id="segment_count", method="GET", path=f"{_ONE}/count", scope="segments:read",
        summary="How many contacts are in a segment now.", run=count_members, in_path=SegmentPath, answer=Count,
        conflicts=True,
    ),
    Operation(
        id="segment_contacts", method="GET", path=f"{_ONE}/contacts", scope="contacts:read",
        summary="The contacts that are in a segment now.", run=list_members, in_path=SegmentPath, query=All,
        answer=Members, conflicts=True,
    ),
)  # fmt: skip
