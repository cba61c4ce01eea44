"""KumoMTA: its log records, posted by a log hook that the operator writes in Lua.

Rests on (all seen 2026-11)
- "Log Record", https://docs.kumomta.com/reference/log_record/, and `RecordType` and `JsonLogRecord` in
  https://github.com/KumoCorp/kumomta (crates/kumo-log-types/src/lib.rs); the page says `Delay`, the code `Delayed`
- "Publishing Log Events Via Webhooks", https://docs.kumomta.com/userguide/operation/webhooks/, and
  assets/policy-extras/log_hooks.lua of the same repository: one record for each request, or an array of them
- "kumo.configure_bounce_classifier", https://docs.kumomta.com/reference/kumo/configure_bounce_classifier/

What the proof covers: nothing of the body. KumoMTA signs nothing; the hook sends the credentials that its author gave
it, and whoever knows them can say anything. A feedback report is mail that anybody may have sent to the MTA.

Status codes: the hook decides what an answer means. Written as `setup` says, each answer but 2xx puts the record back
into KumoMTA's own queue (after a minute, later every 20 minutes, until the record expires). The published example
instead drops the record after any error (`kumo.reject(500, ...)`): change that.

Identity: node, record type, spool id, attempt, sender, recipient, both times, session and answer as written: a record
is written once and queued as it is. A refused injection has no spool id, its session tells it from others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, ClassVar, Final
from uuid import UUID

from receiver import payload as read_json
from receiver.contract import Item, Occurrence, Post, Provider, Reply, Simulation, UnreadableItem
from receiver.credentials import ByCredentials, CredentialSettings
from receiver.errors import Unreadable
from receiver.event import BounceCategory, EventType, Reading
from receiver.payload import bare_id, integer, iso_time, mapping, stable_text, text, texts, unix_time
from receiver.signers import credentials as signer
from receiver.signers import posts

_RIGHT: Final = (
    "Let the Lua hook send a header, such as :header('Authorization', 'Bearer ' .. token), with at least 16 random "
    "characters that it loads with kumo.secrets.load, and set the same here"
)

# `Feedback` is followed by the report's Feedback-Type, where it has one (RFC 5965).
_WORDS: Final[Mapping[str, EventType]] = {
    "Reception": EventType.QUEUED,
    "Delivery": EventType.DELIVERED,
    "Bounce": EventType.BOUNCED,
    "TransientFailure": EventType.DEFERRED,
    "Delayed": EventType.DEFERRED,
    "Delay": EventType.DEFERRED,
    "Expiration": EventType.BOUNCED,
    "AdminBounce": EventType.BOUNCED,
    "OOB": EventType.BOUNCED,
    "Rejection": EventType.FAILED,
    "Feedback": EventType.COMPLAINED,
    "Feedback:abuse": EventType.COMPLAINED,
    "Feedback:fraud": EventType.COMPLAINED,
    "Feedback:other": EventType.COMPLAINED,
    "Feedback:not-spam": EventType.UNKNOWN,
    "Feedback:auth-failure": EventType.UNKNOWN,
    "Feedback:virus": EventType.UNKNOWN,
    "AdminRebind": EventType.UNKNOWN,
    "DeferredInjectionRebind": EventType.UNKNOWN,
    "XferIn": EventType.UNKNOWN,
    "XferOut": EventType.UNKNOWN,
}
_CLASSES: Final[Mapping[BounceCategory, str]] = {
    BounceCategory.HARD: "InvalidRecipient BadDomain InactiveMailbox",
    BounceCategory.SOFT: (
        "QuotaIssues MessageExpired BadConnection NoAnswerFromHost TransientFailure RoutingErrors DNSFailure "
        "BadConfiguration ProtocolErrors"
    ),
    BounceCategory.BLOCK: (
        "SpamBlock SpamContent SpamRelated ContentRelated ProhibitedAttachment VirusRelated PolicyRelated "
        "AuthenticationFailed RelayDenied RelayingIssues InvalidSender"
    ),
}
_VERDICTS: Final = {label: category for category, labels in _CLASSES.items() for label in labels.split()}
_AUTOMATIC: Final = frozenset({"AutoReply", "ChallengeResponse"})  # answers of machines that come back as bounces
_DELIVERING: Final = frozenset({"Delivery", "Bounce", "TransientFailure"})  # `peer_address` is the receiving server
_MESSAGE_ID: Final = re.compile(r"^Message-ID:\s*(\S+)", re.IGNORECASE | re.MULTILINE)
_MAX_HEADERS: Final = 1 << 16


class KumoMTA(ByCredentials, Provider):
    """One KumoMTA, or a cluster whose nodes share the hook."""

    name = "kumomta"
    title = "KumoMTA"
    basis = "verified"
    covers = "nothing"
    words = _WORDS
    right: ClassVar[str] = _RIGHT
    reply = Reply(
        retries=(
            "The Lua hook decides: written as the set-up says, all but 2xx is repeated after 1 to 20 minutes until the "
            "record expires; the published example repeats nothing."
        ),
        timeout=30.0,
        max_body=8 << 20,
    )
    Settings = CredentialSettings

    def parse(self, payload: bytes) -> Iterable[Item | UnreadableItem]:
        return read_json.items_of(payload)

    def read(self, item: Item) -> Sequence[Reading]:
        record = mapping(item.value)
        kind = text(record.get("type"))
        if kind is None:
            raise Unreadable("a log record must be a JSON object with the member `type`")
        if kind == "Feedback":
            return _complaints(record, mapping(record.get("feedback_report")))
        return [_reading(kind, record, recipient) for recipient in _each(record.get("recipient"))]


def _reading(kind: str, record: Mapping[str, Any], recipient: str | None) -> Reading:
    response = mapping(record.get("response"))
    headers = {name.lower(): value for name, value in mapping(record.get("headers")).items()}
    peer = mapping(record.get("peer_address")) if kind in _DELIVERING else {}
    type_, verdict = _outcome(kind, text(record.get("bounce_classification")) or "")
    return Reading(
        type=type_,
        word=kind,
        identity=_identity(kind, record, recipient),
        occurred_at=_time(record),
        recipient=recipient,
        message_id=text(record.get("id")),
        internet_message_id=bare_id(headers.get("message-id")),
        sender=text(record.get("sender")),
        verdict=verdict,
        smtp_code=integer(response.get("code"), low=200, high=599),
        enhanced_code=_enhanced(mapping(response.get("enhanced_code"))),
        diagnostic=text(response.get("content")),
        sending_ip=_host(text(mapping(record.get("source_address")).get("address"))),
        ip_pool=text(record.get("egress_pool")),
        remote_mta=(text(peer.get("name")) or "").rstrip(".") or None,
        campaign=_campaign(text(record.get("queue")) or ""),
        attempt=integer(record.get("num_attempts")),
        metadata=mapping(record.get("meta")) or None,
        subject=text(headers.get("subject")),
    )


def _complaints(record: Mapping[str, Any], report: Mapping[str, Any]) -> Sequence[Reading]:
    """A feedback report: the record's own sender and recipient are those of the report, not of the mail."""
    feedback = text(report.get("feedback_type"))
    word = f"Feedback:{feedback.lower()}" if feedback else "Feedback"
    trace = text(mapping(report.get("supplemental_trace")).get("recipient"))
    recipients = [trace] if trace else _each(report.get("original_rcpto_to"))
    original = _MESSAGE_ID.search((text(report.get("original_message")) or "")[:_MAX_HEADERS])
    return [
        Reading(
            type=_WORDS.get(word, EventType.UNKNOWN),
            word=word,
            identity=_identity(word, record, recipient),
            occurred_at=_time(record),
            recipient=recipient,
            attribution="ambiguous" if len(recipients) > 1 else None,
            internet_message_id=bare_id(original[1]) if original else None,
            sender=text(report.get("original_mail_from")),
            sending_ip=text(report.get("source_ip")),
            metadata=mapping(record.get("meta")) or None,
        )
        for recipient in recipients
    ]


