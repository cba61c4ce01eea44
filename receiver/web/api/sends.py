"""`/sends`: messages, queued one by one or many at once, and what became of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Self
from uuid import UUID, uuid4

import asyncpg
from pydantic import BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from receiver.contacts.addresses import WrongAddress, entered
from receiver.sending import asking
from receiver.sending.asking import Ready, Wish, WrongSend
from receiver.sending.content import Content
from receiver.store import send_list
from receiver.store.consent import Stream
from receiver.store.queries import write_audit
from receiver.store.send_list import State, Which
from receiver.web.api.operations import Answered, Asked, Call, Found, Listing, Made, Operation, Page, whole
from receiver.web.api.problems import Fault, Kind, Problem, not_found, wrong
from receiver.web.api.values import EmailAddress, Moment

MOST: Final = 1000  # messages of a batch
Text = Annotated[str, Field(max_length=200)]


class Send(Answered):
    """A message to one recipient. `template`: empty where it was given as a `message`. `not_before`: when it is due."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    key: str
    state: State
    reason: Annotated[str | None, Field(description="Why it is skipped, failed, unknown, or waits.")]
    detail: str | None
    to: str
    template: str
    stream: Stream
    topic: str | None
    account: str | None
    rule: str | None
    broadcast_id: int | None
    cancel_on: list[str]
    attempts: int
    not_before: datetime
    expires_at: datetime | None
    settled_at: datetime | None
    provider_message_id: Annotated[str | None, Field(description="As events name it: `message_id`.")]
    internet_message_id: str | None
    created_at: datetime


class Sends(Page):
    items: list[Send]


class Check(Answered):
    """One question of the guard: go, hold or skip, and why."""

    name: str
    verdict: str
    why: str


class Attempt(Answered):
    attempt: int
    at: datetime
    account: str
    outcome: str
    detail: str
    checks: list[Check]


class SendInFull(Send):
    """With the values for the template, and each attempt with what the guard said before it."""

    data: dict[str, JsonValue]
    tried: list[Attempt]


class SendPath(Asked):
    send: UUID


class SendFilter(Listing):
    """`key`: how it begins."""

    state: Annotated[
        list[State] | None, Field(min_length=1, max_length=7, description="In one of these; else in any.")
    ] = None
    recipient: EmailAddress | None = None
    template: Text | None = None
    rule: Text | None = None
    key: Text | None = None
    since: Moment | None = None


class NewSend(Asked):
    """Either `template` with `data`, or a whole `message`."""

    to: Annotated[str, Field(max_length=320, description="The address.")]
    key: Annotated[
        str | None,
        Field(min_length=1, max_length=300, description="What it is for, such as `welcome:4711`: queued once, ever."),
    ] = None
    template: Annotated[str | None, Field(max_length=100)] = None
    data: dict[str, JsonValue] = Field({}, description="Values for the template.")
    message: Content | None = None
    stream: Annotated[Stream | None, Field(description="null: as the template says, else marketing.")] = None
    topic: Annotated[str | None, Field(max_length=200, description="null: as the template says.")] = None
    delay: Annotated[
        int | None,
        Field(ge=0, le=366 * 86400, description="Seconds from now until it is due."),
        BeforeValidator(whole),
    ] = None
    at: Annotated[Moment | None, Field(description="When it is due; else now.")] = None
    expires_at: Annotated[Moment | None, Field(description="Not to be sent later.")] = None
    cancel_on: list[Text] = Field(
        [], max_length=20, description="What makes it pointless: event types, or one with a tag (`clicked:offer`)."
    )
    account: Text | None = None

    @model_validator(mode="after")
    def _check_choices(self) -> Self:
        if (self.template is None) == (self.message is None):
            raise ValueError("needs either template or message")
        if self.delay is not None and self.at is not None:
            raise ValueError("takes either delay or at")
        return self


class NewSends(Asked):
    messages: Annotated[list[NewSend], Field(min_length=1, max_length=MOST)]


class Result(Answered):
    """`queued`, `exists` (its key was taken before: `id` is that message), or `refused`, with the wrong field."""

    status: str
    id: UUID | None = None
    field: str | None = None
    detail: str | None = None


class Results(Answered):
    """In the order of the messages."""

    results: list[Result]


def _wish(asked: NewSend, now: datetime) -> Wish | WrongSend:
    try:
        to = entered(asked.to).key
    except WrongAddress as error:
        return WrongSend("to", str(error))
    return Wish(
        to=to,
        key=asked.key or f"api:{uuid4()}",
        template=asked.template,
        content=asked.message,
        data=asked.data,
        stream=asked.stream,
        topic=asked.topic,
        due=asked.at if asked.delay is None else now + timedelta(seconds=asked.delay),
        expires_at=asked.expires_at,
        cancel_on=asked.cancel_on,
        account=asked.account,
    )


