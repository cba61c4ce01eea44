"""Postal: webhooks of one's own mail server.

Rests on (all seen 2026-11)
- "Webhooks", https://docs.postalserver.io/developer/webhooks: events with samples, delivery, signature
- "Receiving e-mail by HTTP", https://docs.postalserver.io/developer/http-payloads: incoming mail, with the same headers
- Postal's source, https://github.com/postalserver/postal: lib/postal/signer.rb and http.rb (the headers),
  app/services/webhook_delivery_service.rb (envelope, attempts), the message processors (why a message is held)

What the proof covers: every byte of the body, by an RSA signature (PKCS #1 v1.5) of the installation's one key. It
covers no time, so an old request is accepted whenever it comes; its events are stored once. The key says which
installation sent it, not which mail server or organization in it.
Older servers sign with SHA-1 alone, Postal 3 with SHA-1 and SHA-256. Two texts with one SHA-1 can be made by whoever
can have one of them signed, and links and user agents of strangers do stand in what Postal signs. So SHA-256 is
required, and where it is there it alone counts. A source whose server is too old for it says `allow_sha1 = true`; until
then its requests are refused with this advice, and repeated.

Status codes: 2xx is kept, everything else is tried again: six attempts in 36 minutes, then the event is dropped.

Identity: the envelope's `uuid`, which stays the same in all attempts, with the word, the message's number, recipient,
time, link, address and user agent. Bodies without `uuid` and time: the whole item.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, HashAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key
from pydantic import Field

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
    SourceSettings,
    UnreadableItem,
    World,
)
from receiver.errors import ConfigError, Problem, Reason, Refused
from receiver.event import BounceCategory, EventType, Reading, RejectReason
from receiver.payload import bare_id, event_object, first_text, item_of, mapping, strip, text, texts, unix_time
from receiver.signatures import check_rsa, header, unbase64
from receiver.signers import posts
from receiver.signers import rsa as signer

SIGNATURE: Final = "x-postal-signature-256"
OLD_SIGNATURE: Final = "x-postal-signature"
SHORTEST: Final = 1024  # bits; what Postal itself once made

_RIGHT: Final = (
    "The text of https://<your Postal>/.well-known/jwks.json, or `postal default-dkim-record`, or the public half of "
    "signing.key in PEM (`openssl rsa -in signing.key -pubout`)"
)


class PostalSettings(SourceSettings):
    """`public_key`: of the installation, or several while it is replaced."""

    public_key: PublicKeys = Field([], description="public key(s): JWKS, DKIM record, base64 or PEM")
    allow_sha1: bool = Field(default=False, description="accept the signature of servers before Postal 3")


# Status events of incoming messages concern no send of ours, nor do those about the server.
WORDS: Final[Mapping[str, EventType]] = {
    "MessageSent": EventType.DELIVERED,
    "MessageDelayed": EventType.DEFERRED,
    "MessageDeliveryFailed": EventType.BOUNCED,
    "MessageHeld": EventType.QUEUED,
    "MessageBounced": EventType.BOUNCED,
    "MessageLinkClicked": EventType.CLICKED,
    "MessageLoaded": EventType.OPENED,
    "MessageSent:incoming": EventType.UNKNOWN,
    "MessageDelayed:incoming": EventType.UNKNOWN,
    "MessageDeliveryFailed:incoming": EventType.UNKNOWN,
    "MessageHeld:incoming": EventType.UNKNOWN,
    "DomainDNSError": EventType.UNKNOWN,
    "SendLimitApproaching": EventType.UNKNOWN,
    "SendLimitExceeded": EventType.UNKNOWN,
    "(incoming mail)": EventType.INBOUND,  # has no word: an HTTP endpoint's own payload
}
# What tells the event where it is not named.
_STATUSES: Final = {
    "Sent": "MessageSent",
    "SoftFail": "MessageDelayed",
    "HardFail": "MessageDeliveryFailed",
    "Held": "MessageHeld",
}
_SHAPES: Final = {
    "rcpt_to": "(incoming mail)",
    "original_message": "MessageBounced",
    "url": "MessageLinkClicked",
    "ip_address": "MessageLoaded",
    "spf_status": "DomainDNSError",
}
# The bounce message itself is not in the event; its kind is only in those of some versions.
_BOUNCES: Final = {"hard": BounceCategory.HARD, "soft": BounceCategory.SOFT}
_SUPPRESSED: Final = "is on the suppression list"
# Hard failures of Postal's own: no server refused anything, and none but the first says anything of the recipient.
_OWN_FAILURES: Final[Mapping[str, tuple[EventType, BounceCategory | None, RejectReason | None]]] = {
    "Maximum number of delivery attempts": (EventType.BOUNCED, BounceCategory.SOFT, None),
    "Message is likely spam": (EventType.REJECTED, None, RejectReason.CONTENT),
    "Message's domain no longer exist": (EventType.FAILED, None, None),
    "Message doesn't have an RCPT to": (EventType.FAILED, None, None),
    "Raw message has been removed": (EventType.FAILED, None, None),
}
_LISTED: Final = " Added "  # begins what Postal notes of its own suppression list, which is no answer to the message


class Postal(Provider):
    """One source of Postal."""

    name = "postal"
    title = "Postal"
    basis = "verified"
    covers = "body"
    words = WORDS
    reply = Reply(
        retries="All but 2xx is repeated after 2, 3, 6, 10 and 15 minutes; then the event is dropped.", timeout=5.0
    )
    Settings = PostalSettings

    def __init__(self, settings: PostalSettings, world: World) -> None:  # noqa: ARG002 - the contract's
        self._allow_sha1 = settings.allow_sha1
        try:
            self._keys = [key for one in settings.public_key for key in _public_keys(one)]
        except ValueError as error:
            raise ConfigError([Problem("public_key", str(error), _RIGHT)]) from error

    @staticmethod
    def problems(settings: PostalSettings, key: str) -> Sequence[Problem]:
        where = f"{key}.public_key"
        if not settings.public_key:
            return [Problem(where, "is missing, so nothing would prove the sender", _RIGHT)]
        return [Problem(where, wrong, _RIGHT) for one in settings.public_key if (wrong := _wrong(one))]

    async def authenticate(self, delivery: Delivery) -> Authentic:
        name, algorithm = self._scheme(delivery.headers)
        signature = unbase64(header(delivery.headers, name), name)
        check_rsa(self._keys, signature, delivery.body, algorithm, what="public keys")
        return Authentic(payload=delivery.body)

    def _scheme(self, headers: Mapping[str, str]) -> tuple[str, HashAlgorithm]:
        """The header that counts, and its hash: SHA-256 where it is there, whatever the older header says."""
        if SIGNATURE in headers or OLD_SIGNATURE not in headers:
            return SIGNATURE, SHA256()
        if not self._allow_sha1:
            wrong = "the request is signed with SHA-1 alone: update Postal to 3 or later, or set allow_sha1 = true"
            raise Refused(Reason.MISSING_HEADER, wrong, again=True)
        return OLD_SIGNATURE, SHA1()  # noqa: S303 - all that old servers have, and only where the settings allow it

    def parse(self, payload: bytes) -> Iterable[Item | UnreadableItem]:
        return (item_of(strip(payload)),)

    def read(self, item: Item) -> Sequence[Reading]:
        return [_event(event_object(item, "a Postal event"))]


def _public_keys(one: str) -> list[RSAPublicKey]:
    """The RSA keys in a JWKS, a DKIM record, base64 or PEM. Raises ValueError."""
    try:
        if one.lstrip().startswith("{"):
            return [_jwk(key) for key in json.loads(one)["keys"]]
        key = load_pem_public_key(one.strip().encode()) if "-----BEGIN" in one else load_der_public_key(_der(one))
    except (KeyError, TypeError, AttributeError, UnsupportedAlgorithm) as error:
        raise ValueError("is no key that can be read") from error
    if not isinstance(key, RSAPublicKey):
        raise ValueError("is no RSA key")  # noqa: TRY004 - a wrong value, not a wrong call
    return [key]


def _der(one: str) -> bytes:
    """The key's bytes, from base64 or the `p=` of a DKIM record. Raises ValueError."""
    tags = dict(tag.strip().partition("=")[::2] for tag in one.split(";"))
    return base64.b64decode("".join(tags.get("p", one).split()), validate=True)


