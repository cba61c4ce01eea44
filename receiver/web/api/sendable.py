"""`/sendable`: who may be mailed, and why not; the question to ask before each send."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from pydantic import Field

from receiver.contacts.addresses import WrongAddress, entered
from receiver.store import consent
from receiver.store.consent import Stream
from receiver.web.api.operations import Answered, Asked, Call, Operation

MOST: Final = 1000  # addresses
_AT_ONCE: Final = 50  # addresses that are checked before others have their turn

Given = Annotated[str, Field(max_length=320, description="An address; of a wrong one the answer says so.")]
Topic = Annotated[
    str | None, Field(max_length=200, description="What the mail is about; without one only suppressions count.")
]


class AskedOne(Asked):
    address: Given
    topic: Topic = None
    stream: Stream = "marketing"


class AskedMany(Asked):
    addresses: Annotated[list[Given], Field(min_length=1, max_length=MOST)]
    topic: Topic = None
    stream: Stream = "marketing"


class Sendable(Answered):
    """Whether an address may be mailed. `reason`: why not; `invalid_address`: it is none, and `detail` says why."""

    address: Annotated[str, Field(description="As it was given.")]
    sendable: bool
    reason: Annotated[
        str | None,
        Field(
            description="erased, hard_bounce, complaint, soft_bounce, manual, imported, unsubscribe, unknown_topic, "
            "archived_topic, not_subscribed, pending, unsubscribed, or invalid_address."
        ),
    ] = None
    since: datetime | None = None
    until: Annotated[datetime | None, Field(description="It does not count any more from then on.")] = None
    event_id: Annotated[UUID | None, Field(description="The event that says so.")] = None
    detail: str | None = None


class ManySendable(Answered):
    """In the order in which they were given."""

    results: list[Sendable]


async def ask_one(call: Call) -> Sendable:
    asked: AskedOne = call.query
    return (await _ask(call, [asked.address], asked.topic, asked.stream))[0]


async def ask_many(call: Call) -> ManySendable:
    asked: AskedMany = call.body
    return ManySendable(results=await _ask(call, asked.addresses, asked.topic, asked.stream))


async def _ask(call: Call, addresses: Sequence[str], topic: str | None, stream: Stream) -> list[Sendable]:
    answers: dict[int, Sendable] = {}
    hashes: dict[int, bytes] = {}
    for number, address in enumerate(addresses):
        try:
            hashes[number] = call.hash_of(entered(address))
        except WrongAddress as error:
            answers[number] = Sendable(address=address, sendable=False, reason="invalid_address", detail=str(error))
        if number % _AT_ONCE == _AT_ONCE - 1:
            await asyncio.sleep(0)  # webhooks are received by the same thread
    rows = await consent.sendable(call.sql, list(hashes.values()), topic, stream)
    for number, row in zip(hashes, rows, strict=True):
        answers[number] = Sendable(address=addresses[number], **dict(row))
    return [answers[number] for number in range(len(addresses))]


OPERATIONS: Final = (
    Operation(
        id="sendable_one", method="GET", path="/sendable", scope="sendable:read", summary="May this address be mailed?",
        run=ask_one, query=AskedOne, answer=Sendable,
    ),
    Operation(
        id="sendable_many", method="POST", path="/sendable", scope="sendable:read",
        summary="Which of these addresses may be mailed?", run=ask_many, body=AskedMany, answer=ManySendable,
    ),
)  # fmt: skip