async def _checked(call: Call, asked: Sequence[NewSend]) -> list[Ready | WrongSend]:
    now = datetime.now(UTC)
    wishes = [_wish(one, now) for one in asked]
    good = iter(await asking.check(call.sql, call.means, [one for one in wishes if isinstance(one, Wish)]))
    return [one if isinstance(one, WrongSend) else next(good) for one in wishes]


async def send_one(call: Call) -> Send | Made:
    (ready,) = await _checked(call, [call.body])
    if isinstance(ready, WrongSend):
        raise wrong(f"/{ready.field}", ready.why)
    queued = await asking.queue(call.sql, [ready], call.who)
    row = (await send_list.by_keys(call.sql, [ready.wish.key]))[ready.wish.key]
    return Made(_shown(row), f"/sends/{row['id']}") if queued else _shown(row)


async def send_many(call: Call) -> Results:
    asked: NewSends = call.body
    checked = await _checked(call, asked.messages)
    ready = [one for one in checked if isinstance(one, Ready)]
    queued = await asking.queue(call.sql, ready, call.who)
    known = await send_list.by_keys(call.sql, [one.wish.key for one in ready])
    results = []
    for one in checked:
        if isinstance(one, WrongSend):
            results.append(Result(status="refused", field=one.field, detail=one.why))
        else:  # a key that stands twice in the batch is queued by the first of them
            status = "queued" if queued.pop(one.wish.key, None) else "exists"
            results.append(Result(status=status, id=known[one.wish.key]["id"]))
    return Results(results=results)


async def list_sends(call: Call) -> Found:
    asked: SendFilter = call.query or call.body
    which = Which(
        states=asked.state,
        recipient=asked.recipient.key if asked.recipient else None,
        template=asked.template,
        rule=asked.rule,
        key=asked.key,
        since=asked.since,
    )
    after = (datetime.fromisoformat(call.after[0]), UUID(call.after[1])) if call.after else None
    rows = await send_list.page(call.sql, which, after=after, limit=asked.limit)
    last = rows[-1] if len(rows) == asked.limit else None
    return Found(list(map(_shown, rows)), [last["created_at"].isoformat(), str(last["id"])] if last else None)


def _values(row: asyncpg.Record) -> dict[str, Any]:
    return {**{name: row[name] for name in Send.model_fields if name != "to"}, "to": row["recipient"]}


def _shown(row: asyncpg.Record) -> Send:
    return Send(**_values(row))


async def _get(call: Call) -> asyncpg.Record:
    row = await send_list.get(call.sql, call.path.send)
    if row is None:
        raise not_found("send")
    return row


async def get_send(call: Call) -> SendInFull:
    row = await _get(call)
    tried = [
        Attempt.model_validate({**one, "checks": json.loads(one["checks"])})
        for one in await send_list.attempts(call.sql, row["id"])
    ]
    return SendInFull(**_values(row), data=json.loads(row["data"]), tried=tried)


async def cancel_send(call: Call) -> Send:
    row = await _get(call)
    if not await send_list.cancel(call.sql, Which(ids=[row["id"]])):
        detail = f"it is {row['state']}: only what is not sent yet can be cancelled"
        raise Problem(Kind.CONFLICT, detail, errors=[Fault(detail=detail, parameter="send")])
    await write_audit(call.sql, call.who, "send_cancel", str(row["id"]))
    return _shown(await _get(call))


OPERATIONS: Final = (
    Operation(
        id="send", method="POST", path="/sends", scope="sends:write", summary="Queue a message to one recipient.",
        run=send_one, body=NewSend, answer=Send, makes=True,
    ),
    Operation(
        id="sends_batch", method="POST", path="/sends/batch", scope="sends:write",
        summary="Queue up to 1,000 messages; each has a result of its own.", run=send_many, body=NewSends,
        answer=Results,
    ),
    Operation(
        id="sends_list", method="GET", path="/sends", scope="sends:read", summary="List messages, the newest first.",
        run=list_sends, query=SendFilter, answer=Sends,
    ),
    Operation(
        id="sends_search", method="POST", path="/sends/search", scope="sends:read",
        summary="The same, without addresses in the URL.", run=list_sends, body=SendFilter, answer=Sends,
    ),
    Operation(
        id="send_get", method="GET", path="/sends/{send}", scope="sends:read",
        summary="Show a message and each attempt to send it.", run=get_send, in_path=SendPath, answer=SendInFull,
    ),
    Operation(
        id="send_cancel", method="POST", path="/sends/{send}/cancel", scope="sends:write",
        summary="Cancel a message that is not sent yet.", run=cancel_send, in_path=SendPath, answer=Send,
        conflicts=True,
    ),
)  # fmt: skip
