"""Mandrill (Mailchimp Transactional): message, sync and inbound webhooks.

Rests on (all seen 2026-11)
- "How to Authenticate Webhook Requests", https://mandrill.zendesk.com/hc/en-us/articles/360039232513
- "Webhook Format" and "Message Event Webhook Format", https://mandrill.zendesk.com/hc/en-us/articles/360038740594
  and /205583307, with the events that the button "Send Test" posts
- "Introduction to Webhooks", https://mandrill.zendesk.com/hc/en-us/articles/205583217, and the articles on sync and
  inbound events next to it
- the API's specification, https://github.com/mailchimp/mailchimp-client-lib-codegen, spec/transactional.json: the
  reasons of a rejection

What the signature covers: base64 of HMAC-SHA1 over the URL exactly as entered at Mandrill (user info, query and
trailing slash included) and every form field, name and value, sorted by name. So each byte of the body counts, and a
signature for another URL does not fit. No time is signed: whoever gets hold of a request can repeat it, which stores
nothing new. Nothing separates what is signed, and an escape can be written in several ways: a thief could break a
request in two, but put no other words into it, and of what cannot be read one body is kept for each signed text.

When a webhook is made, Mandrill asks by HEAD; where that is not answered 200, by a POST of an empty list that is signed
with the literal key `test-webhook`, because the key of its own comes with the webhook. Everybody knows that key, so it
counts for an empty list alone.

Status codes: 200 is kept, every other code is tried again.

Identity: there is no event id (`_id` is the message's). Hashed are word, `_id` (an inbound message's `Message-Id`, a
sync event's `action`), recipient, time, link, address and user agent. Not hashed: `msg`, which tells the state at the
time of sending. Without a time: all but `msg`; without an id: the whole item.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from secrets import token_urlsafe
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from pydantic import Field

from receiver.contract import (
    Answer,
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
    World,
    secret_bytes,
    secret_problems,
)
from receiver.errors import Problem, Reason, Refused
from receiver.event import BounceCategory, EventType, Reading, RejectReason
from receiver.forms import bytes_of
from receiver.payload import (
    bare_id,
    event_object,
    first_text,
    items_of,
    mapping,
    sequence,
    stable_text,
    strip,
    text,
    texts,
    unix_time,
)
from receiver.signatures import any_hmac_sha1, header, unbase64, wrong_key
from receiver.signers import hmacs

HEADER: Final = "x-mandrill-signature"
FIELD: Final = "mandrill_events"
TEST_KEY: Final = "test-webhook"
TEST_RECIPIENT: Final = "example.webhook@mandrillapp.com"  # of what the button "Send Test" posts
BATCH: Final = 1000

_RIGHT_KEY: Final = (
    "It is in the column Key: Mandrill, Settings, Webhooks; each webhook has its own. Until the webhook is made, put "
    "16 random characters here"
)
_RIGHT_URL: Final = "The URL exactly as it stands at Mandrill, such as https://hooks.example.com/webhooks/mandrill"


class MandrillSettings(SourceSettings):
    """The key of the webhook, or several; `public_url` is signed and so required."""

    webhook_key: Secrets = Field(default=[], description="the webhook's key(s)")
    public_url: str | None = Field(
        None,
        description="the URL exactly as entered at Mandrill, which signs it",
        examples=["https://your-host/webhooks/mandrill"],
    )


# `event`; sync events have `type` instead and concern no message.
WORDS: Final[Mapping[str, EventType]] = {
    "send": EventType.SENT,
    "delivered": EventType.DELIVERED,
    "deferral": EventType.DEFERRED,
    "hard_bounce": EventType.BOUNCED,
    "soft_bounce": EventType.BOUNCED,
    "open": EventType.OPENED,
    "click": EventType.CLICKED,
    "spam": EventType.COMPLAINED,
    "unsub": EventType.UNSUBSCRIBED,
    "reject": EventType.REJECTED,
    "inbound": EventType.INBOUND,
    "blacklist": EventType.UNKNOWN,
    "whitelist": EventType.UNKNOWN,
}
_VERDICTS: Final[Mapping[str, BounceCategory]] = {
    "hard_bounce": BounceCategory.HARD,
    "soft_bounce": BounceCategory.SOFT,
}
# Not `soft-bounce`: such an address is held back for some days and is not dead, as `bounced` would say.
_REJECTS: Final[Mapping[str, RejectReason]] = {
    "hard-bounce": RejectReason.BOUNCED,
    "spam": RejectReason.COMPLAINED,
    "unsub": RejectReason.UNSUBSCRIBED,
    "invalid": RejectReason.INVALID,
    "invalid-sender": RejectReason.POLICY,
    "unsigned": RejectReason.POLICY,
    "rule": RejectReason.POLICY,
    "test-mode-limit": RejectReason.QUOTA,
}


class Mandrill(Provider):
    """One source of Mandrill."""

    name = "mandrill"
    title = "Mandrill (Mailchimp Transactional)"
    basis = "verified"
    covers = "body"
    words = WORDS
    reply = Reply(
        retries="Anything but 200 is repeated at increasing intervals; for how long is not documented.",
        max_body=8 << 20,
    )
    Settings = MandrillSettings

    def __init__(self, settings: MandrillSettings, world: World) -> None:  # noqa: ARG002 - the contract's
        self._keys = secret_bytes(settings.webhook_key)
        self._url = (settings.public_url or "").encode()

    @staticmethod
    def problems(settings: MandrillSettings, key: str) -> Sequence[Problem]:
        found = secret_problems(settings.webhook_key, f"{key}.webhook_key", _RIGHT_KEY, published=(TEST_KEY,))
        if not settings.public_url:
            wrong = "is missing, and Mandrill signs the URL, so that no request could be verified"
            found.append(Problem(f"{key}.public_url", wrong, _RIGHT_URL))
        elif urlsplit(settings.public_url).scheme not in {"http", "https"}:
            found.append(Problem(f"{key}.public_url", "is no http or https URL", _RIGHT_URL))
        return found

    async def authenticate(self, delivery: Delivery) -> Authentic:
        given = unbase64(header(delivery.headers, HEADER), HEADER)
        try:
            fields = bytes_of(delivery.body)
        except ValueError as error:
            raise Refused(Reason.MALFORMED_HEADER, f"no form that Mandrill sends: {error}") from error
        events = strip(dict(fields).get(FIELD.encode(), b""))
        if events == b"[]":
            self._check(fields, given, [TEST_KEY.encode()])
            return Authentic(payload=events, answer=Answer(status=200))
        return Authentic(payload=events, proof=self._check(fields, given, []))

    def _check(self, fields: Sequence[tuple[bytes, bytes]], given: bytes, more: Sequence[bytes]) -> bytes:
        """What is signed. Raises Refused."""
        if not self._url:
            raise Refused(Reason.WRONG_KEY, "`public_url` is not set, which Mandrill signs", again=True)
        signed = self._url + b"".join(name + value for name, value in sorted(fields))
        if not any_hmac_sha1([*self._keys, *more], signed, given):
            raise wrong_key("webhook keys with the configured `public_url` (which must be as it stands at Mandrill)")
        return signed

    def parse(self, payload: bytes) -> Iterable[Item | UnreadableItem]:
        return items_of(payload)

    def read(self, item: Item) -> Sequence[Reading]:
        value = event_object(item, "a Mandrill event")
        word = first_text(value, "event", "type") or ""
        return [_message(value, word) if "msg" in value else _sync(value, word)]


def _message(value: Mapping[str, Any], word: str) -> Reading:
    msg = mapping(value.get("msg"))
    type_ = WORDS.get(word, EventType.UNKNOWN)
    attempt = _last_attempt(msg)
    recipient = text(msg.get("email"))
    message_id = first_text(value, "_id") or first_text(msg, "_id")
    header_id = first_text(mapping(msg.get("headers")), "Message-Id", "Message-ID")  # of an inbound message
    reason = _reject_reason(msg)
    return Reading(
        type=type_,
        word=word,
        identity=_identity(value, word, message_id or header_id, recipient),
        occurred_at=unix_time(value.get("ts")),
        recipient=recipient,
        message_id=message_id,
        internet_message_id=bare_id(header_id),
        sender=first_text(msg, "sender", "from_email"),
        verdict=_VERDICTS.get(word),
        diagnostic=_diagnostic(type_, msg, attempt) or (reason if type_ is EventType.REJECTED else None),
        reject_reason=_REJECTS.get(reason or "", RejectReason.OTHER) if type_ is EventType.REJECTED else None,
        sending_ip=text(attempt.get("source_ip")),
        template_id=text(msg.get("template")),
        tags=texts(msg.get("tags")),
        metadata=mapping(msg.get("metadata")) or None,  # an empty list where there is none
        subject=text(msg.get("subject")),
        url=text(value.get("url")),
        user_agent=text(value.get("user_agent")),
        client_ip=text(value.get("ip")),
        country=text(mapping(value.get("location")).get("country_short")),
        is_test=recipient == TEST_RECIPIENT,
    )


def _sync(value: Mapping[str, Any], word: str) -> Reading:
    """A change of the deny list (`reject`) or the allow list (`entry`)."""
    entry = mapping(value.get("reject")) or mapping(value.get("entry"))
    recipient = text(entry.get("email"))
    return Reading(
        type=WORDS.get(word, EventType.UNKNOWN),
        word=word,
        identity=_identity(value, word, text(value.get("action")), recipient),
        occurred_at=unix_time(value.get("ts")),
        recipient=recipient,
        sender=text(entry.get("sender")),
        diagnostic=first_text(entry, "detail", "reason"),
        is_test=recipient == TEST_RECIPIENT,
    )


def _identity(value: Mapping[str, Any], word: str, about: str | None, recipient: str | None) -> Sequence[str | None]:
    """`about`: the message's id, or what was done to the list."""
    if about is None or text(value.get("ts")) is None:
        return "raw", about, recipient, stable_text(value, without=() if about is None else ("msg",))
    return word, about, recipient, *(text(value.get(name)) for name in ("ts", "url", "ip", "user_agent"))


