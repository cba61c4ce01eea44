"""`/subscriptions`: what a person has just said about a topic, with the evidence for it."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Any, Final, Literal

from pydantic import Field, JsonValue

from receiver.contacts import opt_in
from receiver.contacts.links import NoPublicUrl
from receiver.store import choices, moves
from receiver.store.consent import Statement, record, sendable
from receiver.web.api.operations import Answered, Asked, Call, Operation
from receiver.web.api.problems import Kind, Problem, wrong
from receiver.web.api.values import EmailAddress, Moment, Words


class Said(Asked):
    """`wording`: the words that the person agreed to, or the reason given. `at`: when; else now."""

    address: EmailAddress
    topic: Annotated[str, Field(min_length=1, max_length=200)]
    action: Literal["subscribe", "unsubscribe"]
    wording: Words | None = None
    at: Moment | None = None
    client_ip: IPv4Address | IPv6Address | None = None
    user_agent: Annotated[str, Field(max_length=1000)] | None = None
    detail: Annotated[dict[str, JsonValue], Field(max_length=50, description="Further evidence.")] = Field({})


class Heard(Answered):
    """What holds now. `mail`: what became of the mail by which a topic with double opt-in is confirmed."""

    state: Literal["subscribed", "pending", "unsubscribed"]
    mail: Literal["queued", "limited", "suppressed", "not_needed"] = "not_needed"
    reason: Annotated[str | None, Field(description="Why no mail about it may be sent all the same.")] = None


async def say(call: Call) -> Heard:
    asked: Said = call.body
    now = datetime.now(UTC)
    if asked.at is not None and asked.at > now:
        raise wrong("/at", "lies ahead")
    at = asked.at or now
    return await (_subscribe(call, asked, at, now) if asked.action == "subscribe" else _unsubscribe(call, asked, at))


async def _subscribe(call: Call, asked: Said, at: datetime, now: datetime) -> Heard:
    request = opt_in.Request(
        address=asked.address, topic=asked.topic, source=call.who, method="api", at=at, now=now, wording=asked.wording,
        client_ip=asked.client_ip, user_agent=asked.user_agent, detail=asked.detail,
    )  # fmt: skip
    try:
        done = await opt_in.request(call.sql, call.vault, call.public_url, request, no_account=call.means.no_links)
    except opt_in.UnknownTopic:
        raise wrong("/topic", "there is no such topic, or it was archived") from None
    except opt_in.ErasedSince as error:
        raise wrong("/at", str(error)) from None
    except (NoPublicUrl, opt_in.NoAccount) as error:
        raise Problem(Kind.CONFLICT, f"no confirmation can be mailed: {error}") from None
    if done.mail == "not_needed":  # it was said earlier than something else, perhaps
        (may,) = await sendable(call.sql, [call.hash_of(asked.address)], asked.topic, "marketing")
        return Heard(state=await _state(call, asked), reason=may["reason"])
    return Heard(state=done.state, mail=done.mail, reason=done.reason)


async def _unsubscribe(call: Call, asked: Said, at: datetime) -> Heard:
    """From any topic, also one that only a provider knows."""
    topic = await choices.topic(call.sql, asked.topic)
    said = Statement(
        address_hash=call.hash_of(asked.address), address=asked.address.key, action="unsubscribed", at=at,
        source=call.who, method="api", topic=asked.topic, brand=topic.brand if topic else "", wording=asked.wording,
        client_ip=asked.client_ip, user_agent=asked.user_agent, detail=asked.detail,
    )  # fmt: skip
    await record(call.sql, await moves.also(call.sql, [said]))
    return Heard(state=await _state(call, asked))


async def _state(call: Call, asked: Said) -> Any:
    return await choices.state(call.sql, call.hash_of(asked.address), asked.topic)


OPERATIONS: Final = (
    Operation(
        id="subscription_say", method="POST", path="/subscriptions", scope="contacts:write",
        summary="Subscribe an address to a topic, or unsubscribe it, with evidence.", run=say, body=Said, answer=Heard,
    ),
)  # fmt: skip
