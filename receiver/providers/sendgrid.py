"""Twilio SendGrid: the Event Webhook.

Rests on
- "Event Webhook Reference", https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event
- "Getting Started with the Event Webhook Security Features", same place; the tests' published key and
  signature are those of https://github.com/sendgrid/sendgrid-nodejs/tree/main/packages/eventwebhook
- "Bounce and Block Classifications", https://www.twilio.com/docs/sendgrid/ui/analytics-and-reporting
all seen 2026-11.

Signature: ECDSA (P-256, SHA-256) over the timestamp header and the raw body, which covers every byte. A retry
may come with its first timestamp (nothing is documented), and SendGrid retries for 24 hours, so the window is
25 hours; a replay within it is stored once. Instead of it, or beside it, SendGrid knows OAuth 2.0 ("Security
Features", as above: the two can be used at once): what is set is required. A token alone covers nothing of the body.

Status codes: 2xx is kept, every other code is tried again for 24 hours ("Event Webhook Reference").

Identity: the word, `type`, raw message id (`smtp-id` where there is none), address, time, link and its place
in the mail, attempt, unsubscribe group, IP address and user agent. Never `sg_event_id`: it changes on some
retries. Where SendGrid gives no time: the whole item without `sg_event_id`.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import msgspec
from pydantic import Field

from receiver import signatures
from receiver.contract import (
    Authentic,
    Delivery,
    Item,
    Occurrence,
    Post,
    Provider,
    PublicKeys,
    Reply,
    Simulation,
    UnreadableItem,
    World,
)
from receiver.errors import Problem, Unreadable
from receiver.event import Actor, BounceCategory, EventType, Reading, RejectReason
from receiver.oauth import Client, ClientSettings, client_problems
from receiver.payload import bare_id, integer, items_of, mapping, stable_text, text, texts, unix_time
from receiver.signers import credentials, ecdsa

SIGNATURE: Final = "x-twilio-email-event-webhook-signature"
TIMESTAMP: Final = "x-twilio-email-event-webhook-timestamp"
WINDOW: Final = 25 * 3600.0
BATCH: Final = 768 * 1024  # bytes after which SendGrid sends what it has gathered

_RIGHT_KEY: Final = (
    "It is the base64 text that starts with MFkwEwYH: SendGrid console, Settings > Mail Settings > "
    "Event Webhooks, edit the webhook, Signature Verification, Public Key"
)
# Public keys of SendGrid's own examples. Their private halves are known or may be.
_PUBLISHED: Final = frozenset(
    b64decode("MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE" + point)
    for point in (
        "EDr2LjtURuePQzplybdC+u4CwrqDqBaWjcMMsTbhdbcwHBcepxo7yAQGhHPTnlvFYPAZFceEu/1FwCM/QmGUhA==",
        "qTxd43gyp8IOEto2LdIfjRQrIbsd4SXZkLW6jDutdhXSJCWHw8REntlo7aNDthvj+y7GjUuFDb/R1NGe1OPzpA==",
        "0wuSSQf427N670xAsZ5vKZcyA0d9+/YyGnLDN4mv11ikucYzBOSyPQlfKkWSD1mS7zYzljgt9iWw7jUFVrwFjg==",
    )
)


class SendGridSettings(ClientSettings):
    """`public_key`: the webhook's verification key, or several. Enabling it anew makes a new one.

    Without one, OAuth's client is the only proof.
    """

    public_key: PublicKeys = Field(default=[], description="verification key: base64 of DER, or PEM")


_WORDS: Final[Mapping[str, EventType]] = {
    "processed": EventType.QUEUED,
    "dropped": EventType.REJECTED,
    "delivered": EventType.DELIVERED,
    "deferred": EventType.DEFERRED,
    "bounce": EventType.BOUNCED,
    "open": EventType.OPENED,
    "click": EventType.CLICKED,
    "spamreport": EventType.COMPLAINED,
    "unsubscribe": EventType.UNSUBSCRIBED,
    "group_unsubscribe": EventType.UNSUBSCRIBED,
    "group_resubscribe": EventType.SUBSCRIBED,
}

# A drop's reason contains one of these; the first counts. The list in the reference is not complete.
_DROPS: Final[Sequence[tuple[str, EventType, RejectReason]]] = (
    ("smtpapi", EventType.FAILED, RejectReason.OTHER),
    ("spam content", EventType.FAILED, RejectReason.CONTENT),
    ("quota", EventType.FAILED, RejectReason.QUOTA),
    ("unsubscribe", EventType.REJECTED, RejectReason.UNSUBSCRIBED),
    ("spam report", EventType.REJECTED, RejectReason.COMPLAINED),
    ("bounce", EventType.REJECTED, RejectReason.BOUNCED),
    ("invalid", EventType.REJECTED, RejectReason.INVALID),
)

# SendGrid's own groups, by the start of the name: one document says "Technical", another "Technical Failure".
_CLASSES: Final[Sequence[tuple[str, BounceCategory]]] = (
    ("content", BounceCategory.BLOCK),
    ("reputation", BounceCategory.BLOCK),
    ("frequency", BounceCategory.BLOCK),
    ("technical", BounceCategory.SOFT),
    ("mailbox unavailable", BounceCategory.SOFT),
)

# What is not SendGrid's is the sender's: custom arguments stand flat among SendGrid's own fields.
_DOCUMENTED: Final = """
email timestamp event smtp-id sg_event_id sg_message_id category reason status response attempt type tls ip
useragent url url_offset asm_group_id unique_args custom_args pool sg_machine_open bounce_classification
domain from sg_content_type sg_template_id sg_template_name sg_user_id marketing_campaign_id
marketing_campaign_name marketing_campaign_version marketing_campaign_split_id post_type newsletter
singlesend_id singlesend_name send_at
"""
# Ordinary words that are SendGrid's only in mails of its Marketing Campaigns (which carry `mc_stats`).
_OF_MARKETING: Final = """
mc_stats mc_pod_id mc_auto_id mc_auto_name mc_auto_step_id phase_id template_hash template_id template_version_id
"""
# Which column takes a documented field as it is; "": none, or it takes more than that. `ip` is the sending
# address, but where a person did something it is the person's.
_FIELDS: Final[Mapping[str, str]] = {
    **dict.fromkeys(_DOCUMENTED.split(), ""),
    "email": "recipient",
    "sg_event_id": "provider_event_id",
    "from": "sender",
    "status": "enhanced_code",
    "response": "diagnostic",
    "asm_group_id": "topic",
    "sg_template_id": "template_id",
    "url": "url",
    "useragent": "user_agent",
    "ip": "sending_ip",
}
_MARKETING_FIELDS: Final[Mapping[str, str]] = {**dict.fromkeys(_OF_MARKETING.split(), ""), **_FIELDS}
_UNKNOWN, _BOUNCED, _REJECTED = EventType.UNKNOWN, EventType.BOUNCED, EventType.REJECTED
_ENGAGED: Final = frozenset({"open", "click", "spamreport", "unsubscribe", "group_unsubscribe", "group_resubscribe"})

# What the console's "Test your integration" and `POST /v3/user/webhooks/event/test` send: unchanged for
# ten years but for times and event ids. Some documents' samples have the literal "sg_message_id".
_TEST_IDS: Final = ("14c5d75ce93.dfd.64b469", "<14c5d75ce93.dfd.64b469", "sg_message_id")


class SendGrid(Provider):
    """Twilio SendGrid's Event Webhook: signed batches, one event for each item."""

    name = "sendgrid"
    title = "Twilio SendGrid"
    basis = "verified"
    covers = "body"
    words = _WORDS
    # Anything but 2xx is retried, so a wrong key of ours costs nothing. Bodies end soon after 768 KB.
    reply = Reply(
        retries="Anything but 2xx is repeated for 24 hours at growing intervals.",
        max_body=4 << 20,
    )
    Settings = SendGridSettings

    def __init__(self, settings: SendGridSettings, world: World) -> None:
        self._keys = [signatures.ecdsa_key(key) for key in settings.public_key]
        self._client = Client(settings)
        self._tolerance = settings.tolerance or WINDOW
        self._now = world.now

    @staticmethod
    def problems(settings: SendGridSettings, key: str) -> Sequence[Problem]:
        wrong_client = client_problems(settings, key)
        key = f"{key}.public_key"
        if not settings.public_key and not settings.client_secret and not wrong_client:
            return [Problem(key, "is missing, so nothing would prove the sender", _RIGHT_KEY)]
        found = [(_key_problem(value), number) for number, value in enumerate(settings.public_key, 1)]
        one = len(found) == 1
        wrong_keys = [
            Problem(key if one else f"{key} (number {number})", wrong, _RIGHT_KEY) for wrong, number in found if wrong
        ]
        return [*wrong_client, *wrong_keys]

    @staticmethod
    def warnings(settings: SendGridSettings) -> Sequence[str]:
        """A token says who calls, not what."""
        why = "without public_key nothing proves what the body says: enable Signature Verification at SendGrid"
        return [] if settings.public_key else [why]

    async def authenticate(self, delivery: Delivery) -> Authentic:
        if self._client:
            self._client.check(delivery)
        if self._keys or not self._client:
            self._check_signature(delivery)
        return Authentic(payload=delivery.body)

    def _check_signature(self, delivery: Delivery) -> None:
        given = signatures.header(delivery.headers, SIGNATURE)
        stamp = signatures.header(delivery.headers, TIMESTAMP)
        signature = signatures.unbase64(given, SIGNATURE)
        signed_at = signatures.unix_seconds(stamp, TIMESTAMP)
        signed = stamp.encode() + delivery.body
        if not any(signatures.ecdsa_match(key, signature, signed) for key in self._keys):
            raise signatures.wrong_key("public keys")
        signatures.check_time(signed_at, self._now(), past=self._tolerance)

    def parse(self, payload: bytes) -> Iterable[Item | UnreadableItem]:
        return items_of(payload)

    def read(self, item: Item) -> Sequence[Reading]:
        value = item.value
        if not isinstance(value, dict):
            raise Unreadable("an event is not a JSON object")
        get = value.get
        word = text(get("event")) or ""
        type_, verdict, reject_reason = _meaning(word, value)
        stamp = get("timestamp")
        occurred_at, stamp_text = _whole_second(stamp) if type(stamp) is int else (_time(stamp), text(stamp))
        raw_id, smtp_id = text(get("sg_message_id")), text(get("smtp-id"))
        columns, own = _columns(value)
        message = raw_id or smtp_id
        identity = _identity(value, word, message, stamp_text, columns) if occurred_at else _undated(value)
        if word in _ENGAGED and "sending_ip" in columns:
            columns["client_ip"] = columns.pop("sending_ip")
        if "pool" in value:
            columns["ip_pool"] = text(mapping(value["pool"]).get("name"))
        if "reason" in value:
            columns["diagnostic"] = text(value["reason"]) or columns.get("diagnostic")
        if "attempt" in value:
            columns["attempt"] = integer(value["attempt"])
        if get("sg_machine_open") is True:
            columns["actor"] = Actor.MACHINE
        return (
            Reading(
                type=type_,
                word=word,
                identity=identity,
                occurred_at=occurred_at,
                message_id=_message_id(raw_id),
                internet_message_id=bare_id(smtp_id),
                verdict=verdict,
                reject_reason=reject_reason,
                campaign=_campaign(value),
                tags=texts(get("category")),
                metadata=own,
                is_test=message is not None and message.startswith(_TEST_IDS),
                **columns,
            ),
        )