def _last_attempt(msg: Mapping[str, Any]) -> Mapping[str, Any]:
    attempts = sequence(msg.get("smtp_events"))
    return mapping(attempts[-1]) if attempts else {}


def _diagnostic(type_: EventType, msg: Mapping[str, Any], attempt: Mapping[str, Any]) -> str | None:
    if type_ is EventType.BOUNCED:
        return first_text(msg, "diag", "bounce_description")
    return text(attempt.get("diag")) if type_ in {EventType.DEFERRED, EventType.DELIVERED} else None


def _reject_reason(msg: Mapping[str, Any]) -> str | None:
    reject = msg.get("reject")
    return first_text(reject, "reason") if isinstance(reject, dict) else text(reject)


# Simulation

DEMO_URL: Final = "https://hooks.example.com/webhooks/mandrill"

_SEEN: Final[Mapping[str, Any]] = {
    "ip": "203.0.113.7",
    "location": {"country_short": "DE", "country": "Germany", "region": "Berlin", "city": "Berlin"},
    "user_agent": "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:144.0) Gecko/20100101 Firefox/144.0",
}
# The word, what stands beside `msg`, and what stands in it.
_OF_TYPE: Final[Mapping[EventType, tuple[str, Mapping[str, Any], Mapping[str, Any]]]] = {
    EventType.SENT: ("send", {}, {"state": "sent"}),
    EventType.DELIVERED: ("delivered", {}, {"state": "delivered"}),
    EventType.DEFERRED: (
        "deferral",
        {},
        {"state": "deferred", "smtp_events": [{"type": "deferred", "diag": "451 4.3.5 Temporarily unavailable"}]},
    ),
    EventType.BOUNCED: (
        "hard_bounce",
        {},
        {"state": "bounced", "bounce_description": "bad_mailbox", "diag": "smtp;550 5.1.1 No such user"},
    ),
    EventType.OPENED: ("open", _SEEN, {"state": "sent"}),
    EventType.CLICKED: ("click", {**_SEEN, "url": "https://shop.example.com/autumn"}, {"state": "sent"}),
    EventType.COMPLAINED: ("spam", {}, {"state": "spam"}),
    EventType.UNSUBSCRIBED: ("unsub", {}, {"state": "unsub"}),
    EventType.REJECTED: ("reject", {}, {"state": "rejected", "reject": {"reason": "hard-bounce"}}),
}


