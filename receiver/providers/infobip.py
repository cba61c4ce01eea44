"""Infobip: delivery reports and tracking notifications of email.

Rests on (all seen 2026-11)
- Infobip's OpenAPI description of the email channel, version 3.210.0, https://www.infobip.com/docs/api/channels/email:
  "Receive email delivery reports", "Receive user events" and "Receive email platform events", whose samples are among
  the fixtures; the retry formula at `notifyUrl`
- "Create security settings", https://www.infobip.com/docs/api/platform/subscriptions-api: Basic, HMAC, OAuth
- "Response status and error codes", https://www.infobip.com/docs/essentials/response-status-and-error-codes, and "Email
  error codes update", https://www.infobip.com/docs/email/email-error-codes-update

What the proof covers: nothing of the body. A subscription can send Basic credentials, and any URL can end with a
secret; whoever knows them can say anything. Its HMAC setting takes a key and an algorithm, but no document says in
which header the signature comes, how it is written and over which bytes, so that it is not verified here.

Status codes: 200 is kept. What is repeated, and for how long, is not documented beyond "if your URL becomes
unavailable": so everything that may succeed later is answered 503.

Identity: `eventId` of a tracking notification, which is documented for this, with word, message, recipient and link.
A delivery report has none: message, recipient, status, error, `doneAt`, `sentAt` and the number of attempts. Not
hashed: the price. Without any of it: the whole item.

Time: `doneAt` of a delivery report. A tracking notification has none: its `sendDateTime` is when the mail was sent.

Not read here: parsed inbound mail, which comes as multipart forms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from itertools import groupby
from typing import Any, ClassVar, Final

from receiver.contract import Item, Occurrence, Post, Provider, Reply, Simulation, UnreadableItem
from receiver.credentials import ByCredentials, CredentialSettings
from receiver.errors import Unreadable
from receiver.event import BounceCategory, EventType, Reading, RejectReason
from receiver.payload import (
    boolean,
    embedded,
    event_object,
    first_text,
    integer,
    iso_time,
    items_in,
    items_of,
    mapping,
    text,
    unix_time,
)
from receiver.signers import credentials as signer
from receiver.signers import posts

BATCH: Final = 100
_RIGHT: Final = (
    "Infobip: Developer Tools, Subscriptions Management, Authentication settings, type Basic; user and password the "
    "same here, at least 16 random characters. Or end the URL with a secret (`url_secret`)"
)

# `status.groupName` of a delivery report, `notificationType` of a tracking notification, `eventDetails.type` of what
# concerns a sending domain.
_WORDS: Final[Mapping[str, EventType]] = {
    "ACCEPTED": EventType.QUEUED,
    "PENDING": EventType.QUEUED,  # with an error: deferred
    "DELIVERED": EventType.DELIVERED,
    "UNDELIVERABLE": EventType.BOUNCED,
    "EXPIRED": EventType.BOUNCED,
    "REJECTED": EventType.REJECTED,
    "OPENED": EventType.OPENED,
    "CLICKED": EventType.CLICKED,
    "COMPLAINED": EventType.COMPLAINED,
    "LATE_BOUNCE": EventType.BOUNCED,
    "UNSUBSCRIBED": EventType.UNSUBSCRIBED,
    "HIGH_BOUNCE_RATE_WARNING": EventType.UNKNOWN,
    "HIGH_BOUNCE_RATE_BLOCKED": EventType.UNKNOWN,
}
# Errors that mean: not even tried, because of what happened before.
_SUPPRESSED: Final = "EC_SUPPRESSED"
_REASONS: Final[Mapping[str, RejectReason]] = {
    "EC_SUPPRESSED_BOUNCE": RejectReason.BOUNCED,
    "EC_SUPPRESSED_SPAM_COMPLAINT": RejectReason.COMPLAINED,
}


class Infobip(ByCredentials, Provider):
    """One source of Infobip: batches of delivery reports, and single tracking notifications."""

    name = "infobip"
    title = "Infobip"
    basis = "verified"
    covers = "nothing"
    words = _WORDS
    right: ClassVar[str] = _RIGHT
    reply = Reply(
        retries=(
            "A report that was not accepted is repeated after 1 minute plus 1 minute times the square of the attempt's "
            "number; for how long, and after which status codes, is not documented."
        ),
        refused=503,
        too_large=503,
        bad_encoding=503,
        max_body=16 << 20,
    )
    Settings = CredentialSettings

    def parse(self, payload: bytes) -> Iterable[Item | UnreadableItem]:
        try:
            return items_in(payload, "results")
        except Unreadable:
            return items_of(payload)

    def read(self, item: Item) -> Sequence[Reading]:
        value = event_object(item, "an Infobip event")
        return [_report(value) if "status" in value else _notification(value)]


def _report(value: Mapping[str, Any]) -> Reading:
    """A delivery report."""
    status, error = mapping(value.get("status")), mapping(value.get("error"))
    word = text(status.get("groupName")) or "(none)"
    type_, reason = _outcome(word, error)
    names = ("messageId", "to", "doneAt", "sentAt", "attemptCount")
    identity = (*(text(value.get(name)) for name in names), word, text(status.get("id")), text(error.get("id")))
    return Reading(
        type=type_,
        word=word,
        identity=identity if value.get("doneAt") or value.get("messageId") else None,
        occurred_at=iso_time(value.get("doneAt")) or iso_time(value.get("sentAt")),
        recipient=text(value.get("to")),
        verdict=_verdict(word, error) if type_ is EventType.BOUNCED else None,
        diagnostic=_diagnostic(value, error),
        reject_reason=reason,
        sending_ip=text(value.get("sendingIp")),
        attempt=integer(value.get("attemptCount")),
        **_common(value),
    )


def _outcome(word: str, error: Mapping[str, Any]) -> tuple[EventType, RejectReason | None]:
    type_ = _WORDS.get(word, EventType.UNKNOWN)
    name = text(error.get("name")) or ""
    if name.startswith(_SUPPRESSED) and type_ in {EventType.BOUNCED, EventType.REJECTED}:
        return EventType.REJECTED, _REASONS.get(name, RejectReason.OTHER)
    if word == "PENDING" and error.get("id"):
        return EventType.DEFERRED, None
    return type_, RejectReason.OTHER if type_ is EventType.REJECTED else None


def _verdict(word: str, error: Mapping[str, Any]) -> BounceCategory:
    if word == "EXPIRED":
        return BounceCategory.SOFT
    verdicts = {True: BounceCategory.HARD, False: BounceCategory.SOFT}
    permanent = boolean(error.get("permanent"))
    return BounceCategory.UNDETERMINED if permanent is None else verdicts[permanent]


def _diagnostic(value: Mapping[str, Any], error: Mapping[str, Any]) -> str | None:
    """The server's answer; Infobip's own sentence where there is none, and an error."""
    answer = text(mapping(value.get("smtp")).get("response"))
    return answer or (first_text(error, "description", "name") if error.get("id") else None)


def _notification(value: Mapping[str, Any]) -> Reading:
    """A tracking notification, or an event about a sending domain."""
    word = text(value.get("notificationType")) or text(mapping(value.get("eventDetails")).get("type")) or "(none)"
    names = ("eventId", "messageId", "recipient", "url")
    return Reading(
        type=_WORDS.get(word, EventType.UNKNOWN),
        word=word,
        identity=(word, *(text(value.get(name)) for name in names)) if value.get("eventId") else None,
        occurred_at=unix_time(value.get("createdAt"), per_second=1000),  # of the events about a domain
        provider_event_id=text(value.get("eventId")),
        recipient=text(value.get("recipient")),
        sender=text(value.get("sender")),
        url=text(value.get("url")),
        country=text(mapping(value.get("geoLocation")).get("countryName")),
        **_common(value),
    )


def _common(value: Mapping[str, Any]) -> dict[str, Any]:
    """`messageId` is text, or by the description of tracking notifications a number."""
    given = value.get("callbackData")
    return {
        "message_id": text(value.get("messageId")),
        "campaign": text(value.get("campaignReferenceId")),
        "metadata": mapping(embedded(given)) or ({"callbackData": given} if text(given) else None),
    }


# Simulation

_STATUS: Final[Mapping[EventType, tuple[int, int, str, str]]] = {
    EventType.QUEUED: (7, 1, "PENDING", "PENDING_ENROUTE"),
    EventType.DEFERRED: (7, 1, "PENDING", "PENDING_ENROUTE"),
    EventType.DELIVERED: (5, 3, "DELIVERED", "DELIVERED_TO_HANDSET"),
    EventType.BOUNCED: (9, 2, "UNDELIVERABLE", "UNDELIVERABLE_NOT_DELIVERED"),
    EventType.REJECTED: (4, 2, "UNDELIVERABLE", "UNDELIVERABLE_REJECTED_OPERATOR"),
}
_ERRORS: Final[Mapping[EventType, tuple[int, str, bool, str]]] = {
    EventType.DEFERRED: (255, "EC_UNKNOWN_ERROR", False, "451 4.7.1 Please try again later"),
    EventType.BOUNCED: (255, "EC_UNKNOWN_ERROR", True, "550 5.1.1 The email account does not exist"),
    EventType.REJECTED: (6034, "EC_SUPPRESSED_BOUNCE", True, ""),
}
_NOTIFICATIONS: Final[Mapping[EventType, str]] = {
    EventType.OPENED: "OPENED",
    EventType.CLICKED: "CLICKED",
    EventType.COMPLAINED: "COMPLAINED",
    EventType.UNSUBSCRIBED: "UNSUBSCRIBED",
}


def _sample(occurrence: Occurrence) -> dict[str, Any]:
    digest = sha256(f"{occurrence.run}/{occurrence.number}".encode()).hexdigest()
    common = {
        "bulkId": f"bulk-{occurrence.run}",
        "messageId": digest[:20],
        "callbackData": f'{{"run":"{occurrence.run}"}}',
        "campaignReferenceId": "weekly-letter",
    }
    if occurrence.type in _NOTIFICATIONS:
        return common | _tracking_sample(occurrence, digest)
    id_, group, group_name, name = _STATUS[occurrence.type]
    number, error, permanent, answer = _ERRORS.get(occurrence.type, (0, "NO_ERROR", False, "250 2.0.0 OK"))
    return common | {
        "to": occurrence.recipient,
        "sentAt": _stamp(occurrence.at - timedelta(seconds=2)),
        "doneAt": _stamp(occurrence.at),
        "smsCount": 1,
        "attemptCount": 1,
        "sendingIp": "192.0.2.10",
        "price": {"pricePerMessage": 0, "currency": "UNKNOWN"},
        "status": {"id": id_, "groupId": group, "groupName": group_name, "name": name},
        "error": {"id": number, "name": error, "groupId": int(number > 0), "permanent": permanent},
        "smtp": {"response": answer},
    }


def _tracking_sample(occurrence: Occurrence, digest: str) -> dict[str, Any]:
    link = {"url": "https://www.example.net/letter"} if occurrence.type is EventType.CLICKED else {}
    return link | {
        "notificationType": _NOTIFICATIONS[occurrence.type],
        "eventId": digest[:32],
        "domain": occurrence.sender.partition("@")[2],
        "recipient": occurrence.recipient,
        "sendDateTime": int((occurrence.at - timedelta(minutes=1)).timestamp() * 1000),
        "recipientInfo": {"deviceType": "Phone", "os": "iOS 12", "deviceName": "Apple"},
        "geoLocation": {"countryName": "Germany", "city": "Berlin"},
    }


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}+0000"


def _post(items: Sequence[Any], keys: Mapping[str, str], _: datetime) -> Sequence[Post]:
    """Delivery reports together, tracking notifications one by one, in the order given."""
    made: list[Post] = []
    headers, query = signer.headers(keys), signer.query(keys)
    for is_report, group in groupby(items, key=lambda item: "status" in mapping(item)):
        if is_report:
            wrap = _results
            made += posts.in_batches(list(group), BATCH, lambda _: headers, query=query, wrap=wrap)
        else:
            made += posts.one_by_one(group, lambda _: headers, query=query)
    return made


def _results(batch: Sequence[Any]) -> dict[str, Any]:
    return {"results": batch}


Infobip.simulation = Simulation(
    types=(*_STATUS, *_NOTIFICATIONS),
    demo=signer.demo(),
    keys=signer.keys,
    sample=_sample,
    post=_post,
    setup=(
        "1. Infobip: Developer Tools, Subscriptions Management, Authentication settings: make one of the type\n"
        "   Basic, with the `username` and `password` that stand here.\n"
        "2. Make a notification profile with the webhook URL {url} and that authentication setting.\n"
        "3. Create subscription, Email. Tick delivery and all user events, and choose the profile.\n"
        "\n"
        "Where a send request names `notifyUrl` and `trackingUrl` itself, give both the URL of a second source that\n"
        "has `url_secret` alone, with ?token=<url_secret> behind it."
    ),
)

PROVIDER: Final[type[Provider]] = Infobip
