"""Mailjet (Sinch): the Event API.

Rests on (all seen 2026-11)
- "Event API: real-time notifications", https://dev.mailjet.com/email/guides/webhooks/, and its source,
  https://github.com/mailjet/api-documentation, guides/_event-api.md: a sample of each event, the table of errors
- "Event Tracking API", https://documentation.mailjet.com/hc/en-us/articles/360043578154: retries

What the proof covers: nothing of the body. Mailjet signs nothing and recommends Basic credentials in the URL.

Status codes: exactly 200 is success. Anything else is repeated every 30 seconds for 24 hours, after which the URL is
suspended until someone sets it anew. (Older documents say: 10 times, every 10 minutes.)

Identity: there is no event id. Hashed are word, `MessageID`, `Message_GUID`, `mj_message_id`, recipient, time, link,
address, user agent, list, and what a bounce says. Without a time: the whole item.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, ClassVar, Final
from uuid import UUID

from receiver.contract import Item, Occurrence, Post, Provider, Reply, Simulation, UnreadableItem
from receiver.credentials import ByCredentials, CredentialSettings
from receiver.event import BounceCategory, EventType, Reading, RejectReason
from receiver.payload import boolean, event_object, first_text, items_of, own_data, stable_text, text, unix_time
from receiver.signers import credentials as signer
from receiver.signers import posts

_RIGHT: Final = (
    "Put Basic credentials into the URL, https://user:password@... (Mailjet: Account Settings, Event notifications), "
    "and set the same here: at least 16 random letters and digits"
)

WORDS: Final[Mapping[str, EventType]] = {
    "sent": EventType.DELIVERED,  # "when the destination SMTP server has accepted the message"
    "open": EventType.OPENED,
    "click": EventType.CLICKED,
    "bounce": EventType.BOUNCED,
    "blocked": EventType.REJECTED,
    "spam": EventType.COMPLAINED,
    "unsub": EventType.UNSUBSCRIBED,
}
_GREYLISTED: Final = "greylisted"  # "Delivery will be re-attempted"
# Why it was blocked, by `error`. Not among them: `preblocked`, as the address "recently (or repeatedly) bounced", which
# may have been softly and holds for a while; `mailbox inactive`, which may come back; `no mail host`, as a server that
# does not answer says nothing about the address.
_REJECTS: Final[Mapping[str, RejectReason]] = {
    "user unknown": RejectReason.INVALID,
    "invalid domain": RejectReason.INVALID,
    "content blocked": RejectReason.CONTENT,
    "policy issue": RejectReason.POLICY,
}
_IDENTITY: Final = (
    "event",
    "MessageID",
    "Message_GUID",
    "mj_message_id",
    "email",
    "time",
    "url",
    "ip",
    "agent",
    "mj_list_id",
    "error_related_to",
    "error",
)


class Mailjet(ByCredentials, Provider):
    """One source of Mailjet."""

    name = "mailjet"
    title = "Mailjet"
    basis = "verified"
    covers = "nothing"
    words = WORDS
    right: ClassVar[str] = _RIGHT
    reply = Reply(
        repeated=lambda code: code != 200,
        retries="Anything but 200 is repeated every 30 seconds for 24 hours, then the URL is suspended.",
        max_body=4 << 20,
    )
    Settings = CredentialSettings

    def parse(self, payload: bytes) -> Iterable[Item | UnreadableItem]:
        return items_of(payload)  # an array where events are grouped (`Version` 2), else one object

    def read(self, item: Item) -> Sequence[Reading]:
        value = event_object(item, "a Mailjet event")
        return [_event(value)]


def _event(value: Mapping[str, Any]) -> Reading:
    get = value.get
    word = text(get("event")) or ""
    error = (text(get("error")) or "").lower()
    type_ = WORDS.get(word, EventType.UNKNOWN)
    if type_ is EventType.BOUNCED and error == _GREYLISTED and not boolean(get("hard_bounce")):
        type_ = EventType.DEFERRED
    at = text(get("time"))
    return Reading(
        type=type_,
        word=word,
        identity=[text(get(name)) for name in _IDENTITY] if at else ("raw", stable_text(value)),
        occurred_at=unix_time(at),
        recipient=text(get("email")),
        message_id=_message_id(value),
        verdict=_verdict(value) if type_ is EventType.BOUNCED else None,
        diagnostic=first_text(value, "smtp_reply", "comment", "error"),
        reject_reason=_REJECTS.get(error, RejectReason.OTHER) if type_ is EventType.REJECTED else None,
        topic=text(get("mj_list_id") or None),
        campaign=text(get("customcampaign")) or text(get("mj_campaign_id") or None),
        metadata=_metadata(value),
        url=text(get("url")),
        user_agent=text(get("agent")),
        client_ip=text(get("ip")),
        country=text(get("geo")),
    )


def _message_id(value: Mapping[str, Any]) -> str | None:
    """The send call returns both ids; the numbers are beyond 2^53, where many programs' JSON rounds them."""
    return first_text(value, "Message_GUID", "MessageID", "mj_message_id")