def _demo(_: Path) -> tuple[dict[str, Any], dict[str, str]]:
    key = token_urlsafe(16)
    return {"webhook_key": [key], "public_url": DEMO_URL}, {"webhook_key": key, "public_url": DEMO_URL}


def _keys(settings: MandrillSettings) -> Mapping[str, str] | None:
    if not settings.webhook_key or not settings.public_url:
        return None
    return {"webhook_key": settings.webhook_key[0].get_secret_value(), "public_url": settings.public_url}


def _sample(what: Occurrence) -> dict[str, Any]:
    word, beside, inside = _OF_TYPE[what.type]
    message_id = sha256(f"{what.run} {what.number}".encode()).hexdigest()[:32]
    at = int(what.at.timestamp())
    msg = {
        "_id": message_id,
        "ts": at - 12,
        "email": what.recipient,
        "sender": what.sender,
        "subject": "Autumn news",
        "tags": ["letter"],
        "metadata": {"run": what.run},
        "template": "weekly-letter",
        "opens": [],
        "clicks": [],
    }
    return {"event": word, "_id": message_id, "ts": at, **beside, "msg": {**msg, **inside}}


def _post(items: Sequence[Any], keys: Mapping[str, str], _: datetime) -> Sequence[Post]:
    return [_request(items[start : start + BATCH], keys) for start in range(0, len(items), BATCH)]


def _request(batch: Sequence[Any], keys: Mapping[str, str]) -> Post:
    events = json.dumps(batch, separators=(",", ":")).encode(errors="replace")
    signed = (keys["public_url"].encode(), FIELD.encode(), events)
    headers = {
        "content-type": "application/x-www-form-urlencoded",
        "user-agent": "Mandrill-Webhook/1.0",
        HEADER: hmacs.base64(keys["webhook_key"], *signed, algorithm="sha1"),
    }
    return Post(headers=headers, body=urlencode({FIELD: events}).encode())


Mandrill.simulation = Simulation(
    types=tuple(_OF_TYPE),
    demo=_demo,
    keys=_keys,
    sample=_sample,
    post=_post,
    setup=(
        "1. Write {url} as `public_url` here, and 16 random characters into `webhook_key`. Start the receiver:\n"
        "   Mandrill asks whether the URL answers.\n"
        "2. Mandrill: Settings, Webhooks, Add a Webhook. Tick all message events. Post To URL: exactly the text of\n"
        "   `public_url`. It is signed, so that each character counts.\n"
        "3. Copy the webhook's Key into `webhook_key`, and restart the receiver."
    ),
    unsignable="Set `public_url` and `webhook_key`: both are needed to sign.",
)

PROVIDER: Final[type[Provider]] = Mandrill
