"""Resend: webhooks, delivered through Svix.

Rests on
- "Event Types" and the pages below it, https://resend.com/docs/webhooks/event-types
- "Verify Webhook Requests", https://resend.com/docs/webhooks/verify-webhooks-requests
- "Email Bounces", https://resend.com/docs/dashboard/emails/email-bounces
- https://github.com/resend/resend-openapi (resend.yaml)
- "Verifying Webhooks Manually", https://docs.svix.com/receiving/verifying-payloads/how-manual
all seen 2026-11.

Signature: Svix's, HMAC-SHA256 over id, timestamp and raw body, which covers every byte. Each attempt is signed
anew: 300 seconds. A replay within them is stored once.

Status codes: 2xx is kept, every other code is tried again for about a day (Svix, "Retries").

Identity: `svix-id`, which Svix keeps when it sends again, with the word, email id, recipient, both times, link,
address and user agent as sent. `data.created_at` is the mail's time, not the event's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from pydantic import Field

from receiver.contract import Item, Occurrence, Provider, Reply, Secrets, Simulation, SourceSettings, World
from receiver.errors import Problem
from receiver.event import BounceCategory, EventType, Reading, RejectReason, each_recipient
from receiver.payload import bare_id, embedded, event_object, iso_time, mapping, text, texts, texts_by
from receiver.signers import hmacs
from receiver.signers import standard_webhooks as signer
from receiver.standard_webhooks import ByStandardWebhooks, Proof, hmac_keys, whsec_problems

_RIGHT: Final = (
    "It is the text that starts with whsec_: Resend dashboard, Webhooks, your webhook, Signing Secret; "
    "each webhook has its own"
)


class ResendSettings(SourceSettings):
    """`signing_secret`: the webhook's signing secret, or several."""

    signing_secret: Secrets = Field(default=[], description="`whsec_...`, from the webhook's page")


# `contact.*`, `domain.*` and `suppression.*` are about no message: unknown.
_WORDS: Final[Mapping[str, EventType]] = {
    "email.scheduled": EventType.QUEUED,
    "email.sent": EventType.SENT,
    "email.delivered": EventType.DELIVERED,
    "email.delivery_delayed": EventType.DEFERRED,
    "email.bounced": EventType.BOUNCED,
    "email.complained": EventType.COMPLAINED,
    "email.opened": EventType.OPENED,
    "email.clicked": EventType.CLICKED,
    "email.failed": EventType.FAILED,
    "email.suppressed": EventType.REJECTED,
    "email.received": EventType.INBOUND,
}

# Resend sends through Amazon SES and hands on its types.
_BOUNCE_TYPES: Final = {
    "Permanent": BounceCategory.HARD,
    "Transient": BounceCategory.SOFT,
    "Temporary": BounceCategory.SOFT,
}
_BOUNCE_SUBTYPES: Final = {
    "MailboxFull": BounceCategory.SOFT,
    "MessageTooLarge": BounceCategory.SOFT,
    "ContentRejected": BounceCategory.BLOCK,
    "AttachmentRejected": BounceCategory.BLOCK,
    "MessageRejected": BounceCategory.BLOCK,
}
_UNKNOWN: Final = EventType.UNKNOWN
_NOTHING: Final[Mapping[str, Any]] = {}
# Which column takes which field of `data`, and of its `click`, as it is.
_FIELDS: Final = {
    "email_id": "message_id",
    "from": "sender",
    "broadcast_id": "campaign",
    "template_id": "template_id",
    "subject": "subject",
}
_CLICK_FIELDS: Final = {"link": "url", "userAgent": "user_agent", "ipAddress": "client_ip"}
# Which part of `data` says how it went wrong.
_OUTCOMES: Final = {"email.bounced": "bounce", "email.suppressed": "suppressed", "email.failed": "failed"}
# Bounces that never left: the address was on the list of an earlier bounce.
_HELD_BACK: Final = frozenset({"Suppressed", "OnAccountSuppressionList"})
_SUPPRESSED: Final = {
    "previous_bounce": RejectReason.BOUNCED,
    "previous_complaint": RejectReason.COMPLAINED,
}