def _verdict(value: Mapping[str, Any]) -> BounceCategory:
    if value.get("error_related_to") in ("spam", "content"):
        return BounceCategory.BLOCK
    hard = boolean(value.get("hard_bounce"))
    if hard is None:
        return BounceCategory.UNDETERMINED
    return BounceCategory.HARD if hard else BounceCategory.SOFT


def _metadata(value: Mapping[str, Any]) -> Mapping[str, Any] | None:
    custom_id = text(value.get("CustomID"))
    return {**({"CustomID": custom_id} if custom_id else {}), **own_data(value.get("Payload"), "Payload")} or None


# Simulation

_AGENT: Final = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:144.0) Gecko/20100101 Firefox/144.0"
_SEEN: Final[Mapping[str, Any]] = {"ip": "203.0.113.7", "geo": "FR", "agent": _AGENT}
_DETAILS: Final[Mapping[EventType, Mapping[str, Any]]] = {
    EventType.DELIVERED: {"event": "sent", "smtp_reply": "sent (250 2.0.0 OK 1433333948 fa5si855896wjc.199 - gsmtp)"},
    EventType.OPENED: {"event": "open", **_SEEN},
    EventType.CLICKED: {"event": "click", "url": "https://shop.example.com/autumn", **_SEEN},
    EventType.BOUNCED: {
        "event": "bounce",
        "blocked": True,
        "hard_bounce": True,
        "error_related_to": "recipient",
        "error": "user unknown",
        "comment": "550 5.1.1 The email account that you tried to reach does not exist",
    },
    EventType.DEFERRED: {
        "event": "bounce",
        "blocked": False,
        "hard_bounce": False,
        "error_related_to": "domain",
        "error": "greylisted",
        "comment": "450 4.2.0 Greylisted, please try again later",
    },
    EventType.REJECTED: {"event": "blocked", "error_related_to": "mailjet", "error": "preblocked"},
    EventType.COMPLAINED: {"event": "spam", "source": "JMRPP"},
    EventType.UNSUBSCRIBED: {"event": "unsub", "mj_list_id": 1, **_SEEN},
}


def _sample(what: Occurrence) -> dict[str, Any]:
    digest = sha256(f"{what.run} {what.number}".encode()).digest()
    message = (1 << 60) + int.from_bytes(digest[:6], "big")
    return {
        "time": int(what.at.timestamp()),
        "MessageID": message,
        "Message_GUID": str(UUID(bytes=digest[:16], version=4)),
        "email": what.recipient,
        "mj_campaign_id": 7257,
        "mj_contact_id": 4,
        "customcampaign": f"letter-{what.run}",
        "CustomID": "order-4711",
        "Payload": '{"run": "' + what.run + '"}',
        **_DETAILS[what.type],
    }


def _post(items: Sequence[Any], keys: Mapping[str, str], _: datetime) -> Sequence[Post]:
    return posts.in_batches(items, 100, lambda _: signer.headers(keys), query=signer.query(keys))


Mailjet.simulation = Simulation(
    types=tuple(_DETAILS),
    demo=signer.demo("password"),
    keys=signer.keys,
    sample=_sample,
    post=_post,
    setup=(
        "1. Make a password of letters and digits with `openssl rand -hex 24`, and put it with a user into\n"
        "   `username` and `password`.\n"
        "2. Mailjet: Account Settings, Event notifications (webhooks). For each event type (sent, open, click,\n"
        "   bounce, spam, blocked, unsub) enter {url} with user and password in it, https://user:password@..., and\n"
        "   tick Group events."
    ),
)

PROVIDER: Final[type[Provider]] = Mailjet
