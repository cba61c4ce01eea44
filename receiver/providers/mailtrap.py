"""Mailtrap: events of sent mail, in batches of JSON or JSON Lines.

Rests on (all seen 2026-11)
- "Webhooks", https://docs.mailtrap.io/email-api-smtp/advanced/webhooks: batches, retries, formats, signature
- "Webhooks", https://github.com/mailtrap/mailtrap-openapi (specs/webhooks.openapi.yml): events, fields, samples
- "Webhooks" of Inbound Inboxes in the same documentation: a notice of each incoming message, in the same envelope
- the signature that all official clients test (mailtrap-ruby, spec/mailtrap/webhooks_spec.rb)

What the proof covers: every byte of the body, by an HMAC-SHA256 of the secret's text (32 characters, not decoded). It
covers no time, so an old request is accepted whenever it comes; its events are stored once. A reset in the console ends
the old secret at once.

Status codes: only 200 is kept, every other code is repeated.

Identity: `event_id`, which the document gives for telling repetitions, with the word, message id, recipient, time,
link, address and user agent as written. Without a time and an id: the whole item.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from pydantic import Field

from receiver.contract import (
    Authentic,
    Delivery,
    Item,
    Occurrence,
    Post,
    Provider,
    Reply,
    Secrets,
    Simulation,
    SourceSettings,
    UnreadableItem,
)
from receiver.credentials import BySecret
from receiver.event import BounceCategory, EventType, Reading, RejectReason
from receiver.payload import (
    event_object,
    integer,
    items_in,
    items_of,
    items_of_lines,
    mapping,
    strip,
    text,
    texts,
    unix_time,
)
from receiver.signatures import check_hex
from receiver.signers import hmacs as signer
from receiver.signers import posts

MAX_BATCH: Final = 500
MILLISECONDS: Final = 10**11  # as seconds, a number beyond this would be a time after the year 5000
_RIGHT: Final = "Mailtrap: Settings, Webhooks, your webhook, Signing secret: 32 characters"
_PUBLISHED: Final = ("8d9a3c0e7f5b2d4a6c1e9f8b3a7d5c2e",)
_WRAPPED: Final = re.compile(rb'\{\s*"events"\s*:')


class MailtrapSettings(SourceSettings):
    """`signing_secret`: the webhook's, or several."""

    signing_secret: Secrets = Field([], description="signing secret(s), from the webhook's page")


# `activity_log.*` are about the account: unknown.
WORDS: Final[Mapping[str, EventType]] = {
    "delivery": EventType.DELIVERED,
    "soft bounce": EventType.DEFERRED,  # Mailtrap tries again
    "bounce": EventType.BOUNCED,
    "suspension": EventType.DEFERRED,  # held back by the account's limits, for now
    "reject": EventType.REJECTED,
    "open": EventType.OPENED,
    "click": EventType.CLICKED,
    "unsubscribe": EventType.UNSUBSCRIBED,
    "spam": EventType.COMPLAINED,
    "inbound.message_received": EventType.INBOUND,  # a notice alone, without the recipient
}
# `bounce` means permanent; why, is said by a category, of which this one says that the address is not the cause.
_BLOCKS: Final = frozenset({"spam"})
# "Recipient in suppression list. Reason: unsubscription"; the kinds are those of the suppressions API.
_REJECTS: Final = {
    "unsubscription": RejectReason.UNSUBSCRIBED,
    "spam complaint": RejectReason.COMPLAINED,
    "hard bounce": RejectReason.BOUNCED,
}
_LIMIT: Final = "limit reached"  # of the account: it has nothing to do with the recipient


class Mailtrap(BySecret, Provider):
    """One source of Mailtrap."""

    name = "mailtrap"
    title = "Mailtrap"
    basis = "verified"
    covers = "body"
    words = WORDS
    reply = Reply(
        repeated=lambda code: code != 200,
        retries="All but 200 is repeated 40 times, every 5 minutes; then the webhook is paused until it is resumed.",
        timeout=30.0,
        max_body=4 << 20,
    )
    Settings = MailtrapSettings
    right = _RIGHT
    published = _PUBLISHED

    async def authenticate(self, delivery: Delivery) -> Authentic:
        check_hex(delivery.headers, "mailtrap-signature", self._keys, delivery.body)
        return Authentic(payload=delivery.body)

    def parse(self, payload: bytes) -> Iterable[Item | UnreadableItem]:
        body = strip(payload)  # the content type is not documented for JSON Lines, so the shape tells
        if _WRAPPED.match(body):
            return items_in(body, "events")
        return items_of(body) if body.startswith(b"[") else items_of_lines(body)

    def read(self, item: Item) -> Sequence[Reading]:
        return [_event(event_object(item, "a Mailtrap event"))]