class Resend(ByStandardWebhooks, Provider):
    """Resend's webhooks: one event for each request, several recipients in it."""

    name = "resend"
    title = "Resend"
    basis = "verified"
    covers = "body"
    words = _WORDS
    # Anything but 2xx is sent again, for more than a day; five days of failures disable the webhook.
    reply = Reply(
        retries="Anything but 2xx is repeated after 5 s, 5 min, 30 min, 2 h, 5 h and 10 h.",
        timeout=15.0,
    )
    Settings = ResendSettings

    def __init__(self, settings: ResendSettings, world: World) -> None:
        self._proof = Proof(hmac_keys(settings.signing_secret), settings, world)

    @staticmethod
    def problems(settings: ResendSettings, key: str) -> Sequence[Problem]:
        return whsec_problems(settings.signing_secret, f"{key}.signing_secret", _RIGHT)

    def read(self, item: Item) -> Sequence[Reading]:
        value = event_object(item, "a Resend event")
        word, created_at = text(value.get("type")), value.get("created_at")
        data = mapping(value.get("data"))
        columns, clicked_at = _columns(data), None
        if "click" in data:
            click = mapping(data["click"])
            columns.update(texts_by(click, _CLICK_FIELDS))
            clicked_at = click.get("timestamp")
        outcome = mapping(data.get(_OUTCOMES[word])) if word in _OUTCOMES else _NOTHING
        type_, verdict, reject_reason = _meaning(word, outcome)
        addresses = _addresses(word, data)
        recipients, attribution = each_recipient(type_, addresses)
        column = columns.get
        ids = item.event_id, word, column("message_id")
        once = text(created_at), text(clicked_at), column("url"), column("client_ip"), column("user_agent")
        columns["type"], columns["word"] = type_, word or ""
        columns["occurred_at"] = iso_time(clicked_at) or iso_time(created_at)
        columns["provider_event_id"] = item.event_id
        columns["is_test"] = _is_test(addresses)
        if word in _OUTCOMES:
            columns["verdict"], columns["reject_reason"] = verdict, reject_reason
        if attribution:
            columns["attribution"] = attribution
        readings = []
        for number, recipient in enumerate(recipients):
            columns["identity"], columns["recipient"] = (*ids, recipient, *once), recipient
            if outcome:
                columns["diagnostic"] = _diagnostic(outcome, number, len(addresses))
            readings.append(Reading(**columns))
        return readings


def _meaning(
    word: str | None, outcome: Mapping[str, Any]
) -> tuple[EventType, BounceCategory | None, RejectReason | None]:
    type_ = _WORDS.get(word or "", _UNKNOWN)
    if word not in _OUTCOMES:
        return type_, None, None
    if type_ is EventType.BOUNCED:
        return _bounce(text(outcome.get("type")), text(outcome.get("subType")))
    if type_ is EventType.REJECTED:
        return type_, None, _SUPPRESSED.get(text(outcome.get("reason")) or "", RejectReason.OTHER)
    if type_ is EventType.FAILED:
        over = "quota" in (text(outcome.get("reason")) or "")
        return type_, None, RejectReason.QUOTA if over else RejectReason.OTHER
    return type_, None, None


def _bounce(kind: str | None, subtype: str | None) -> tuple[EventType, BounceCategory | None, RejectReason | None]:
    if subtype in _HELD_BACK:
        return EventType.REJECTED, None, RejectReason.BOUNCED
    verdict = _BOUNCE_SUBTYPES.get(subtype or "")
    if verdict is None and (kind == "Permanent" or subtype != "General"):
        verdict = _BOUNCE_TYPES.get(kind or "")
    # A general transient one may even be an out-of-office answer: code and text decide.
    return EventType.BOUNCED, verdict or BounceCategory.UNDETERMINED, None


def _diagnostic(outcome: Mapping[str, Any], number: int, count: int) -> str | None:
    """The server's answer to recipient `number` of `count`; Resend's own sentence where none is that one's."""
    codes = texts(outcome.get("diagnosticCode"))
    if len(codes) == 1:
        return codes[0]
    if codes and len(codes) == count:
        return codes[number]
    return text(outcome.get("message")) or text(outcome.get("reason"))


def _addresses(word: str | None, data: Mapping[str, Any]) -> Sequence[str]:
    if word == "email.received":  # `received_for`: those of the addresses that are ours
        return texts(data.get("received_for")) or texts(data.get("to"))
    return texts(data.get("to")) or texts(data.get("email"))


def _is_test(addresses: Sequence[str]) -> bool:
    """Whether it went to Resend's simulator (`bounced@resend.dev`, ...), which answers as asked."""
    return "@resend.dev" in " ".join(addresses).lower()


