"""Mailomat: message events.

Rests on (all seen 2026-11)
- "Webhook security", https://api.mailomat.swiss/docs/#tag/webhook-security: the headers and what is signed
- the fields that Symfony's mailer reads of the events, https://github.com/symfony/symfony, Mailer/Bridge/Mailomat,
  and Mailomat's plugin for Craft CMS, which refuses an id that it has seen

What the signature covers: HMAC-SHA256 over `id.event.timestamp`, all three from headers. The body is not covered: not
the recipient, not the message, not the code. Whoever gets hold of one signature can put any body below it. So the
identity is what was signed, alone: one signature brings one event, whatever else it carries and however often it
comes. A body whose `eventType` is not the signed event is set aside. What is left to a thief is to be faster than
Mailomat; Basic credentials on top (`username`, `password`, in the webhook's URL) close that, and TLS must hold in any
case. The algorithm is SHA-256 and not what the header says before the `=`: a sender could choose one that proves
nothing (CVE-2026-48747). Whether each attempt is signed anew is not said: 25 hours.

Status codes: 2xx is kept; only 429 and 5xx are tried again, every other code drops the event. So it is 503 for what
cannot be proven, as that is mostly our own mistake, and for a body over the limit or in an encoding we do not undo.

Identity: the signed text. Where it is not at hand (only the event is stored): id, word, recipient and time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

import msgspec
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
    secret_problems,
)
from receiver.credentials import Credentials, CredentialSettings, credential_problems
from receiver.errors import Problem, Reason, Refused
from receiver.event import BounceCategory, EventType, Reading, RejectReason
from receiver.payload import bare_id, event_object, integer, iso_time, item_of, mapping, strip, text, unix_time
from receiver.signatures import check_hmac, check_time, header, unhex, unix_seconds
from receiver.signers import credentials, hmacs

WINDOW: Final = 25 * 3600.0
MAX_ODD: Final = 64 * 1024  # bytes of a body that is read though it is not JSON by the letter: nobody vouches for it
_SIGNED: Final = ("x-mom-webhook-id", "x-mom-webhook-event", "x-mom-webhook-timestamp")
_SIGNATURE: Final = "x-mom-webhook-signature"
_SCHEME: Final = "sha256="
_RIGHT: Final = "It is the webhook's secret: Mailomat's console, Webhooks, your webhook, Secret"


class MailomatSettings(CredentialSettings):
    """`signing_secret`: the webhook's secret, or several."""

    signing_secret: Secrets = Field(default=[], description="the webhook's secret")
    username: str = Field("mailomat", description="user of additional Basic credentials in the webhook's URL")


# `not_accepted`: Mailomat did not take the message (such as a limit), so that nothing was sent.
_WORDS: Final[Mapping[str, EventType]] = {
    "accepted": EventType.QUEUED,
    "not_accepted": EventType.FAILED,
    "delivered": EventType.DELIVERED,
    "failure_tmp": EventType.DEFERRED,
    "failure_perm": EventType.BOUNCED,
    "opened": EventType.OPENED,
    "clicked": EventType.CLICKED,
}

_Claim = tuple[str, str, bytes]  # signed text, signed event, body