def _each(value: object) -> Sequence[str | None]:
    """Every address once, of one or several; one None where there is none."""
    return list(dict.fromkeys(texts(value))) or [None]


def _outcome(kind: str, label: str) -> tuple[EventType, BounceCategory | None]:
    type_ = _WORDS.get(kind, EventType.UNKNOWN)
    if type_ is not EventType.BOUNCED:
        return type_, None
    if kind == "Expiration":
        return type_, BounceCategory.SOFT
    if kind == "AdminBounce":
        return type_, BounceCategory.ADMIN
    return (EventType.AUTORESPONDED, None) if label in _AUTOMATIC else (type_, _VERDICTS.get(label))


def _identity(word: str, record: Mapping[str, Any], recipient: str | None) -> Sequence[str | None]:
    get = record.get
    if get("timestamp") is None and get("event_time") is None:
        return ("raw", recipient, stable_text(record))
    plain = ("nodeid", "id", "num_attempts", "sender", "timestamp", "event_time", "session_id")
    response = mapping(get("response"))
    return (word, recipient, *(text(get(name)) for name in plain), text(response.get("content")))


def _time(record: Mapping[str, Any]) -> datetime | None:
    """`event_time` is newer and finer than the whole seconds of `timestamp`."""
    return iso_time(record.get("event_time")) or unix_time(record.get("timestamp"))