def _columns(data: Mapping[str, Any]) -> dict[str, Any]:
    columns = texts_by(data, _FIELDS)
    headers = _headers(data["headers"]) if "headers" in data else _NOTHING
    tags = data.get("tags")
    metadata = tags if type(tags) is dict else _pairs(tags)
    if "x-metadata" in headers:
        metadata = {**metadata, **mapping(embedded(headers["x-metadata"]))}
    columns["metadata"] = metadata or None
    columns["internet_message_id"] = bare_id(data.get("message_id")) or bare_id(headers.get("message-id"))
    columns["tags"] = texts(headers["x-tag"]) if "x-tag" in headers else []
    return columns


def _pairs(value: object) -> Mapping[str, Any]:
    """Names and values: an object today, a list of `{name, value}` until 2025."""
    if not isinstance(value, list):
        return mapping(value)
    pairs = map(mapping, value)
    return {name: pair.get("value") for pair in pairs if (name := text(pair.get("name"))) is not None}


def _headers(value: object) -> Mapping[str, Any]:
    """The mail's own headers, names in lower case."""
    return {name.lower(): member for name, member in _pairs(value).items()}


# Simulation


def _sample(occurrence: Occurrence) -> dict[str, Any]:
    digest = hashlib.sha256(f"{occurrence.run}.{occurrence.number}".encode()).digest()
    at = occurrence.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    sent = {
        "broadcast_id": "8b146471-e88e-4322-86af-016cd36fd216",
        "template_id": "43f68331-0622-4e15-8202-246a0388854b",
        "tags": {"category": "newsletter", "run": occurrence.run},
    }
    word, details = _OF_TYPE[occurrence.type]
    if occurrence.type is EventType.CLICKED:
        details = {"click": {**_CLICK, "timestamp": at}}
    return {
        "type": word,
        "created_at": at,
        "data": {
            "created_at": at,
            "email_id": str(UUID(bytes=digest[:16], version=4)),
            "message_id": f"<{digest[16:24].hex()}@mail.example.net>",
            "from": f"Example News <{occurrence.sender}>",
            "to": [occurrence.recipient],
            "subject": "Autumn news",
            **({} if occurrence.type is EventType.INBOUND else sent),
            **details,
        },
    }


_CLICK: Final = {
    "ipAddress": "198.51.100.23",
    "link": "https://shop.example.com/autumn?utm_source=newsletter",
    "userAgent": "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:144.0) Gecko/20100101 Firefox/144.0",
}
_OF_TYPE: Final[Mapping[EventType, tuple[str, Mapping[str, Any]]]] = {
    EventType.QUEUED: ("email.scheduled", {}),
    EventType.SENT: ("email.sent", {}),
    EventType.REJECTED: (
        "email.suppressed",
        {
            "suppressed": {
                "message": "The address is on the account's suppression list.",
                "type": "OnAccountSuppressionList",
                "reason": "previous_bounce",
                "diagnosticCode": ["smtp; 550 5.1.1 user unknown"],
            }
        },
    ),
    EventType.FAILED: ("email.failed", {"failed": {"reason": "reached_daily_quota"}}),
    EventType.BOUNCED: (
        "email.bounced",
        {
            "bounce": {
                "message": "The recipient's email provider sent a hard bounce message.",
                "type": "Permanent",
                "subType": "General",
                "diagnosticCode": ["smtp; 550 5.1.1 The email account does not exist"],
            }
        },
    ),
    EventType.DEFERRED: ("email.delivery_delayed", {}),
    EventType.DELIVERED: ("email.delivered", {}),
    EventType.OPENED: ("email.opened", {}),
    EventType.CLICKED: ("email.clicked", {"click": _CLICK}),
    EventType.COMPLAINED: ("email.complained", {}),
    EventType.INBOUND: ("email.received", {"cc": [], "bcc": [], "attachments": []}),
}


Resend.simulation = Simulation(
    types=tuple(_OF_TYPE),
    demo=signer.demo(),
    keys=hmacs.keys(),
    sample=_sample,
    post=signer.post(prefix="svix"),
    setup=(
        "1. Resend dashboard: Webhooks > Add Webhook. Endpoint URL: {url}. Choose the events, and save.\n"
        "2. Copy the Signing Secret into `signing_secret`."
    ),
)

PROVIDER: Final[type[Provider]] = Resend
