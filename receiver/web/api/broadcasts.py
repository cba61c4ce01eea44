"""`/broadcasts`: a template to everybody who is subscribed to a topic, or to those of them in a segment."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, Final

import asyncpg
from pydantic import BeforeValidator, Field, JsonValue

from receiver.sending import broadcasts
from receiver.sending.broadcasts import NameTaken, NoSuchBroadcast, Plan, Wanted, WrongBroadcast, WrongState
from receiver.store import broadcasts as store
from receiver.store.broadcasts import State
from receiver.store.queries import write_audit
from receiver.web.api.operations import Answered, Asked, Call, Found, Listing, Made, Operation, Page, whole
from receiver.web.api.problems import Kind, Problem, not_found, wrong
from receiver.web.api.values import Moment, Reason

Text = Annotated[str, Field(max_length=200)]


class Broadcast(Answered):
    """`expected`: recipients when it was made. `queued`: messages that are in the outbox, or were."""

    id: int
    name: str
    template: str
    topic: str
    segment: str | None
    account: str | None
    data: dict[str, JsonValue]
    per_minute: int | None
    state: Annotated[State, Field(description="done: all are queued.")]
    reason: str
    expected: int
    queued: int
    created_at: datetime
    created_by: str
    changed_at: datetime


class BroadcastInFull(Broadcast):
    messages: Annotated[dict[str, int], Field(description="How many are in each state.")]


class Broadcasts(Page):
    items: list[Broadcast]


class Recipient(Answered):
    address: str
    name: str | None


class BroadcastPreview(Answered):
    """How many would get it now, and some of them."""

    count: int
    sample: list[Recipient]


class BroadcastPath(Asked):
    broadcast: Annotated[str, Field(max_length=100)]


class NewBroadcast(Asked):
    """`at`: not earlier."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="One broadcast of a name is made.")]
    template: Annotated[str, Field(min_length=1, max_length=100)]
    topic: Annotated[str, Field(max_length=200, description="Only who is subscribed to it gets it.")]
    segment: Annotated[str | None, Field(max_length=100, description="Only who of them is in it.")] = None
    account: Text | None = None
    data: dict[str, JsonValue] = Field({}, description="Values for the template.")
    per_minute: Annotated[
        int | None, Field(ge=1, le=1_000_000, description="Messages in a minute."), BeforeValidator(whole)
    ] = None
    at: Moment | None = None


class Pause(Asked):
    why: Reason


class All(Listing):
    pass


async def _plan(call: Call) -> Plan:
    """Raises Problem."""
    asked: NewBroadcast = call.body
    wanted = Wanted(**{name: getattr(asked, name) for name in NewBroadcast.model_fields})
    try:
        return await broadcasts.plan(call.sql, call.means, wanted)
    except WrongBroadcast as error:
        raise wrong(f"/{error.field}" if error.field else "", error.why) from None


async def preview(call: Call) -> BroadcastPreview:
    planned = await _plan(call)
    sample = [Recipient(address=row["address"], name=row["name"]) for row in planned.sample]
    return BroadcastPreview(count=planned.expected, sample=sample)


async def start(call: Call) -> Made:
    planned = await _plan(call)
    name = planned.wanted.name
    try:
        row = await broadcasts.start(call.sql, planned, call.who)
    except NameTaken as error:
        raise Problem(Kind.CONFLICT, error.why) from None
    await write_audit(call.sql, call.who, "broadcast_start", f"{name}: {planned.expected} recipients")
    return Made(_shown(row), f"/broadcasts/{name}")


async def list_broadcasts(call: Call) -> Found:
    asked: All = call.query
    rows = await store.page(call.sql, after=int(call.after[0]) if call.after else None, limit=asked.limit)
    return Found(list(map(_shown, rows)), [str(rows[-1]["id"])] if len(rows) == asked.limit else None)


async def get(call: Call) -> BroadcastInFull:
    try:
        row = await broadcasts.get(call.sql, call.path.broadcast)
    except NoSuchBroadcast:
        raise not_found("broadcast") from None
    return BroadcastInFull(**_values(row), messages=await store.counts(call.sql, row["id"]))


async def pause(call: Call) -> BroadcastInFull:
    asked: Pause = call.body
    return await _change(call, "pause", lambda name: broadcasts.pause(call.sql, name, asked.why))


async def resume(call: Call) -> BroadcastInFull:
    return await _change(call, "resume", lambda name: broadcasts.resume(call.sql, name))


async def cancel(call: Call) -> BroadcastInFull:
    return await _change(call, "cancel", lambda name: broadcasts.cancel(call.sql, name))


async def _change(call: Call, what: str, change: Callable[[str], Awaitable[object]]) -> BroadcastInFull:
    name: str = call.path.broadcast
    try:
        await change(name)
    except NoSuchBroadcast:
        raise not_found("broadcast") from None
    except WrongState as error:
        raise Problem(Kind.CONFLICT, str(error)) from None
    await write_audit(call.sql, call.who, f"broadcast_{what}", name)
    return await get(call)


def _values(row: asyncpg.Record) -> dict[str, Any]:
    return {name: row[name] for name in Broadcast.model_fields} | {"data": json.loads(row["data"])}


def _shown(row: asyncpg.Record) -> Broadcast:
    return Broadcast(**_values(row))


_ONE: Final = "/broadcasts/{broadcast}"

OPERATIONS: Final = (
    Operation(
        id="broadcasts_list", method="GET", path="/broadcasts", scope="sends:read",
        summary="List broadcasts, the newest first.", run=list_broadcasts, query=All, answer=Broadcasts,
    ),
    Operation(
        id="broadcast_start", method="POST", path="/broadcasts", scope="broadcasts:write",
        summary="Start a broadcast.", run=start, body=NewBroadcast, answer=Broadcast, makes=True, conflicts=True,
    ),
    Operation(
        id="broadcast_preview", method="POST", path="/broadcasts/preview", scope="broadcasts:write",
        summary="How many would get it, and whether it could be started.", run=preview, body=NewBroadcast,
        answer=BroadcastPreview,
    ),
    Operation(
        id="broadcast_get", method="GET", path=_ONE, scope="sends:read", summary="Show a broadcast.", run=get,
        in_path=BroadcastPath, answer=BroadcastInFull,
    ),
    Operation(
        id="broadcast_pause", method="POST", path=f"{_ONE}/pause", scope="broadcasts:write",
        summary="Nothing more of it is sent, for now.", run=pause, in_path=BroadcastPath, body=Pause,
        answer=BroadcastInFull, conflicts=True,
    ),
    Operation(
        id="broadcast_resume", method="POST", path=f"{_ONE}/resume", scope="broadcasts:write",
        summary="It goes on where it was.", run=resume, in_path=BroadcastPath, answer=BroadcastInFull, conflicts=True,
    ),
    Operation(
        id="broadcast_cancel", method="POST", path=f"{_ONE}/cancel", scope="broadcasts:write",
        summary="End it for good, with what waits in the outbox.", run=cancel, in_path=BroadcastPath,
        answer=BroadcastInFull, conflicts=True,
    ),
)  # fmt: skip
