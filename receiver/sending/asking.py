"""Messages that programs ask for: what is wrong with one is told before it is queued."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

from receiver.errors import ReceiverError
from receiver.event import EventType
from receiver.sending.accounts import AccountSettings
from receiver.sending.compose import contacts_of, message_of
from receiver.sending.content import Content
from receiver.sending.means import NO_PUBLIC_URL, Means
from receiver.sending.templates import Unfit
from receiver.sending.trying import NOWHERE
from receiver.store import sends
from receiver.store.consent import Stream
from receiver.store.sql import Sql
from receiver.store.topics import topics

RESERVED: Final = "broadcast:"  # keys of broadcasts begin so
_AT_ONCE: Final = 5  # messages that are rendered before others have their turn
_ANY: Final = AccountSettings.model_validate({"transport": "smtp", "from": "hello@example.com"})


class WrongSend(ReceiverError):
    """It cannot be queued as it is: which of its fields is wrong, and why."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field}: {why}")
        self.field = field
        self.why = why


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A message that somebody wants sent. `to`: normalized. Either `template` or `content`; `due`: not earlier (aware).

    `stream`, `topic`: None stands for what the template says, else marketing and none.
    """

    to: str
    key: str
    template: str | None
    content: Content | None
    data: Mapping[str, Any]
    stream: Stream | None
    topic: str | None
    due: datetime | None
    expires_at: datetime | None
    cancel_on: Sequence[str]
    account: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A wish that can be queued."""

    wish: Wish
    stream: Stream
    topic: str | None
    brand: str


async def check(sql: Sql, means: Means, wishes: Sequence[Wish]) -> list[Ready | WrongSend]:
    """What each comes to, in this order. Templates are rendered with what is known of the recipients now."""
    placed = [_placed(means, one) for one in wishes]
    names = sorted({one.topic for one in placed if isinstance(one, Ready) and one.topic is not None})
    known = {row["name"]: dict(row) for row in await topics(sql, names)} if names else {}
    contacts = await contacts_of(sql, {one.to for one in wishes})
    found: list[Ready | WrongSend] = []
    for number, one in enumerate(placed):
        if number % _AT_ONCE == _AT_ONCE - 1:
            await asyncio.sleep(0)  # webhooks are received by the same thread
        found.append(one if isinstance(one, WrongSend) else _checked(means, one, known, contacts[one.wish.to]))
    return found


def _placed(means: Means, wish: Wish) -> Ready | WrongSend:
    """With its stream and topic."""
    stream, topic = wish.stream, wish.topic
    if wish.template is not None:
        try:
            meta = means.templates.meta(wish.template)
        except Unfit as error:
            return WrongSend("template", error.detail)
        stream, topic = stream or meta.stream, topic or meta.topic
    return Ready(wish=wish, stream=stream or "marketing", topic=topic, brand="")


def _checked(
    means: Means, one: Ready, known: Mapping[str, Mapping[str, Any]], contact: Mapping[str, Any]
) -> Ready | WrongSend:
    try:
        _check(means, one, known)
        _compose(means, one, contact)
    except WrongSend as error:
        return error
    brand = known.get(one.topic or "", {}).get("brand", "")
    return Ready(wish=one.wish, stream=one.stream, topic=one.topic, brand=brand)


def _check(means: Means, one: Ready, known: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises WrongSend."""
    wish = one.wish
    if (wrong := means.no_account(wish.account, one.stream)) is not None:
        raise WrongSend("account", wrong)
    if wish.key.startswith(RESERVED):
        raise WrongSend("key", f"keys that begin with {RESERVED} are those of broadcasts")
    for word in wish.cancel_on:
        if word.partition(":")[0] not in frozenset(EventType):
            raise WrongSend("cancel_on", "holds what is no event type, nor one with a tag such as clicked:offer")
    if one.stream == "marketing" and one.topic is None:
        raise WrongSend("topic", "marketing mail needs a topic, to which the recipient is subscribed")
    if one.stream == "marketing" and not means.reachable:
        raise WrongSend("stream", NO_PUBLIC_URL)
    topic = known.get(one.topic or "")
    if one.stream == "marketing" and (topic is None or topic["archived_at"] is not None):
        raise WrongSend("topic", "there is no such topic in use")


def _compose(means: Means, one: Ready, contact: Mapping[str, Any]) -> None:
    """Raises WrongSend for a template that cannot be rendered, and for what no message may hold."""
    wish, content = one.wish, one.wish.content
    row = {"id": uuid4(), "recipient": wish.to, "broadcast_id": None, "template": wish.template or ""}
    try:
        if content is None:
            values = {**wish.data, "contact": contact, "unsubscribe_url": NOWHERE}
            content = means.templates.render(wish.template or "", values)
        message_of({**row, "stream": one.stream, "topic": one.topic, "brand": ""}, _ANY, content, contact, {})
    except Unfit as error:
        raise WrongSend("template" if wish.template is not None else "message", error.detail) from None


async def queue(sql: Sql, ready: Sequence[Ready], who: str) -> dict[str, UUID]:
    """By key, the ids of those that are queued now; the keys of the others were taken before.

    In the order of the keys, so that two who queue the same do not wait for each other.
    """
    found, now = {}, datetime.now(UTC)
    for one in sorted(ready, key=lambda ready: ready.wish.key):
        wish = one.wish
        id_ = await sends.queue(
            sql,
            key=wish.key,
            recipient=wish.to,
            template=wish.template or "",
            stream=one.stream,
            topic=one.topic,
            data=wish.data,
            delay=max((wish.due or now) - now, timedelta(0)),
            cancel_on=wish.cancel_on,
            handler=who,
            event_id=None,
            brand=one.brand,
            account=wish.account,
            message=None if wish.content is None else wish.content.model_dump_json(by_alias=True),
            expires_at=wish.expires_at,
        )
        if id_ is not None:
            found[wish.key] = id_
    return found
