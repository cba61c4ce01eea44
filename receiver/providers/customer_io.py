"""Customer.io: reporting webhooks.

Rests on
- "Reporting Webhooks", https://docs.customer.io/api/webhooks, and its OpenAPI description (version 1.0.0), whose
  samples the fixtures repeat
- "Securely verifying requests" on the same page
all seen 2026-11.

Signature: HMAC-SHA256, as hexadecimal text, over `v0:<X-CIO-Timestamp>:<raw body>`, which covers every byte. The
timestamp is the time of sending; whether a repetition gets a new one is not documented, so that the window is the
seven days of the repetitions and an hour. A replay within them is stored once.

Status codes: 2xx is kept. Everything else is repeated, and all events behind it wait: for an hour first after 400,
401, 402, 403, 404, 405, 410, 429, 500, 502 and 521, so that none of these is given; 503 is repeated sooner.

Identity: `event_id`, which is inside the signed body and so the same in each repetition, with object type, metric,
delivery, recipient, time and link as sent, and the topic where one event tells of several.

Other channels (push, in-app, SMS, Slack, webhook, WhatsApp) come to the same URL: they are no mail, and unknown here.
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
from receiver.event import Actor, EventType, Reading, RejectReason
from receiver.payload import decode, event_object, first_text, item_of, mapping, strip, text, unix_time
from receiver.signatures import check_hex, check_time, header, unix_seconds
from receiver.signers import hmacs, posts

WINDOW: Final = 169 * 3600.0  # seconds
_RIGHT: Final = "Customer.io: Data & Integrations, Integrations, Reporting Webhooks, your webhook, its signing key"


class CustomerIoSettings(SourceSettings):
    """`signing_key`: the webhook's signing key, or several."""

    signing_key: Secrets = Field([], description="the webhook's signing key")


# `object_type` and `metric`. A change of somebody's subscription has the object type of the message that led to it, or
# `customer`.
_WORDS: Final[Mapping[str, EventType]] = {
    "email.drafted": EventType.QUEUED,  # made, and waiting for somebody to send it
    "email.attempted": EventType.DEFERRED,
    "email.sent": EventType.SENT,
    "email.delivered": EventType.DELIVERED,
    "email.opened": EventType.OPENED,
    "email.clicked": EventType.CLICKED,
    "email.converted": EventType.UNKNOWN,  # of the person, not of the message
    "email.unsubscribed": EventType.UNSUBSCRIBED,
    "email.subscribed": EventType.SUBSCRIBED,
    "email.bounced": EventType.BOUNCED,
    "email.dropped": EventType.REJECTED,  # the person is suppressed
    "email.spammed": EventType.COMPLAINED,
    "email.failed": EventType.FAILED,
    "email.undeliverable": EventType.REJECTED,  # a message limit, a cancelled newsletter, delivery switched off
    "email.cio_subscription_preferences_changed": EventType.UNKNOWN,  # by topic, where the topics are told
    "customer.subscribed": EventType.SUBSCRIBED,
    "customer.unsubscribed": EventType.UNSUBSCRIBED,
    "customer.cio_subscription_preferences_changed": EventType.UNKNOWN,
}
_PREFERENCES: Final = frozenset(word for word in _WORDS if word.endswith(".cio_subscription_preferences_changed"))
_MAIL: Final = ("email", "customer")  # elsewhere the recipient is a phone, a device or a URL


class CustomerIo(BySecret, Provider):
    """Customer.io's reporting webhooks: one event for each request."""

    name = "customer_io"
    title = "Customer.io"
    basis = "verified"
    covers = "body"
    words = _WORDS
    reply = Reply(
        retries=(
            "Anything but 2xx within 4 s is repeated for 7 days, at growing intervals; all later events wait behind it."
        ),
        refused=503,
        bad_encoding=503,
        timeout=4.0,
        max_body=4 << 20,  # "Body Content" puts the whole message into the event
    )
    Settings = CustomerIoSettings
    key_setting = "signing_key"
    right = _RIGHT
    window = WINDOW

    async def authenticate(self, delivery: Delivery) -> Authentic:
        stamp = header(delivery.headers, "x-cio-timestamp")
        signed_at = unix_seconds(stamp, "x-cio-timestamp")
        check_hex(delivery.headers, "x-cio-signature", self._keys, b"v0:%s:%s" % (stamp.encode(), delivery.body))
        check_time(signed_at, self._now(), past=self._tolerance)
        return Authentic(payload=delivery.body)

    def parse(self, payload: bytes) -> Iterable[Item | UnreadableItem]:
        return (item_of(strip(payload)),)

    def read(self, item: Item) -> Sequence[Reading]:
        value = event_object(item, "a Customer.io event")
        word = f"{text(value.get('object_type')) or '(none)'}.{text(value.get('metric'))}"
        if word in _PREFERENCES:
            return [_event(value, word, type_, topic) for topic, type_ in _topics(mapping(value.get("data")))]
        return [_event(value, word, _WORDS.get(word, EventType.UNKNOWN), None)]