def _jwk(key: Mapping[str, str]) -> RSAPublicKey:
    number, exponent = (
        int.from_bytes(base64.urlsafe_b64decode(key[part] + "=" * (-len(key[part]) % 4))) for part in "ne"
    )
    return RSAPublicNumbers(exponent, number).public_key()


def _wrong(one: str) -> str | None:
    if "PRIVATE KEY" in one:
        return "is a private key, which must stay with Postal"
    try:
        keys = _public_keys(one)
    except ValueError:
        return "holds no RSA public key that can be read"
    if not keys or any(key.key_size < SHORTEST for key in keys):
        return f"has no key, or one of less than {SHORTEST} bits"
    return None


def _event(value: Mapping[str, Any]) -> Reading:
    payload = mapping(value.get("payload")) or (value if "payload" not in value else {})
    message = mapping(payload.get("message")) or mapping(payload.get("original_message")) or payload
    bounce = mapping(payload.get("bounce"))
    word = _word(text(value.get("event")) or _by_shape(payload), message)
    details, output = text(payload.get("details")), text(payload.get("output"))
    type_, verdict, reject_reason = _meaning(word, details or "", bounce)
    time = text(payload.get("timestamp")) or text(bounce.get("timestamp")) or text(value.get("timestamp"))
    uuid, number, recipient = text(value.get("uuid")), text(message.get("id")), first_text(message, "rcpt_to", "to")
    visit = [text(payload.get(name)) for name in ("url", "ip_address", "user_agent")]
    return Reading(
        type=type_,
        word=word,
        identity=(uuid, word, number, recipient, time, *visit) if uuid or (number and time) else None,
        occurred_at=unix_time(time),
        provider_event_id=uuid,
        recipient=recipient,
        message_id=number,
        internet_message_id=bare_id(message.get("message_id")),
        sender=first_text(message, "mail_from", "from"),
        verdict=verdict,
        diagnostic=output or (details and details.partition(_LISTED)[0]),
        reject_reason=reject_reason,
        tags=texts(message.get("tag")),
        subject=text(message.get("subject")),
        url=visit[0],
        client_ip=visit[1],
        user_agent=visit[2],
    )