def _meaning(word: str, value: Mapping[str, Any]) -> tuple[EventType, BounceCategory | None, RejectReason | None]:
    type_ = _WORDS.get(word, _UNKNOWN)
    if type_ is _BOUNCED:
        return type_, _verdict(value), None
    if type_ is _REJECTED:
        reason = (text(value.get("reason")) or "").lower()
        for part, dropped, reject_reason in _DROPS:
            if part in reason:
                return dropped, None, reject_reason
        return type_, None, RejectReason.OTHER
    return type_, None, None


def _verdict(value: Mapping[str, Any]) -> BounceCategory:
    """SendGrid's view. `bounce`: permanent; `blocked`: this message; `expired`: tried for 72 hours."""
    kind = value.get("type")
    group = (text(value.get("bounce_classification")) or "").lower()
    for start, category in _CLASSES:
        if group.startswith(start):
            return category
    if kind == "blocked":
        # SendGrid does not suppress after a block: with "Invalid Address" only code and text may decide.
        return BounceCategory.UNDETERMINED if group.startswith("invalid") else BounceCategory.BLOCK
    return BounceCategory.SOFT if kind == "expired" else BounceCategory.HARD


def _columns(value: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The columns that take a field as it is, and the fields that are not SendGrid's: the custom arguments."""
    fields = _MARKETING_FIELDS if "mc_stats" in value else _FIELDS
    columns: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for key, member in value.items():
        column = fields.get(key)
        if column is None:
            own[key] = member
        elif column:
            columns[column] = (member or None) if type(member) is str else text(member)
    for named in ("unique_args", "custom_args"):
        if named in value:
            own = {**mapping(value[named]), **own}
    return columns, own or None


def _identity(
    value: Mapping[str, Any],
    word: str,
    message: str | None,
    stamp: str | None,
    columns: Mapping[str, str | None],
) -> Sequence[str | None]:
    get, column = value.get, columns.get
    return (
        word,
        text(get("type")) if "type" in value else None,
        message,
        column("recipient"),
        stamp,
        column("url"),
        text(mapping(get("url_offset")).get("index")) if "url_offset" in value else None,
        text(get("attempt")) if "attempt" in value else None,
        column("topic"),
        column("sending_ip"),
        column("user_agent"),
    )


def _undated(value: Mapping[str, Any]) -> Sequence[str]:
    return "raw", stable_text(value, without=("sg_event_id",))


def _time(value: object) -> datetime | None:
    """Seconds; milliseconds (beyond the year 9999 as seconds) in the reference's sample of a Single Send."""
    return unix_time(value) or unix_time(value, per_second=1000)


@lru_cache(maxsize=1024)  # the events of a batch share few of them
def _whole_second(stamp: int) -> tuple[datetime | None, str | None]:
    return _time(stamp), text(stamp)


def _message_id(raw: str | None) -> str | None:
    """The `X-Message-Id` of the send call: what stands before `.filter...` or `.recvd...`, else before a dot.

    Not always before the first dot: the id of the documents' own sample has dots.
    """
    if raw is None:
        return None
    raw = raw.strip()
    for mark in (".recvd", ".filter"):
        cut = raw.find(mark)
        if cut > 0:
            return raw[:cut]
    return raw.partition(".")[0] or None


def _campaign(value: Mapping[str, Any]) -> str | None:
    if not ("singlesend_id" in value or "marketing_campaign_id" in value or "newsletter" in value):
        return None
    return (
        text(value.get("singlesend_id"))
        or text(value.get("marketing_campaign_id"))
        or text(mapping(value.get("newsletter")).get("newsletter_id"))
    )


# Keys


def _key_problem(key: str) -> str | None:
    if not key.strip():
        return "is empty"
    try:
        signatures.ecdsa_key(key)
        published = signatures.key_bytes(key) in _PUBLISHED
    except ValueError:
        return "is no base64 of a public key on P-256"
    return "is a sample from published documents, which everybody could sign for" if published else None


# Simulation


def _demo(_: Path) -> tuple[dict[str, Any], dict[str, str]]:
    private, public = ecdsa.new_key_pair()
    return {"public_key": [public]}, {"private_key": private}


def _sample(occurrence: Occurrence) -> dict[str, Any]:
    digest = hashlib.sha256(f"{occurrence.run}.{occurrence.number}".encode()).digest()
    message = b64encode(digest[:16], b"-_").decode().rstrip("=")
    return {
        "email": occurrence.recipient,
        "timestamp": int(occurrence.at.timestamp()),
        "sg_event_id": b64encode(digest[16:], b"-_").decode().rstrip("="),
        "sg_message_id": f"{message}.recvd-5d8f9c7b6d-x2k4q-1-{digest[0]:02X}A91C03-{digest[1]:X}.0",
        "category": ["newsletter", "autumn"],
        "campaign_key": occurrence.run,
        **_OF_TYPE[occurrence.type],
    }


_DELIVERY: Final = {"smtp-id": "<Zc4vQ9TQRk2mO0xw@geopod-ismtpd-12>", "ip": "192.0.2.40", "tls": 1}
_PERSON: Final = {
    "ip": "198.51.100.23",
    "useragent": "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:144.0) Gecko/20100101 Firefox/144.0",
}
_OF_TYPE: Final[Mapping[EventType, Mapping[str, Any]]] = {
    EventType.QUEUED: {
        "event": "processed",
        "smtp-id": _DELIVERY["smtp-id"],
        "pool": {"name": "marketing", "id": 210},
        "send_at": 0,
    },
    EventType.REJECTED: {"event": "dropped", "reason": "Bounced Address", "status": "5.0.0"},
    EventType.FAILED: {"event": "dropped", "reason": "Recipient List over Package Quota", "status": "5.0.0"},
    EventType.DELIVERED: {"event": "delivered", **_DELIVERY, "response": "250 2.0.0 OK"},
    EventType.DEFERRED: {
        "event": "deferred",
        **_DELIVERY,
        "response": "451 4.7.1 Greylisted, try again later",
        "attempt": "3",
        "domain": "example.org",
        "from": "news@example.net",
    },
    EventType.BOUNCED: {
        "event": "bounce",
        **_DELIVERY,
        "type": "bounce",
        "bounce_classification": "Invalid Address",
        "reason": "550 5.1.1 The email account that you tried to reach does not exist",
        "status": "5.1.1",
    },
    EventType.OPENED: {"event": "open", **_PERSON, "sg_machine_open": False, "sg_content_type": "html"},
    EventType.CLICKED: {
        "event": "click",
        **_PERSON,
        "url": "https://shop.example.com/autumn?utm_source=newsletter",
        "url_offset": {"index": 0, "type": "html"},
    },
    EventType.COMPLAINED: {"event": "spamreport"},
    EventType.UNSUBSCRIBED: {"event": "group_unsubscribe", **_PERSON, "asm_group_id": 10},
    EventType.SUBSCRIBED: {"event": "group_resubscribe", **_PERSON, "asm_group_id": 10},
}


def _post(items: Sequence[Any], keys: Mapping[str, str], now: datetime) -> Sequence[Post]:
    stamp = str(int(now.timestamp()))
    posts = []
    for body in _batches(items):
        headers = {"content-type": "application/json;charset=utf-8", **credentials.headers(keys)}
        if "private_key" in keys:
            headers[SIGNATURE] = ecdsa.sign(keys["private_key"], stamp.encode() + body)
            headers[TIMESTAMP] = stamp
        posts.append(Post(headers=headers, body=body))
    return posts


def _batches(items: Sequence[Any]) -> Iterable[bytes]:
    """Bodies of at most 768 KB, each with SendGrid's line breaks between items and at the end."""
    batch: list[bytes] = []
    size = 0
    for item in map(msgspec.json.encode, items):
        if batch and size + len(item) > BATCH:
            yield b"[" + b",\r\n".join(batch) + b"]\r\n"
            batch, size = [], 0
        batch.append(item)
        size += len(item) + 3
    if batch:
        yield b"[" + b",\r\n".join(batch) + b"]\r\n"


SendGrid.simulation = Simulation(
    types=tuple(_OF_TYPE),
    demo=_demo,
    keys=lambda settings: None if settings.public_key else {},
    sample=_sample,
    post=_post,
    volatile=("sg_event_id",),
    setup=(
        "1. SendGrid console: Settings > Mail Settings > Event Webhooks > Create new webhook. Post URL: {url}.\n"
        "   Choose the events.\n"
        "2. Enable Signature Verification, save, and copy the Public Key into `public_key`.\n"
        "3. With it or instead of it, Authorization Method OAuth 2.0: `client_id` and `client_secret`, and as\n"
        "   token URL /oauth/token on the same host."
    ),
    unsignable=(
        "SendGrid keeps the private key, so the simulator cannot sign for it. Use the source that --demo "
        "makes, or list a second public key of your own: public_key = [SendGrid's, yours]."
    ),
)

PROVIDER: Final[type[Provider]] = SendGrid