def _event(value: Mapping[str, Any], word: str, type_: EventType, topic: str | None) -> Reading:
    data = mapping(value.get("data"))
    identity = (
        text(value.get("event_id")),
        text(value.get("object_type")),
        text(value.get("metric")),
        text(data.get("delivery_id")),
        _recipient(data),
        text(value.get("timestamp")),
        text(data.get("href")),
        topic,
    )
    identifiers = mapping(data.get("identifiers"))
    return Reading(
        type=type_,
        word=word,
        identity=identity if identity[0] or identity[5] else None,
        occurred_at=unix_time(value.get("timestamp")),
        provider_event_id=text(value.get("event_id")),
        recipient=_recipient(data) if value.get("object_type") in _MAIL else None,
        message_id=text(data.get("delivery_id")),
        diagnostic=text(data.get("failure_message")),
        reject_reason=RejectReason.OTHER if type_ is EventType.REJECTED else None,
        actor=_actor(data),
        topic=topic,
        campaign=_campaign(data),
        template_id=text(data.get("transactional_message_id")),
        metadata={key: member for key, member in identifiers.items() if key != "email"} or None,
        subject=text(data.get("subject")),
        url=text(data.get("href")),
    )


def _campaign(data: Mapping[str, Any]) -> str | None:
    """Campaigns, broadcasts and newsletters are numbered apart, so that the kind goes with the number."""
    numbers = ((kind, text(data.get(f"{kind}_id"))) for kind in ("campaign", "broadcast", "newsletter"))
    return next((f"{kind}:{number}" for kind, number in numbers if number), None)


def _recipient(data: Mapping[str, Any]) -> str | None:
    return first_text(data, "recipient", "email_address") or text(mapping(data.get("identifiers")).get("email"))


def _actor(data: Mapping[str, Any]) -> Actor | None:
    """`synthetic` says nothing of who: the open was inferred from a click, a person's or a machine's."""
    if data.get("machine") is True or data.get("prefetched") is True:
        return Actor.MACHINE
    return Actor.PROXY if data.get("proxied") is True else None


def _topics(data: Mapping[str, Any]) -> Sequence[tuple[str | None, EventType]]:
    """The topics somebody changed and what to: told only where the webhook includes body content, as JSON text."""
    content = data.get("content")
    try:
        topics = mapping(mapping(decode(content.encode())).get("topics")) if isinstance(content, str) else {}
    except Unreadable:
        topics = {}
    types = {True: EventType.SUBSCRIBED, False: EventType.UNSUBSCRIBED}
    changed = [(topic, types[state]) for topic, state in topics.items() if isinstance(state, bool)]
    return changed or [(None, EventType.UNKNOWN)]


# Simulation

_REASONS: Final = {
    EventType.DEFERRED: "451 4.7.1 Please try again later",
    EventType.BOUNCED: "550 5.1.1 The email account does not exist",
    EventType.REJECTED: "the person is suppressed",
    EventType.FAILED: "the template could not be rendered",
}
_MORE: Final[Mapping[EventType, Mapping[str, Any]]] = {
    EventType.OPENED: {"proxied": False, "prefetched": False},
    EventType.CLICKED: {"href": "https://www.example.net/letter", "link_id": 1, "machine": False},
}
_METRICS: Final[Mapping[EventType, str]] = {
    type_: word.partition(".")[2] for word, type_ in reversed(list(_WORDS.items())) if type_ is not EventType.UNKNOWN
}


def _sample(occurrence: Occurrence) -> dict[str, Any]:
    digest = sha256(f"{occurrence.run}/{occurrence.number}".encode()).hexdigest()
    data = {
        "campaign_id": 5,
        "action_id": 96,
        "journey_id": "01GW20GXAAXBKZD8J96M8FNV3R",
        "customer_id": digest[:8],
        "delivery_id": f"RPILAg{digest[:22]}",
        "identifiers": {"id": digest[:8], "email": occurrence.recipient, "cio_id": digest[8:20]},
        "recipient": occurrence.recipient,
        "subject": "Your weekly letter",
        **_MORE.get(occurrence.type, {}),
    }
    if occurrence.type in _REASONS:
        data["failure_message"] = _REASONS[occurrence.type]
    return {
        "metric": _METRICS[occurrence.type],
        "event_id": f"01{digest[:24].upper()}",
        "object_type": "email",
        "timestamp": int(occurrence.at.timestamp()),
        "data": data,
    }


def _post(items: Sequence[Any], keys: Mapping[str, str], now: datetime) -> Sequence[Post]:
    stamp = str(int(now.timestamp()))

    def headers(body: bytes) -> dict[str, str]:
        signature = hmacs.hexadecimal(keys["signing_key"], f"v0:{stamp}:".encode(), body)
        return {"x-cio-timestamp": stamp, "x-cio-signature": signature}

    return posts.one_by_one(items, headers)


CustomerIo.simulation = Simulation(
    types=tuple(_METRICS),
    demo=hmacs.demo("signing_key"),
    keys=hmacs.keys("signing_key"),
    sample=_sample,
    post=_post,
    setup=(
        "1. Customer.io: Data & Integrations, Integrations, Reporting Webhooks, Add Reporting Webhook. Webhook\n"
        "   Endpoint: {url}.\n"
        "2. Tick all Email and Customer events, let every open and click be sent, save and enable.\n"
        "3. Copy the signing key of that page into `signing_key`.\n"
        "\n"
        "Body Content puts whole messages into the events, and is needed only to see the topics of changed\n"
        "subscription preferences."
    ),
)

PROVIDER: Final[type[Provider]] = CustomerIo