class Mailomat(Provider):
    """One webhook of Mailomat."""

    name = "mailomat"
    title = "Mailomat"
    basis = "documents"
    covers = "token"
    words = _WORDS
    reply = Reply(
        repeated=lambda code: code == 429 or code >= 500,
        retries="429 and 5xx are repeated, for how long is not documented; every other code drops the event.",
        refused=503,
        slow=503,
        too_large=503,
        bad_encoding=503,
    )
    Settings = MailomatSettings

    def __init__(self, settings: MailomatSettings, world: World) -> None:
        self._keys = secret_bytes(settings.signing_secret)
        self._credentials = Credentials(settings)
        self._tolerance = settings.tolerance or WINDOW
        self._now = world.now

    @staticmethod
    def problems(settings: MailomatSettings, key: str) -> Sequence[Problem]:
        found = secret_problems(settings.signing_secret, f"{key}.signing_secret", _RIGHT)
        return [*found, *credential_problems(settings, key, required=False)]

    async def authenticate(self, delivery: Delivery) -> Authentic:
        self._credentials.check(delivery)
        webhook_id, event, stamp = (header(delivery.headers, name) for name in _SIGNED)
        signed = f"{webhook_id}.{event}.{stamp}"
        proof = signed.encode(errors="surrogatepass")
        check_hmac(self._keys, proof, [_signature(delivery.headers)])
        check_time(unix_seconds(stamp, _SIGNED[2]), self._now(), past=self._tolerance, proof=proof)
        return Authentic(payload=(signed, event, delivery.body), proof=proof)

    def parse(self, payload: _Claim) -> Iterable[Item | UnreadableItem]:
        signed, event, body = payload
        item = item_of(strip(body), event_id=signed, repair=MAX_ODD)
        if isinstance(item, Item) and mapping(item.value).get("eventType") != event:
            return [UnreadableItem(body=body, why="`eventType` is not the event that was signed")]
        return [item]

    def read(self, item: Item) -> Sequence[Reading]:
        value = event_object(item, "a Mailomat event")
        return [_reading(value, item.event_id)]


def _signature(headers: Mapping[str, str]) -> bytes:
    value = header(headers, _SIGNATURE)
    if not value.startswith(_SCHEME):
        raise Refused(Reason.MALFORMED_HEADER, f"the header {_SIGNATURE} is not of the form {_SCHEME}...")
    return unhex(value.removeprefix(_SCHEME), _SIGNATURE)


def _reading(value: Mapping[str, Any], signed: str | None) -> Reading:
    word = text(value.get("eventType")) or ""
    type_ = _WORDS.get(word, EventType.UNKNOWN)
    detail = mapping(value.get("payload"))
    status = mapping(detail.get("delivery-status"))
    remote = mapping(status.get("remote"))
    headers = mapping(mapping(detail.get("message")).get("headers"))
    client = mapping(detail.get("client"))
    reason = text(detail.get("reason"))
    return Reading(
        type=type_,
        word=word,
        identity=_identity(value, signed),
        identity_time=_signed_time(signed),
        occurred_at=iso_time(value.get("occurredAt")),
        provider_event_id=text(value.get("id")),
        recipient=text(value.get("recipient")),
        message_id=text(value.get("messageUuid")),
        internet_message_id=bare_id(value.get("messageId")),
        sender=text(headers.get("from")),
        verdict=BounceCategory.HARD if type_ is EventType.BOUNCED else None,
        smtp_code=integer(status.get("code"), low=200, high=599),
        enhanced_code=text(status.get("enhanced-code")),
        diagnostic=text(status.get("message")) or reason,
        reject_reason=_reject_reason(reason) if type_ is EventType.FAILED else None,
        sending_ip=text(mapping(status.get("local")).get("ip")),
        remote_mta=text(remote.get("mx")),
        attempt=integer(status.get("attempt-nr")),
        metadata=mapping(detail.get("metadata")) or None,
        subject=text(headers.get("subject")),
        url=text(detail.get("url")),
        user_agent=text(client.get("user-agent")),
        client_ip=text(client.get("ip")),
    )


def _reject_reason(reason: str | None) -> RejectReason:
    return RejectReason.QUOTA if "remaining emails" in (reason or "") else RejectReason.OTHER


def _identity(value: Mapping[str, Any], signed: str | None) -> Sequence[str | None] | None:
    if signed is not None:
        return ("signed", signed)
    parts = tuple(text(value.get(name)) for name in ("id", "eventType", "recipient", "occurredAt"))
    return parts if parts[0] else None


def _signed_time(signed: str | None) -> datetime | None:
    return unix_time(signed.rpartition(".")[2]) if signed else None


# The simulator's side.

