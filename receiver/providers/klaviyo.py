"""Klaviyo: system webhooks.

Rests on
- "Working with system webhooks", https://developers.klaviyo.com/en/docs/working_with_system_webhooks: headers,
  envelope, signature, the common topics
- "Get Event", https://developers.klaviyo.com/en/reference/get_event: the structure of `payload`
- "Understanding email metrics", https://help.klaviyo.com/hc/en-us/articles/360036974872: what the metrics mean
- the names of the event properties, which are not documented, as accounts show them
all seen 2026-11. Klaviyo publishes neither the secret nor the body of its sample signature.

Signature: HMAC-SHA256, as hexadecimal text, over the raw body with the value of `Klaviyo-Timestamp` behind it, which
covers every byte. Whether a repetition is signed anew is not documented: the window is the 48 hours of the repetitions
and one more. The header `Klaviyo-Webhook-Id` is not signed and not looked at. A flow's "webhook" action is another
thing: unsigned, with a body of one's own; take it with the provider `generic`.

Status codes: 200, 201 and 202 within 5 s are kept, everything else is repeated; 48 hours of failures disable the
webhook.

Identity: `external_id`, Klaviyo's id of the event and inside the signed body, with topic, recipient, time, link and
transmission as sent. Without an id: the whole item.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
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
from receiver.errors import Reason, Refused, Unreadable
from receiver.event import Actor, BounceCategory, EventType, Reading, RejectReason
from receiver.payload import boolean, event_object, first_text, iso_time, items_in, mapping, sequence, text, unix_time
from receiver.signatures import check_hex, check_time, header
from receiver.signers import hmacs, posts

WINDOW: Final = 49 * 3600.0  # seconds
BATCH: Final = 1000
# Nothing stands between body and time: the end of a body must not pass as the beginning of a time.
_STAMP: Final = re.compile(r"[A-Za-z0-9 ,:.+-]{1,64}")
_RIGHT: Final = "It is the `secret_key` you gave the webhook when you made it: at least 16 characters"


class KlaviyoSettings(SourceSettings):
    """`secret_key`: the webhook's secret, or several."""

    secret_key: Secrets = Field([], description="the secret the webhook was made with")


_KLAVIYO: Final = "event:klaviyo."
# Topics of other channels and of an account's own metrics (`event:api.placed_order`) are no mail: unknown.
_WORDS: Final[Mapping[str, EventType]] = {
    f"{_KLAVIYO}received_email": EventType.DELIVERED,
    f"{_KLAVIYO}opened_email": EventType.OPENED,
    f"{_KLAVIYO}clicked_email": EventType.CLICKED,
    f"{_KLAVIYO}bounced_email": EventType.BOUNCED,
    f"{_KLAVIYO}dropped_email": EventType.REJECTED,  # the sending service below Klaviyo suppresses the address
    f"{_KLAVIYO}marked_email_as_spam": EventType.COMPLAINED,
    f"{_KLAVIYO}subscribed_to_email_marketing": EventType.SUBSCRIBED,
    f"{_KLAVIYO}unsubscribed_from_email_marketing": EventType.UNSUBSCRIBED,
    f"{_KLAVIYO}manually_suppressed_from_email_marketing": EventType.UNSUBSCRIBED,
    f"{_KLAVIYO}manually_unsuppressed_from_email_marketing": EventType.UNKNOWN,  # not the recipient's consent
    f"{_KLAVIYO}updated_email_preferences": EventType.UNKNOWN,  # which way is not said
}
_VERDICTS: Final = {"hard": BounceCategory.HARD, "soft": BounceCategory.SOFT}


class Klaviyo(BySecret, Provider):
    """Klaviyo's system webhooks: up to 1,000 events in a request."""

    name = "klaviyo"
    title = "Klaviyo"
    basis = "documents"
    covers = "body"
    words = _WORDS
    reply = Reply(
        repeated=lambda code: code not in {200, 201, 202},
        retries=(
            "Anything but 200, 201 or 202 within 5 s is repeated, at intervals of up to an hour; 48 hours of failures "
            "disable the webhook."
        ),
        timeout=5.0,
        max_body=16 << 20,
    )
    Settings = KlaviyoSettings
    key_setting = "secret_key"
    right = _RIGHT
    window = WINDOW

    async def authenticate(self, delivery: Delivery) -> Authentic:
        stamp = header(delivery.headers, "klaviyo-timestamp")
        if not _STAMP.fullmatch(stamp):
            raise Refused(Reason.MALFORMED_HEADER, "klaviyo-timestamp has characters that no time has")
        signed = delivery.body + stamp.encode(errors="surrogatepass")
        check_hex(delivery.headers, "klaviyo-signature", self._keys, signed)
        check_time(_sent_at(stamp).timestamp(), self._now(), past=self._tolerance)
        return Authentic(payload=delivery.body)

    def parse(self, payload: bytes) -> Iterable[Item | UnreadableItem]:
        return items_in(payload, "data")

    def read(self, item: Item) -> Sequence[Reading]:
        value = event_object(item, "a Klaviyo event")
        return [_event(value, mapping(value.get("payload")))]


