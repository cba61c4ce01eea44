"""`/topics`: what people subscribe to."""

from __future__ import annotations

from datetime import datetime
from operator import itemgetter
from typing import Annotated, Final

import asyncpg
from pydantic import Field

from receiver.store import topics as store
from receiver.store.consent import Stream
from receiver.store.queries import write_audit
from receiver.web.api.operations import Answered, Asked, Call, Found, Listing, Made, Operation, Page
from receiver.web.api.problems import Fault, Kind, Problem, not_found
from receiver.web.api.values import Name

Title = Annotated[str, Field(min_length=1, max_length=200)]
Description = Annotated[str, Field(max_length=2000)]
Brand = Annotated[str, Field(max_length=100)]


class Topic(Answered):
    """A topic, and how many addresses are in each state."""

    name: str
    title: str
    description: str
    stream: Stream
    brand: str
    double_opt_in: bool
    public: bool
    created_at: datetime
    archived_at: datetime | None
    subscribed: int
    pending: int
    unsubscribed: int


class Topics(Page):
    items: list[Topic]


class TopicPath(Asked):
    topic: Annotated[str, Field(max_length=200)]


class TopicFilter(Listing):
    archived: Annotated[bool, Field(description="Also those that were given up.")] = False


class NewTopic(Asked):
    name: Name
    title: Title
    description: Description = ""
    stream: Stream = "marketing"
    brand: Brand = ""
    double_opt_in: bool = False
    public: bool = True


class TopicChange(Asked):
    """What is left out stays."""

    title: Title | None = None
    description: Description | None = None
    stream: Stream | None = None
    brand: Brand | None = None
    double_opt_in: bool | None = None
    public: bool | None = None
    archived: Annotated[bool | None, Field(description="true: nothing is sent about it any more.")] = None


def _topic(row: asyncpg.Record) -> Topic:
    return Topic(**dict(row))


async def _shown(call: Call, name: str) -> Topic:
    rows = await store.topics(call.sql, [name])
    if not rows:
        raise not_found("topic")
    return _topic(rows[0])


async def list_topics(call: Call) -> Found:
    asked: TopicFilter = call.query
    rows = sorted(await store.topics(call.sql, archived=asked.archived), key=itemgetter("name"))
    rest = [row for row in rows if call.after is None or row["name"] > call.after[0]]
    shown = rest[: asked.limit]
    return Found([_topic(row) for row in shown], [shown[-1]["name"]] if len(shown) < len(rest) else None)


async def get_topic(call: Call) -> Topic:
    return await _shown(call, call.path.topic)


async def add_topic(call: Call) -> Made:
    asked: NewTopic = call.body
    if not await store.add(call.sql, asked.name, _values(asked)):
        detail = "there is a topic of this name"
        raise Problem(Kind.CONFLICT, detail, errors=[Fault(detail=detail, pointer="#/name")])
    await write_audit(call.sql, call.who, "topic_add", asked.name)
    return Made(await _shown(call, asked.name), f"/topics/{asked.name}")


async def change_topic(call: Call) -> Topic:
    asked: TopicChange = call.body
    name: str = call.path.topic
    if not await store.edit(call.sql, name, _values(asked)):
        raise not_found("topic")
    if asked.archived is not None:
        await store.archive(call.sql, name, archived=asked.archived)
    await write_audit(call.sql, call.who, "topic_edit", name)
    return await _shown(call, name)


def _values(asked: NewTopic | TopicChange) -> tuple[object, ...]:
    return asked.title, asked.description, asked.stream, asked.brand, asked.double_opt_in, asked.public


OPERATIONS: Final = (
    Operation(
        id="topics_list", method="GET", path="/topics", scope="topics:read", summary="List topics.", run=list_topics,
        query=TopicFilter, answer=Topics,
    ),
    Operation(
        id="topic_add", method="POST", path="/topics", scope="topics:write", summary="Add a topic.", run=add_topic,
        body=NewTopic, answer=Topic, makes=True, conflicts=True,
    ),
    Operation(
        id="topic_get", method="GET", path="/topics/{topic}", scope="topics:read", summary="Show a topic.",
        run=get_topic, in_path=TopicPath, answer=Topic,
    ),
    Operation(
        id="topic_change", method="PATCH", path="/topics/{topic}", scope="topics:write",
        summary="Change a topic, give it up, or take it up again.", run=change_topic, in_path=TopicPath,
        body=TopicChange, answer=Topic,
    ),
)  # fmt: skip