def _event(value: Mapping[str, Any]) -> Reading:
    word = text(value.get("event")) or ""
    reason = text(value.get("reason"))
    at = _time(value.get("timestamp"))
    identity = [text(value.get(name)) for name in _IDENTITY]
    known = at is not None or identity[0] is not None
    type_, reject_reason = _meaning(word, reason or "")
    return Reading(
        type=type_,
        word=word,
        identity=identity if known else None,
        occurred_at=at,
        provider_event_id=text(value.get("event_id")),
        recipient=text(value.get("email")),
        message_id=text(value.get("message_id")),
        sender=text(value.get("from")),
        verdict=_verdict(value) if word == "bounce" else None,
        smtp_code=integer(value.get("response_code"), low=200, high=599),
        diagnostic=text(value.get("response")) or reason,
        reject_reason=reject_reason,
        stream=text(value.get("sending_stream")),
        tags=texts(value.get("category")),
        metadata=mapping(value.get("custom_variables")) or None,
        url=text(value.get("url")),
        user_agent=text(value.get("user_agent")),
        client_ip=text(value.get("ip")),
    )


def _time(value: object) -> datetime | None:
    """Seconds; milliseconds in notices of incoming messages, as their readers saw."""
    return unix_time(value, per_second=1000 if (integer(value, high=10**18) or 0) > MILLISECONDS else 1)


_IDENTITY: Final = ("event_id", "event", "message_id", "email", "timestamp", "url", "ip", "user_agent")


def _verdict(value: Mapping[str, Any]) -> BounceCategory:
    return BounceCategory.BLOCK if text(value.get("bounce_category")) in _BLOCKS else BounceCategory.HARD


def _meaning(word: str, reason: str) -> tuple[EventType, RejectReason | None]:
    if word != "reject":
        return WORDS.get(word, EventType.UNKNOWN), None
    if _LIMIT in reason.lower():
        return EventType.FAILED, RejectReason.QUOTA
    held_back = (meant for kind, meant in _REJECTS.items() if kind in reason.lower())
    return EventType.REJECTED, next(held_back, RejectReason.OTHER)


# The simulator's side.

_VISITOR: Final = {"ip": "203.0.113.42", "user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Firefox/144.0"}
_OF_TYPE: Final[Mapping[EventType, Mapping[str, Any]]] = {
    EventType.DELIVERED: {"event": "delivery"},
    EventType.DEFERRED: {
        "event": "soft bounce",
        "response": "4.7.1 Temporary error, please retry",
        "response_code": 451,
        "bounce_category": "greylisting",
    },
    EventType.BOUNCED: {
        "event": "bounce",
        "response": "5.1.1 The email account that you tried to reach does not exist",
        "response_code": 550,
        "bounce_category": "badmailbox",
    },
    EventType.REJECTED: {"event": "reject", "reason": "Recipient in suppression list. Reason: unsubscription"},
    EventType.OPENED: {"event": "open", **_VISITOR},
    EventType.CLICKED: {"event": "click", **_VISITOR, "url": "https://example.com/welcome"},
    EventType.UNSUBSCRIBED: {"event": "unsubscribe", **_VISITOR},
    EventType.COMPLAINED: {"event": "spam"},
}


def _sample(what: Occurrence) -> dict[str, Any]:
    message, event = (uuid5(NAMESPACE_URL, f"{what.run}/{what.number}/{part}") for part in ("message", "event"))
    return {
        **_OF_TYPE[what.type],
        "timestamp": int(what.at.timestamp()),
        "sending_stream": "transactional",
        "category": "Welcome",
        "custom_variables": {"run": what.run},
        "message_id": str(message),
        "email": what.recipient,
        "event_id": str(event),
        "sending_domain_name": "example.net",
    }


def _post(items: Sequence[Any], keys: Mapping[str, str], _: datetime) -> Sequence[Post]:
    secret = keys["signing_secret"]
    return posts.in_batches(
        items,
        MAX_BATCH,
        lambda body: {"mailtrap-signature": signer.hexadecimal(secret, body)},
        wrap=lambda batch: {"events": list(batch)},
    )


Mailtrap.simulation = Simulation(
    types=tuple(_OF_TYPE),
    demo=signer.demo(),
    keys=signer.keys(),
    sample=_sample,
    post=_post,
    setup=(
        "1. Mailtrap: Settings, Webhooks, Create New Webhook. URL: {url}. Payload format: JSON or JSON Lines.\n"
        "   Area: Email Sending; choose stream and domain, tick all events, save.\n"
        "2. Copy the signing secret into `signing_secret` and restart the receiver; then Run Test must show\n"
        "   200."
    ),
)

PROVIDER: Final[type[Provider]] = Mailtrap