_OF_TYPE: Final[Mapping[EventType, str]] = {type_: word for word, type_ in _WORDS.items()}
_STATUS: Final[Mapping[EventType, tuple[int, str, str]]] = {
    EventType.DELIVERED: (250, "2.0.0", "2.0.0 OK"),
    EventType.DEFERRED: (451, "4.7.1", "4.7.1 Greylisted, please try again later"),
    EventType.BOUNCED: (550, "5.1.1", "5.1.1 recipient rejected, address unknown"),
}


def _sample(what: Occurrence) -> dict[str, Any]:
    word = _OF_TYPE[what.type]
    number, uuid = (str(uuid5(NAMESPACE_URL, f"{what.run}/{what.number}/{part}")) for part in (word, "mail"))
    message_id = f"{uuid}@s.mailomat.swiss"
    headers = {"from": what.sender, "to": what.recipient, "message-id": f"<{message_id}>", "subject": "Autumn news"}
    return {
        "id": number,
        "eventType": word,
        "occurredAt": what.at.astimezone(UTC).isoformat(timespec="seconds"),
        "messageUuid": uuid,
        "messageId": message_id,
        "recipient": what.recipient,
        "payload": {
            "event": word,
            "timestamp": what.at.timestamp(),
            "message-uuid": uuid,
            "recipient": what.recipient,
            "message": {"headers": headers, "size": 1234},
            **_details(what.type),
        },
    }


def _details(type_: EventType) -> dict[str, Any]:
    if type_ in _STATUS:
        code, enhanced, message = _STATUS[type_]
        remote = {"ip": "192.0.2.25", "mx": "mx.example.com", "tls": {"started": True, "protocol": "TLSv1.3"}}
        status = {"attempt-nr": 1, "code": code, "enhanced-code": enhanced, "message": message, "remote": remote}
        return {"delivery-status": status}
    if type_ is EventType.FAILED:
        return {"reason": "Not enough remaining emails available to send 1 emails (limit 100, sent 100, remaining 0)"}
    link = {"url": "https://example.com/autumn"} if type_ is EventType.CLICKED else {}
    return link | {"client": {"ip": "203.0.113.42", "user-agent": "Mozilla/5.0"}}


def _keys(settings: MailomatSettings) -> Mapping[str, str] | None:
    secret = hmacs.keys()(settings)
    return {**credentials.keys(settings), **secret} if secret else None


def _post(items: Sequence[Any], keys: Mapping[str, str], now: datetime) -> Sequence[Post]:
    return [_one(item, keys, int(now.timestamp())) for item in items]


def _one(item: Any, keys: Mapping[str, str], stamp: int) -> Post:
    body = msgspec.json.encode(item)
    webhook_id, event = (
        _plain(mapping(item).get(name), str(uuid5(NAMESPACE_URL, repr(body)))) for name in ("id", "eventType")
    )
    signed = f"{webhook_id}.{event}.{stamp}".encode()
    signature = _SCHEME + hmacs.hexadecimal(keys["signing_secret"], signed)
    values = dict(zip((*_SIGNED, _SIGNATURE), (webhook_id, event, str(stamp), signature), strict=True))
    headers = {"content-type": "application/json", **values, **credentials.headers(keys)}
    return Post(headers=headers, body=body, query=credentials.query(keys))


def _plain(value: object, otherwise: str) -> str:
    """The value where a header can carry it."""
    return value if isinstance(value, str) and value.isascii() and value.isprintable() and value.strip() else otherwise


Mailomat.simulation = Simulation(
    types=tuple(_OF_TYPE),
    demo=hmacs.demo(),
    keys=_keys,
    sample=_sample,
    post=_post,
    setup=(
        "1. Mailomat console: Webhooks, new webhook. URL: {url}, best with Basic credentials in it\n"
        "   (https://user:password@host/...), the same as `username` and `password` here. Choose all events.\n"
        "2. Save, and copy the secret into `signing_secret`."
    ),
)

PROVIDER: Final[type[Provider]] = Mailomat