def _sent_at(stamp: str) -> datetime:
    """The signed time; its form is not documented, and dates as in HTTP were seen. Raises Unreadable."""
    if found := unix_time(stamp) or iso_time(stamp):
        return found
    try:
        moment = parsedate_to_datetime(stamp)
    except (ValueError, TypeError, OverflowError) as error:
        raise Unreadable("klaviyo-timestamp is signed, and no time that we can read") from error
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _event(value: Mapping[str, Any], payload: Mapping[str, Any]) -> Reading:
    data = mapping(payload.get("data"))
    attributes = mapping(data.get("attributes"))
    properties = mapping(attributes.get("event_properties"))
    word = text(value.get("topic")) or "(none)"
    type_ = _WORDS.get(word, EventType.UNKNOWN)
    recipient = text(properties.get("Recipient Email Address")) or _profile_email(payload)
    transmission = text(mapping(properties.get("$internal")).get("Transmission ID"))
    event_id = first_text(value, "external_id") or text(data.get("id"))
    identity = (
        event_id,
        word,
        recipient,
        first_text(attributes, "datetime", "timestamp"),
        text(properties.get("URL")),
        transmission,
    )
    return Reading(
        type=type_,
        word=word,
        identity=identity if event_id else None,
        occurred_at=iso_time(attributes.get("datetime")) or unix_time(attributes.get("timestamp")),
        provider_event_id=event_id,
        recipient=recipient,
        message_id=transmission,  # `$message` is what was written, for all who got it
        verdict=_VERDICTS.get((text(properties.get("Bounce Type")) or "").lower()),
        reject_reason=RejectReason.OTHER if type_ is EventType.REJECTED else None,
        actor=_actor(properties),
        topic=text(properties.get("List")),
        campaign=text(properties.get("Campaign Name")),
        template_id=text(properties.get("$message")),
        subject=text(properties.get("Subject")),
        url=text(properties.get("URL")),
    )


def _profile_email(payload: Mapping[str, Any]) -> str | None:
    profiles = (mapping(member) for member in sequence(payload.get("included")))
    emails = (mapping(one.get("attributes")).get("email") for one in profiles if one.get("type") == "profile")
    return next(filter(None, map(text, emails)), None)


def _actor(properties: Mapping[str, Any]) -> Actor | None:
    flags = (properties.get("machine_open"), properties.get("Bot Click"))
    return Actor.MACHINE if any(boolean(flag) for flag in flags) else None


# Simulation

_MORE: Final[Mapping[EventType, Mapping[str, Any]]] = {
    EventType.OPENED: {"machine_open": False, "Client Type": "Browser", "Client Name": "Firefox", "Client OS": "Linux"},
    EventType.CLICKED: {"URL": "https://www.example.net/letter", "Bot Click": False},
    EventType.BOUNCED: {"Bounce Type": "Hard"},
}
_TOPICS: Final[Mapping[EventType, str]] = {
    type_: word for word, type_ in reversed(list(_WORDS.items())) if type_ is not EventType.UNKNOWN
}


def _sample(occurrence: Occurrence) -> dict[str, Any]:
    digest = sha256(f"{occurrence.run}/{occurrence.number}".encode()).hexdigest()
    properties = {
        "Recipient Email Address": occurrence.recipient,
        "Email Domain": occurrence.recipient.rpartition("@")[2],
        "Campaign Name": "Weekly letter",
        "Subject": "Your weekly letter",
        "$message": "01HMSG",
        "$internal": {"Transmission ID": f"01{digest[:24].upper()}"},
        **_MORE.get(occurrence.type, {}),
    }
    event = {
        "type": "event",
        "id": digest[:11],
        "attributes": {
            "timestamp": int(occurrence.at.timestamp()),
            "datetime": occurrence.at.isoformat(timespec="seconds"),
            "event_properties": properties,
            "uuid": digest[:32],
        },
        "relationships": {"profile": {"data": {"type": "profile", "id": f"01{digest[24:48].upper()}"}}},
    }
    profile = {"type": "profile", "id": f"01{digest[24:48].upper()}", "attributes": {"email": occurrence.recipient}}
    topic = _TOPICS[occurrence.type]
    return {"external_id": digest[:11], "topic": topic, "payload": {"data": event, "included": [profile]}}


def _post(items: Sequence[Any], keys: Mapping[str, str], now: datetime) -> Sequence[Post]:
    stamp = format_datetime(now.astimezone(UTC), usegmt=True)
    meta = {"klaviyo_webhook_id": "01HWEBHOOK", "klaviyo_account_id": "AbC123", "timestamp": now.isoformat()}

    def headers(body: bytes) -> dict[str, str]:
        signature = hmacs.hexadecimal(keys["secret_key"], body, stamp.encode())
        return {"klaviyo-webhook-id": "01HWEBHOOK", "klaviyo-timestamp": stamp, "klaviyo-signature": signature}

    return posts.in_batches(items, BATCH, headers, wrap=lambda batch: {"data": batch, "meta": meta})


Klaviyo.simulation = Simulation(
    types=tuple(_TOPICS),
    demo=hmacs.demo("secret_key"),
    keys=hmacs.keys("secret_key"),
    sample=_sample,
    post=_post,
    setup=(
        "1. Make a secret with `openssl rand -hex 24`, and put it into `secret_key`.\n"
        "2. Make the webhook by Klaviyo's API (Advanced KDP or app partners only): POST to\n"
        "   https://a.klaviyo.com/api/webhooks, with {url} as `endpoint_url`, the same secret as `secret_key`, and\n"
        "   these topics:\n"
        "     event:klaviyo.received_email\n"
        "     event:klaviyo.opened_email\n"
        "     event:klaviyo.clicked_email\n"
        "     event:klaviyo.bounced_email\n"
        "     event:klaviyo.dropped_email\n"
        "     event:klaviyo.marked_email_as_spam\n"
        "     event:klaviyo.subscribed_to_email_marketing\n"
        "     event:klaviyo.unsubscribed_from_email_marketing\n"
        "     event:klaviyo.manually_suppressed_from_email_marketing"
    ),
)

PROVIDER: Final[type[Provider]] = Klaviyo