def _word(event: str, message: Mapping[str, Any]) -> str:
    incoming = message.get("direction") == "incoming" and f"{event}:incoming" in WORDS
    return f"{event}:incoming" if incoming else event


def _by_shape(payload: Mapping[str, Any]) -> str:
    status = text(payload.get("status")) or ""
    return _STATUSES.get(status) or next((word for key, word in _SHAPES.items() if key in payload), "")


def _meaning(
    word: str, details: str, bounce: Mapping[str, Any]
) -> tuple[EventType, BounceCategory | None, RejectReason | None]:
    type_ = WORDS.get(word, EventType.UNKNOWN)
    if word == "MessageHeld" and _SUPPRESSED in details:
        return EventType.REJECTED, None, _reject_reason(details)
    if word == "MessageBounced":
        return type_, _BOUNCES.get(text(bounce.get("bounce_type")) or "", BounceCategory.UNDETERMINED), None
    if word == "MessageDeliveryFailed":
        own = (meaning for start, meaning in _OWN_FAILURES.items() if details.startswith(start))
        return next(own, (type_, BounceCategory.HARD, None))
    return type_, None, None


def _reject_reason(details: str) -> RejectReason:
    """Why the address is on the list: "(reason: too many hard fails)". Of "too many soft fails" none is dead."""
    return RejectReason.BOUNCED if "hard fails" in details else RejectReason.OTHER


# The simulator's side.

_VISIT: Final = {"ip_address": "203.0.113.42", "user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Firefox/144.0"}
_HELD: Final = "Recipient is on the suppression list (reason: too many hard fails)"
_OF_TYPE: Final[Mapping[EventType, tuple[str, Mapping[str, Any]]]] = {
    EventType.DELIVERED: ("MessageSent", {"status": "Sent", "details": "Message sent", "output": "250 2.0.0 OK"}),
    EventType.DEFERRED: ("MessageDelayed", {"status": "SoftFail", "output": "451 4.7.1 Please try again later"}),
    EventType.BOUNCED: ("MessageDeliveryFailed", {"status": "HardFail", "output": "550 5.1.1 No such user here"}),
    EventType.QUEUED: ("MessageHeld", {"status": "Held", "details": "Server is in development mode.", "output": ""}),
    EventType.REJECTED: ("MessageHeld", {"status": "Held", "details": _HELD, "output": ""}),
    EventType.OPENED: ("MessageLoaded", _VISIT),
    EventType.CLICKED: ("MessageLinkClicked", {"url": "https://example.com/welcome", "token": "VJzsFA0S", **_VISIT}),
}


def _demo(_: Path) -> tuple[dict[str, Any], dict[str, str]]:
    private, public = signer.new_key_pair()
    return {"public_key": [public]}, {"private_key": private}


def _sample(what: Occurrence) -> dict[str, Any]:
    digest = sha256(f"{what.run}/{what.number}".encode()).digest()
    word, details = _OF_TYPE[what.type]
    at = round(what.at.timestamp(), 5)
    message = {
        "id": int.from_bytes(digest[:4]),
        "token": digest[4:12].hex(),
        "direction": "outgoing",
        "message_id": f"{digest[12:24].hex()}@rp.example.net",
        "to": what.recipient,
        "from": what.sender,
        "subject": "Welcome",
        "timestamp": at,
        "spam_status": "NotSpam",
        "tag": "welcome",
    }
    attempt = {"time": 0.22, "sent_with_ssl": True, "timestamp": at} if "status" in details else {}
    return {
        "event": word,
        "timestamp": at,
        "payload": {**details, **attempt, "message": message},
        "uuid": str(uuid5(NAMESPACE_URL, f"{what.run}/{what.number}")),
    }


def _post(items: Sequence[Any], keys: Mapping[str, str], _: datetime) -> Sequence[Post]:
    private = keys["private_key"]
    return posts.one_by_one(
        items,
        lambda body: {
            "user-agent": "Postal/3.3.7",
            OLD_SIGNATURE: signer.sign(private, body, sha1=True),
            SIGNATURE: signer.sign(private, body),
        },
    )


Postal.simulation = Simulation(
    types=tuple(_OF_TYPE),
    demo=_demo,
    keys=lambda _: None,
    sample=_sample,
    post=_post,
    setup=(
        "1. Postal: choose the mail server, Webhooks, Add new webhook. URL: {url}, all events.\n"
        "2. The installation's public key, which `https://<your Postal>/.well-known/jwks.json` shows, goes into\n"
        "   `public_key`."
    ),
    unsignable=(
        "Only your Postal has the key that it signs with. To try this provider, make a key of your own "
        "(`openssl genrsa 2048`) and add its public half to `public_key` of a source made for trying."
    ),
)

PROVIDER: Final[type[Provider]] = Postal
