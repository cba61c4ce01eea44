"""Stalwart: a mail server's own events, in batches.

Rests on (all seen 2026-11)
- "Webhooks" and "Events", https://stalw.art/docs/telemetry/webhooks, https://stalw.art/docs/telemetry/events
- its source, https://github.com/stalwartlabs/stalwart: signature, batches and repetition
  (crates/common/src/telemetry/webhooks/mod.rs), the shape of an event (crates/trc/src/serializers/json.rs), and which
  event says what (crates/smtp/src: outbound/session.rs, queue/dsn.rs, queue/spool.rs, reporting/inbound.rs)

What the proof covers: with a signature key every byte of the body, by an HMAC-SHA256, and no time; an old request is
accepted whenever it comes, and its events are stored once. Without a key the credentials are the proof, and they cover
nothing of the body. Feedback reports are mail that anybody may have sent to the server.

Status codes: any 2xx is kept, after every other the batch is sent again, until an event is `discardAfter` old.

Identity: the word, the time (whole seconds), the recipient and all of `data` as written. Not hashed: the event's `id`,
which is counted anew whenever a batch is written, so that a repeated event has another.

What happened to a recipient is told twice: by the steps of an attempt (`delivery.delivered`, `-rejected`), which lack
local deliveries and may name all recipients at once, and by the notices that the queue writes for each recipient when
it is settled (`delivery.dsn-*`, also where no DSN is mailed). Subscribe to the notices; both would count twice.
Reports of feedback loops name neither the recipient nor the message.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
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
    UnreadableItem,
    World,
    secret_bytes,
)
from receiver.credentials import Credentials, CredentialSettings, covers_with, signed_problems
from receiver.errors import Problem, Unreadable
from receiver.event import BounceCategory, EventType, Reading
from receiver.payload import bare_id, integer, iso_time, items_in, mapping, stable_text, text, texts
from receiver.signatures import check_base64
from receiver.signers import credentials, posts
from receiver.signers import hmacs as signer

_SIGNATURE: Final = "x-signature"
_BATCH: Final = 100
_RIGHT: Final = (
    "Stalwart: WebAdmin, Settings, Telemetry, Webhooks, Signature Key, or Basic or Bearer authentication there; set "
    "the same here, at least 16 random characters"
)


class StalwartSettings(CredentialSettings):
    """The signature key, or Basic or Bearer credentials, or both: what is set is required."""

    signature_key: Secrets = Field([], description="key(s) of the HMAC in the header X-Signature")


# The queue's words have been renamed; both spellings are in use. Words that say nothing of a mail's fate, such as the
# steps of connecting, are unknown, as are those of other parts of the server.
_WORDS: Final[Mapping[str, EventType]] = {
    "queue.message-queued": EventType.QUEUED,
    "queue.authenticated-message-queued": EventType.QUEUED,
    "queue.queue-message": EventType.QUEUED,
    "queue.queue-message-authenticated": EventType.QUEUED,
    "queue.queue-message-submission": EventType.QUEUED,
    "queue.rescheduled": EventType.DEFERRED,
    "queue.rate-limit-exceeded": EventType.DEFERRED,
    "queue.concurrency-limit-exceeded": EventType.DEFERRED,
    "queue.quota-exceeded": EventType.FAILED,
    "queue.blob-not-found": EventType.FAILED,
    "delivery.dsn-success": EventType.DELIVERED,
    "delivery.dsn-temp-fail": EventType.DEFERRED,
    "delivery.dsn-perm-fail": EventType.BOUNCED,
    "delivery.delivered": EventType.DELIVERED,
    "delivery.rcpt-to-rejected": EventType.BOUNCED,
    "delivery.message-rejected": EventType.BOUNCED,
    "delivery.mail-from-rejected": EventType.BOUNCED,
    "delivery.rcpt-to-failed": EventType.DEFERRED,
    "delivery.failed": EventType.DEFERRED,
    "delivery.rate-limit-exceeded": EventType.DEFERRED,
    "delivery.concurrency-limit-exceeded": EventType.DEFERRED,
    "delivery.null-mx": EventType.BOUNCED,
    "delivery.completed": EventType.UNKNOWN,
    "delivery.double-bounce": EventType.UNKNOWN,
    "incoming-report.abuse-report": EventType.COMPLAINED,
    "incoming-report.fraud-report": EventType.COMPLAINED,
    "incoming-report.other-report": EventType.COMPLAINED,
    "incoming-report.not-spam-report": EventType.UNKNOWN,
    "incoming-report.auth-failure-report": EventType.UNKNOWN,
    "incoming-report.virus-report": EventType.UNKNOWN,
    "message-ingest.ham": EventType.INBOUND,
    "message-ingest.spam": EventType.INBOUND,
}
# A refusal is final with 5xx alone: after anything else the queue tries again.
_BY_CODE: Final = frozenset(
    {"delivery.rcpt-to-rejected", "delivery.message-rejected", "delivery.mail-from-rejected", "delivery.failed"}
)
_RESPONSE: Final = re.compile(r"Code: (\d{3}), Enhanced code: (\d\.\d{1,3}\.\d{1,3})")  # in the text of a notice


class Stalwart(Provider):
    """One Stalwart server or cluster."""

    name = "stalwart"
    title = "Stalwart"
    basis = "verified"
    covers = "body"
    words = _WORDS
    reply = Reply(
        retries=(
            "All but 2xx is repeated with the next batch (1 s) until an event is `discardAfter` old, 5 minutes by "
            "default; with `lossy` it may be dropped."
        ),
        timeout=30.0,
        max_body=8 << 20,
    )
    Settings = StalwartSettings
    covers_with = staticmethod(covers_with)

    def __init__(self, settings: StalwartSettings, world: World) -> None:  # noqa: ARG002 - the contract's
        self._keys = secret_bytes(settings.signature_key)
        self._credentials = Credentials(settings)

    @staticmethod
    def problems(settings: StalwartSettings, key: str) -> Sequence[Problem]:
        return signed_problems(settings, "signature_key", key, _RIGHT, published=("my-secret-key",))

    async def authenticate(self, delivery: Delivery) -> Authentic:
        if self._keys:
            check_base64(delivery.headers, _SIGNATURE, self._keys, delivery.body)
            self._credentials.check(delivery)
        else:
            self._credentials.require(delivery)
        return Authentic(payload=delivery.body)

    def parse(self, payload: bytes) -> Iterable[Item | UnreadableItem]:
        return items_in(payload, "events")

    def read(self, item: Item) -> Sequence[Reading]:
        event = mapping(item.value)
        word = text(event.get("type"))
        if word is None:
            raise Unreadable("a Stalwart event must be a JSON object with the member `type`")
        data = mapping(event.get("data"))
        recipients: Sequence[str | None] = list(dict.fromkeys(texts(data.get("to")))) or (None,)
        return [_reading(word, event, data, recipient, len(recipients)) for recipient in recipients]


def _reading(word: str, event: Mapping[str, Any], data: Mapping[str, Any], recipient: str | None, of: int) -> Reading:
    cause = mapping(mapping(data.get("causedBy")).get("data"))
    details = text(data.get("details")) or text(cause.get("details"))
    notice = _RESPONSE.search(details or "")
    code = integer(data.get("code") or cause.get("code"), low=200, high=599) or (int(notice[1]) if notice else None)
    type_ = _type(word, code)
    created = text(event.get("createdAt"))
    report = word.startswith("incoming-report.")
    sender = text(data.get("from"))
    return Reading(
        type=type_,
        word=word,
        identity=(word if created else "raw", created, recipient, stable_text(data)),
        occurred_at=iso_time(created),
        provider_event_id=text(event.get("id")),
        recipient=recipient,
        attribution="ambiguous" if of > 1 and type_ is not EventType.QUEUED else None,
        message_id=text(data.get("queueId")),
        internet_message_id=bare_id(data.get("messageId")),
        sender=None if sender == "<>" else sender,
        verdict=BounceCategory.HARD if word == "delivery.null-mx" else None,
        smtp_code=code,
        enhanced_code=notice[2] if notice else None,
        diagnostic=details or text(data.get("reason")) or text(cause.get("reason")),
        sending_ip=text(data.get("remoteIp")) if report else None,
        remote_mta=None if report else text(data.get("hostname")),
        attempt=integer(data.get("total")) if word.startswith("delivery.dsn-") else None,
    )


def _type(word: str, code: int | None) -> EventType:
    if word in _BY_CODE:
        return EventType.BOUNCED if code and code >= 500 else EventType.DEFERRED
    return _WORDS.get(word, EventType.UNKNOWN)


# Simulation

_OF_TYPE: Final[Mapping[EventType, tuple[str, Mapping[str, Any]]]] = {
    EventType.QUEUED: ("queue.authenticated-message-queued", {"size": 1543}),
    EventType.DELIVERED: ("delivery.dsn-success", {"code": 250, "details": "2.0.0 Ok: queued as 4F2A91"}),
    EventType.DEFERRED: (
        "delivery.dsn-temp-fail",
        {
            "details": (
                "Unexpected response for RCPT TO:<recipient>: Code: 451, Enhanced code: 4.7.1, Message: Try again later"
            ),
            "total": 3,
        },
    ),
    EventType.BOUNCED: (
        "delivery.dsn-perm-fail",
        {
            "details": (
                "Unexpected response for RCPT TO:<recipient>: Code: 550, Enhanced code: 5.1.1, Message: No such user"
            ),
            "total": 0,
        },
    ),
    EventType.FAILED: ("queue.quota-exceeded", {}),
}


def _sample(what: Occurrence) -> dict[str, Any]:
    word, details = _OF_TYPE[what.type]
    at = what.at.isoformat(timespec="seconds").replace("+00:00", "Z")
    queued = what.type in {EventType.QUEUED, EventType.FAILED}
    data = {
        "to": [what.recipient] if queued else what.recipient,
        "from": what.sender,
        "queueId": 313394020497752067 + what.number,
        "spanId": 313394020497760000 + what.number,
        **({} if queued else {"hostname": "mx.customer.example"}),
        **details,
    }
    return {"id": f"{int(what.at.timestamp())}{what.number}84", "createdAt": at, "type": word, "data": data}


def _post(items: Sequence[Any], keys: Mapping[str, str], now: datetime) -> Sequence[Post]:  # noqa: ARG001 - no time
    def headers(body: bytes) -> Mapping[str, str]:
        signed = {_SIGNATURE: signer.base64(keys["signature_key"], body)} if "signature_key" in keys else {}
        return signed | credentials.headers(keys)

    return posts.in_batches(items, _BATCH, headers, query=credentials.query(keys), wrap=_wrap)


def _wrap(batch: Sequence[Any]) -> dict[str, Any]:
    return {"events": batch}


Stalwart.simulation = Simulation(
    types=tuple(_OF_TYPE),  # reports of feedback loops name no recipient, and so cannot be played for one
    demo=signer.demo("signature_key"),
    keys=credentials.keys_with("signature_key"),
    sample=_sample,
    post=_post,
    setup=(
        "1. Make a key with `openssl rand -hex 24`, and put it into `signature_key`.\n"
        "2. WebAdmin: Settings > Telemetry > Webhooks, add one. URL: {url}. Set the Signature Key, leave Lossy\n"
        "   off, and raise Discard after (5 minutes) to the outage you want to survive, such as 7 days.\n"
        "3. Include the events\n"
        "     queue.message-queued\n"
        "     queue.authenticated-message-queued\n"
        "     queue.rescheduled\n"
        "     delivery.dsn-success\n"
        "     delivery.dsn-temp-fail\n"
        "     delivery.dsn-perm-fail\n"
        "     incoming-report.abuse-report\n"
        "     incoming-report.fraud-report\n"
        "     incoming-report.other-report\n"
        "   Leave out delivery.delivered and the others that end in -rejected: they say the same a second time."
    ),
)

PROVIDER: Final[type[Provider]] = Stalwart
