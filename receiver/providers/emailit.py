"""Emailit: webhooks about emails, in arrays of up to a hundred.

Rests on (all seen 2026-11)
- "Webhook requests", "Verify webhook signatures", "Retries and failures" and "Event types",
  https://emailit.com/docs/webhooks, with the pages of the single events
- Emailit's own notes for integrators, https://github.com/emailit/plugins, skills/emailit-webhooks

What the signature covers: hexadecimal HMAC-SHA256 over `timestamp.body`, so every byte, keyed with the whole secret,
`whsec_` and all. Each attempt, retries too, is signed anew: 300 seconds. A replay within them is stored once.

Status codes: 2xx is kept; any other code is tried again after 5 and 30 minutes, 2, 5 and then every 12 hours, 11
attempts in three days, for the whole array; then the webhook is disabled. Requests come one after another, so that one
which is refused holds up the rest.

Each event carries its object twice, as `object` and as `data.object`. Only `email.attempted` has the server's answer.
So a bounce tells no reason, and Emailit also calls it that when a mailbox was full or its attempts ran out ("Bounce
categories", https://emailit.com/docs/dictionary/bounce-categories.md): it is undetermined, no address counts as dead.
Events about domains, contacts, audiences, campaigns and the like are about no message: unknown.

Identity: `event_id`, which a retry repeats, with the type, the object's id, the recipient and the time as sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
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
from receiver.payload import event_object, first_text, integer, iso_time, items_of, mapping, text
from receiver.signatures import check_hex, check_time, header, unix_seconds
from receiver.signers import hmacs, posts

WINDOW: Final = 300.0
BATCH: Final = 100
_SIGNATURE: Final = "x-emailit-signature"
_TIMESTAMP: Final = "x-emailit-timestamp"
_TIMES: Final = ("timestamp", "unsubscribed_at", "resubscribed_at", "updated_at", "created_at")
_RIGHT: Final = (
    "It is the whole text that starts with whsec_: Emailit dashboard, Webhooks, your webhook, Webhook secret; "
    "each webhook has its own"
)


class EmailitSettings(SourceSettings):
    """`signing_secret`: the webhook's secret, or several."""

    signing_secret: Secrets = Field(default=[], description="`whsec_...`, from the webhook's page")


# `attempted`: failed for now. `held`: waits for somebody's decision. `loaded`: its pictures were, so it was opened.
_WORDS: Final[Mapping[str, EventType]] = {
    "email.accepted": EventType.QUEUED,
    "email.scheduled": EventType.QUEUED,
    "email.held": EventType.QUEUED,
    "email.canceled": EventType.UNKNOWN,
    "email.delivered": EventType.DELIVERED,
    "email.attempted": EventType.DEFERRED,
    "email.bounced": EventType.BOUNCED,
    "email.failed": EventType.FAILED,
    "email.rejected": EventType.REJECTED,
    "email.suppressed": EventType.REJECTED,
    "email.loaded": EventType.OPENED,
    "email.clicked": EventType.CLICKED,
    "email.complained": EventType.COMPLAINED,
    "email.unsubscribed": EventType.UNSUBSCRIBED,
    "email.resubscribed": EventType.SUBSCRIBED,
    "email.received": EventType.INBOUND,
}


class Emailit(BySecret, Provider):
    """Emailit's webhooks."""

    name = "emailit"
    title = "Emailit"
    basis = "verified"
    covers = "body"
    words = _WORDS
    reply = Reply(
        retries=(
            "Anything but 2xx is repeated after 5 and 30 minutes, 2, 5 and then every 12 hours, 11 attempts in three "
            "days; after them the webhook is disabled."
        ),
        timeout=30.0,
        max_body=4 << 20,
    )
    Settings = EmailitSettings
    right = _RIGHT
    window = WINDOW

    async def authenticate(self, delivery: Delivery) -> Authentic:
        stamp = header(delivery.headers, _TIMESTAMP)
        signed_at = unix_seconds(stamp, _TIMESTAMP)
        check_hex(delivery.headers, _SIGNATURE, self._keys, b"%s.%s" % (stamp.encode(), delivery.body))
        check_time(signed_at, self._now(), past=self._tolerance)
        return Authentic(payload=delivery.body)

    def parse(self, payload: bytes) -> Iterable[Item | UnreadableItem]:
        return items_of(payload)

    def read(self, item: Item) -> Sequence[Reading]:
        value = event_object(item, "an Emailit event")
        return [_reading(value)]


