"""Maileroo: events of sent mail, one for each request.

Rests on (all seen 2026-11)
- "Webhooks", https://maileroo.com/docs/api-reference/emails/webhooks: events, shared secret, signature
- "Email webhooks", https://maileroo.com/features/email-webhooks: samples of a click and an open
- what users quote of its documents: `reject_reason`, and eight repetitions within about 14 hours

What the proof covers: every byte of the body, by an HMAC-SHA256 of the shared secret, and no time, so an old request is
accepted whenever it comes; its event is stored once. Inbound routing has no such signature and is refused here; the
signatures of Maileroo's verification codes are of another kind.

Status codes: 200 is kept; every other code is repeated.

Identity: `event_id`, with the word, the message's reference, the recipient, the time, link and address as written.
Without a time: the recipient and the whole item but for `inserted_at`.

Opens and clicks name no recipient: `message_reference_id`, which the send call returned, tells the message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, Final

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
from receiver.errors import Unreadable
from receiver.event import BounceCategory, EventType, Reading, RejectReason, each_recipient
from receiver.payload import bare_id, first_text, items_of, mapping, stable_text, text, texts, unix_time
from receiver.signatures import check_hex
from receiver.signers import hmacs as signer
from receiver.signers import posts

_SIGNATURE: Final = "x-maileroo-signature"
_RIGHT: Final = "Maileroo dashboard: your domain, Events, the shared secret beside the callback URL"


class MailerooSettings(SourceSettings):
    """`signing_secret`: the shared secret of the callback URL, or several."""

    signing_secret: Secrets = Field([], description="the shared secret beside the callback URL")


# `failed` is their word for a bounce; `rejected` was never sent ("also known as suppression").
_WORDS: Final[Mapping[str, EventType]] = {
    "accepted": EventType.QUEUED,
    "delivered": EventType.DELIVERED,
    "deferred": EventType.DEFERRED,
    "failed": EventType.BOUNCED,
    "rejected": EventType.REJECTED,
    "opened": EventType.OPENED,
    "clicked": EventType.CLICKED,
    "complained": EventType.COMPLAINED,
}
# What a reason contains, the first that fits. Their suppression list alone does not tell why an address is on it.
_REASONS: Final = (
    ("soft", RejectReason.OTHER),
    ("bounced", RejectReason.BOUNCED),
    ("complain", RejectReason.COMPLAINED),
    ("unsubscribed", RejectReason.UNSUBSCRIBED),
    ("spam", RejectReason.CONTENT),
    ("quota", RejectReason.QUOTA),
)


class Maileroo(BySecret, Provider):
    """One domain of Maileroo."""

    name = "maileroo"
    title = "Maileroo"
    basis = "verified"
    covers = "body"
    words = _WORDS
    reply = Reply(
        retries="All but 200 is repeated eight times within about 14 hours, as users report; no document was at hand."
    )
    Settings = MailerooSettings
    right = _RIGHT

    async def authenticate(self, delivery: Delivery) -> Authentic:
        check_hex(delivery.headers, _SIGNATURE, self._keys, delivery.body)
        return Authentic(payload=delivery.body)

    def parse(self, payload: bytes) -> Iterable[Item | UnreadableItem]:
        return items_of(payload)

    def read(self, item: Item) -> Sequence[Reading]:
        event = mapping(item.value)
        word = text(event.get("event_type"))
        if word is None:
            raise Unreadable("a Maileroo event must be a JSON object with the member `event_type`")
        data = mapping(event.get("event_data"))
        type_ = _WORDS.get(word, EventType.UNKNOWN)
        recipients, attribution = each_recipient(type_, list(dict.fromkeys(texts(data.get("to")))))
        if type_ is EventType.REJECTED and len(recipients) > 1:  # one recipient of several is enough for it
            attribution = "ambiguous"
        return [_reading(type_, word, event, data, recipient, attribution) for recipient in recipients]


def _reading(
    type_: EventType,
    word: str,
    event: Mapping[str, Any],
    data: Mapping[str, Any],
    recipient: str | None,
    attribution: str | None,
) -> Reading:
    time, reference = text(event.get("event_time")), text(event.get("message_reference_id"))
    address = text(data.get("ip")) if type_ in {EventType.OPENED, EventType.CLICKED} else None
    url = text(data.get("original_url"))
    reason = first_text(data, "reject_reason", "reason")
    identity = (word, text(event.get("event_id")), reference, recipient, time, url, address)
    return Reading(
        type=type_,
        word=word,
        identity=identity if time else ("raw", recipient, stable_text(event, without=("inserted_at",))),
        occurred_at=unix_time(time),
        provider_event_id=text(event.get("event_id")),
        recipient=recipient,
        attribution=attribution,
        message_id=reference,
        internet_message_id=bare_id(event.get("message_id")),
        sender=next(iter(texts(data.get("from"))), None),
        verdict=BounceCategory.HARD if type_ is EventType.BOUNCED else None,
        diagnostic=reason,
        reject_reason=_reject_reason(reason or "") if type_ is EventType.REJECTED else None,
        tags=texts(event.get("tags")),
        metadata=mapping(event.get("tags")) or None,
        url=url,
        user_agent=text(data.get("user_agent")),
        client_ip=address,
    )


def _reject_reason(reason: str) -> RejectReason:
    reason = reason.lower()
    return next((meaning for words, meaning in _REASONS if words in reason), RejectReason.OTHER)


# Simulation

_OF_TYPE: Final[Mapping[EventType, tuple[str, Mapping[str, Any]]]] = {
    EventType.QUEUED: ("accepted", {}),
    EventType.DELIVERED: ("delivered", {}),
    EventType.DEFERRED: ("deferred", {"reason": "451 4.7.1 Please try again later"}),
    EventType.BOUNCED: ("failed", {"reason": "550 5.1.1 The email account does not exist"}),
    EventType.REJECTED: (
        "rejected",
        {"reject_reason": "One or more of the recipients are on the suppression list"},
    ),
    EventType.COMPLAINED: ("complained", {}),
}


def _sample(what: Occurrence) -> dict[str, Any]:
    word, details = _OF_TYPE[what.type]
    digest = sha256(f"{what.run}/{what.number}".encode()).hexdigest()
    return {
        "domain_id": 774,
        "event_data": {"from": what.sender, "to": what.recipient, **details},
        "event_id": digest[:48],
        "event_time": int(what.at.timestamp()),
        "event_type": word,
        "inserted_at": what.at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "message_id": f"<{digest[:21]}@mail.example.net>",
        "message_reference_id": digest[32:],
        "tags": {"campaign": "autumn"},
        "user_id": 323,
    }


def _post(items: Sequence[Any], keys: Mapping[str, str], now: datetime) -> Sequence[Post]:  # noqa: ARG001 - no time
    return posts.one_by_one(items, lambda body: {_SIGNATURE: signer.hexadecimal(keys["signing_secret"], body)})


Maileroo.simulation = Simulation(
    types=tuple(_OF_TYPE),  # opens and clicks name no recipient, and so cannot be played for one
    demo=signer.demo(),
    keys=signer.keys(),
    sample=_sample,
    post=_post,
    setup=(
        "Maileroo dashboard: your domain > Events. Add the callback URL {url} for all events and copy the shared "
        "secret into `signing_secret`."
    ),
)

PROVIDER: Final[type[Provider]] = Maileroo