def _enhanced(code: Mapping[str, Any]) -> str | None:
    parts = [integer(code.get(name), low=0, high=999) for name in ("class", "subject", "detail")]
    return None if None in parts else ".".join(map(str, parts))


def _host(address: str | None) -> str | None:
    """The host of `192.0.2.1:25` or `[2001:db8::1]:25`."""
    return address.rpartition(":")[0].strip("[]") or None if address else None


def _campaign(queue: str) -> str | None:
    """The campaign of a queue's name, which is `campaign:tenant@domain`, `tenant@domain` or `domain`."""
    owner, at, _ = queue.rpartition("@")
    campaign, colon, _ = owner.partition(":")
    return campaign or None if at and colon else None


# Simulation

_OF_TYPE: Final[Mapping[EventType, tuple[str, int, str, str]]] = {
    EventType.QUEUED: ("Reception", 250, "", "OK"),
    EventType.DELIVERED: ("Delivery", 250, "2.0.0", "OK ids=8a5475ccbbc611eda12250ebf67f93bd"),
    EventType.DEFERRED: ("TransientFailure", 451, "4.7.1", "Please try again later"),
    EventType.BOUNCED: ("Bounce", 550, "5.1.1", "The email account does not exist"),
    EventType.FAILED: ("Rejection", 550, "5.7.1", "relaying not permitted"),
    EventType.AUTORESPONDED: ("OOB", 550, "", "I am away until Monday"),
    EventType.COMPLAINED: ("Feedback", 250, "", "OK"),
}
_LABELS: Final = {EventType.BOUNCED: "InvalidRecipient", EventType.AUTORESPONDED: "AutoReply"}


def _sample(what: Occurrence) -> dict[str, Any]:
    kind, code, enhanced, content = _OF_TYPE[what.type]
    parts = dict(zip(("class", "subject", "detail"), map(int, enhanced.split(".")), strict=True)) if enhanced else None
    report = {"feedback_type": "abuse", "version": "1", "original_rcpto_to": [what.recipient]}
    complaint = what.type is EventType.COMPLAINED
    return {
        "type": kind,
        "id": sha256(f"{what.run}/{what.number}".encode()).hexdigest()[:32],
        "sender": "fbl@mailbox.example" if complaint else what.sender,
        "recipient": "abuse@news.example" if complaint else what.recipient,
        "queue": f"autumn:news@{what.recipient.rpartition('@')[2]}",
        "site": "source2->mx.customer.example",
        "size": 1047,
        "response": {"code": code, "enhanced_code": parts, "content": content, "command": "."},
        "peer_address": {"name": "mx.customer.example.", "addr": "192.0.2.25"},
        "timestamp": int(what.at.timestamp()),
        "event_time": what.at.isoformat().replace("+00:00", "Z"),
        "created": int(what.at.timestamp()) - 4,
        "num_attempts": 0,
        "bounce_classification": _LABELS.get(what.type, "Uncategorized"),
        "egress_pool": "pool0",
        "egress_source": "source2",
        "source_address": {"address": "198.51.100.9:53210"},
        "feedback_report": report if complaint else None,
        "meta": {"customer": "4711"},
        "headers": {"Subject": "Autumn news"},
        "delivery_protocol": "ESMTP",
        "reception_protocol": "HTTP",
        "nodeid": str(UUID(int=0x557F3AD42C8C11EE976E782D7E12E173)),
    }


def _post(items: Sequence[Any], keys: Mapping[str, str], now: datetime) -> Sequence[Post]:  # noqa: ARG001 - no time
    return posts.one_by_one(items, lambda _: signer.headers(keys), query=signer.query(keys))


KumoMTA.simulation = Simulation(
    types=tuple(_OF_TYPE),
    demo=signer.demo("bearer_token"),
    keys=signer.keys,
    sample=_sample,
    post=_post,
    setup=(
        "1. Make a token with `openssl rand -hex 24`, and put it into `bearer_token`.\n"
        "2. In the policy script require 'policy-extras.log_hooks', and call log_hooks:new with a constructor, as\n"
        "   its comments show. Its `send` posts message:get_data() to {url} with the header `Authorization: Bearer\n"
        "   <bearer_token>`; load the token with kumo.secrets.load.\n"
        "3. After an answer that is not 2xx let it call kumo.reject(400, ...), not 500 as in the example, so that\n"
        "   the record stays queued.\n"
        "4. In log_parameters list the headers to be logged, headers = { 'Subject', 'Message-ID' }, and in `meta`\n"
        "   what you want to find in the events."
    ),
)

PROVIDER: Final[type[Provider]] = KumoMTA