def _reading(value: Mapping[str, Any]) -> Reading:
    word = text(value.get("type")) or ""
    thing = mapping(mapping(value.get("data")).get("object")) or mapping(value.get("object"))
    email = mapping(thing.get("email")) or thing  # of a load or a click it is inside
    recipient = first_text(email, "rcpt_to", "to", "email")  # the last of a suppression, a contact
    time = first_text(thing, *_TIMES)
    number, own_id = text(value.get("event_id")), text(thing.get("id"))
    type_ = _WORDS.get(word, EventType.UNKNOWN)
    campaign = email.get("campaign")
    return Reading(
        type=type_,
        word=word,
        identity=(number, word, own_id, recipient, time) if number else None,
        occurred_at=iso_time(time),
        provider_event_id=number,
        recipient=recipient,
        message_id=text(email.get("id")) if _is_email(email) else text(thing.get("email_id")),
        sender=first_text(email, "mail_from", "from"),
        verdict=BounceCategory.UNDETERMINED if type_ is EventType.BOUNCED else None,
        smtp_code=integer(thing.get("smtp_code"), low=200, high=599),
        enhanced_code=text(thing.get("smtp_enhanced_code")),
        diagnostic=text(thing.get("smtp_response")),
        reject_reason=RejectReason.OTHER if type_ is EventType.REJECTED else None,  # none of them says why
        campaign=text(campaign) or text(mapping(campaign).get("id")),
        metadata=mapping(email.get("meta")) or None,
        subject=text(email.get("subject")),
        url=text(mapping(thing.get("link")).get("url")),
        user_agent=text(thing.get("user_agent")),
        client_ip=text(thing.get("ip_address")),
    )


def _is_email(value: Mapping[str, Any]) -> bool:
    return text(value.get("object")) in (None, "email")


# The simulator's side.

_PERSON: Final = {
    "ip_address": "203.0.113.42",
    "user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0",
}
_OF_TYPE: Final[Mapping[EventType, str]] = {
    EventType.QUEUED: "accepted",
    EventType.DELIVERED: "delivered",
    EventType.DEFERRED: "attempted",
    EventType.BOUNCED: "bounced",
    EventType.FAILED: "failed",
    EventType.REJECTED: "suppressed",
    EventType.OPENED: "loaded",
    EventType.CLICKED: "clicked",
    EventType.COMPLAINED: "complained",
    EventType.UNSUBSCRIBED: "unsubscribed",
    EventType.SUBSCRIBED: "resubscribed",
    EventType.INBOUND: "received",
}


def _sample(what: Occurrence) -> dict[str, Any]:
    word = _OF_TYPE[what.type]
    event, mail = (uuid5(NAMESPACE_URL, f"{what.run}/{what.number}/{part}").hex for part in (word, "mail"))
    thing = _action(what, mail) if what.type in {EventType.OPENED, EventType.CLICKED} else _email(what, word, mail)
    return {"event_id": f"evt_{event}", "type": f"email.{word}", "object": thing, "data": {"object": thing}}


def _email(what: Occurrence, word: str, mail: str) -> dict[str, Any]:
    at = what.at.astimezone(UTC).isoformat()
    answer = {"smtp_code": 451, "smtp_enhanced_code": "4.7.1", "smtp_response": "4.7.1 Try again later"}
    return {
        "id": f"em_{mail}",
        "object": "email",
        "from": what.sender,
        "to": what.recipient,
        "subject": "Autumn news",
        "status": word,
        "meta": {"customer": "4711"},
        "updated_at": at,
        "created_at": at,
        **(answer if what.type is EventType.DEFERRED else {}),
    }


def _action(what: Occurrence, mail: str) -> dict[str, Any]:
    at = what.at.astimezone(UTC).isoformat()
    about = {"rcpt_to": what.recipient, "mail_from": what.sender, "subject": "Autumn news", "meta": None}
    made = {"email": {"id": f"em_{mail}", **about, "created_at": at}, **_PERSON, "created_at": at}
    if what.type is EventType.CLICKED:
        link = {"id": "link_1", "url": "https://example.com/autumn"}
        return {"id": f"click_{mail}", "object": "click", "link": link, **made}
    return {"id": f"load_{mail}", "object": "load", **made}


def _post(items: Sequence[Any], keys: Mapping[str, str], now: datetime) -> Sequence[Post]:
    stamp = str(int(now.timestamp()))

    def headers(body: bytes) -> Mapping[str, str]:
        signature = hmacs.hexadecimal(keys["signing_secret"], stamp.encode(), b".", body)
        return {"user-agent": "Emailit-Webhooks/2.0", _SIGNATURE: signature, _TIMESTAMP: stamp}

    return posts.in_batches(items, BATCH, headers)


Emailit.simulation = Simulation(
    types=tuple(_OF_TYPE),
    demo=hmacs.demo(prefix="whsec_"),
    keys=hmacs.keys(),
    sample=_sample,
    post=_post,
    setup=(
        "1. Emailit dashboard: Webhooks, Create webhook. URL: {url}. Switch on All events (some cannot be picked\n"
        "   singly).\n"
        "2. Save, copy the secret into `signing_secret`, restart the receiver, and press Send test."
    ),
)

PROVIDER: Final[type[Provider]] = Emailit
