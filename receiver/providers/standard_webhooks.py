"""Generic Standard Webhooks: any sender that signs by the specification and sends our own words.

Rests on the Standard Webhooks specification,
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md, seen 2026-11.

The body is one JSON object:

    {"type": "bounced",                          one of our event types, also as "email.bounced"
     "timestamp": "2026-11-20T09:30:00Z",        when it happened; ISO 8601, or seconds since 1970
     "data": {"recipient": "ada@example.org",    also as "email" or "to"; a list of several is one event for each
              "message_id": "m-1", ...}}         any of the columns below by its name in our schema

Columns: message_id internet_message_id sender (or from) bounce_category smtp_code enhanced_code diagnostic
reject_reason actor sending_ip ip_pool remote_mta stream topic campaign template_id attempt tags metadata subject
url user_agent client_ip country echo is_test; `occurred_at` wins over `timestamp`. An unknown type is stored as
`unknown`; what is no column stays in `raw`.

Signature: HMAC-SHA256 (`v1`, secrets `whsec_...`) or Ed25519 (`v1a`, public keys `whpk_...`) over id, timestamp
and raw body, so that every byte is covered; `svix-*` headers count as `webhook-*`. Each attempt is signed anew:
300 seconds. A replay within them is stored once.

Status codes: 2xx is kept; 410 asks the sender to stop for good, and so is never ours; every other code is tried again.

Identity: `webhook-id`, which the specification keeps over retries, with type, message id, recipient, time, link,
attempt, address and user agent as sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import Field

from receiver.contract import (
    Item,
    Occurrence,
    Provider,
    PublicKeys,
    Reply,
    Secrets,
    Simulation,
    SourceSettings,
    World,
    all_but_2xx,
)
from receiver.errors import Problem
from receiver.event import Actor, BounceCategory, EventType, Reading, RejectReason, each_recipient
from receiver.payload import bare_id, boolean, event_object, integer, iso_time, mapping, text, texts, unix_time
from receiver.signatures import ed25519_key
from receiver.signers import hmacs
from receiver.signers import standard_webhooks as signer
from receiver.standard_webhooks import ByStandardWebhooks, Proof, hmac_keys, whsec_problems

PUBLISHED_PUBLIC: Final = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="

_RIGHT: Final = "It is the text `whsec_` with base64 behind it that the sender shows for this endpoint"
_RIGHT_PUBLIC: Final = "It is the text `whpk_` with 44 characters of base64 behind it that the sender publishes"


class StandardWebhooksSettings(SourceSettings):
    """`secret` or `public_key`, each one or several: what the sender signs with."""

    secret: Secrets = Field(default=[], description="`whsec_...`, for signatures of the kind v1")
    public_key: PublicKeys = Field(default=[], description="`whpk_...`, for signatures of the kind v1a")


# Each also with "email." before it, as many senders name their types.
_WORDS: Final[Mapping[str, EventType]] = {type_.value: type_ for type_ in EventType if type_ is not EventType.UNKNOWN}

# Field -> column, where text is taken as it is.
_TEXTS: Final = {
    **{
        name: name
        for name in (
            *("enhanced_code", "diagnostic", "sending_ip", "ip_pool", "remote_mta", "stream", "topic", "campaign"),
            *("template_id", "subject", "url", "user_agent", "client_ip", "country", "sender"),
        )
    },
    "from": "sender",
}
_CATEGORIES: Final = {member.value: member for member in BounceCategory}
_REASONS: Final = {member.value: member for member in RejectReason}
_ACTORS: Final = {member.value: member for member in Actor}


class StandardWebhooks(ByStandardWebhooks, Provider):
    """Any sender that follows the specification."""

    name = "standard_webhooks"
    title = "Standard Webhooks (generic)"
    basis = "verified"
    covers = "body"
    words = _WORDS
    # The specification: 2xx alone is success, 15 to 30 seconds of patience, and 410 would end the subscription.
    reply = Reply(
        repeated=lambda code: all_but_2xx(code) and code != 410,
        retries="The sender decides; the specification asks for several days. 410 ends the subscription.",
        timeout=15.0,
    )
    Settings = StandardWebhooksSettings

    def __init__(self, settings: StandardWebhooksSettings, world: World) -> None:
        public_keys = [_public_key(key) for key in settings.public_key]
        self._proof = Proof(hmac_keys(settings.secret), settings, world, public_keys=public_keys)

    @staticmethod
    def problems(settings: StandardWebhooksSettings, key: str) -> Sequence[Problem]:
        if not settings.secret and not settings.public_key:
            wrong = "has neither a secret nor a public key, so nothing would prove the sender"
            return [Problem(key, wrong, f"`secret`: {_RIGHT}. `public_key`: {_RIGHT_PUBLIC}")]
        found = whsec_problems(settings.secret, f"{key}.secret", _RIGHT) if settings.secret else []
        for number, public in enumerate(settings.public_key, 1):
            if wrong_key := _public_key_problem(public):
                found.append(Problem(f"{key}.public_key (number {number})", wrong_key, _RIGHT_PUBLIC))
        return found

    def read(self, item: Item) -> Sequence[Reading]:
        value = event_object(item, "the event")
        word = text(value.get("type")) or ""
        type_ = _WORDS.get(word.removeprefix("email."), EventType.UNKNOWN)
        data = mapping(value.get("data"))
        when = data.get("occurred_at") or value.get("timestamp")
        common = _common(data)
        recipients, attribution = each_recipient(type_, _addresses(data))
        return [
            Reading(
                type=type_,
                word=word,
                identity=_identity(item.event_id, word, recipient, text(when), data),
                occurred_at=iso_time(when) or unix_time(when),
                provider_event_id=item.event_id,
                recipient=recipient,
                attribution=attribution,
                **common,
            )
            for recipient in recipients
        ]


def _identity(
    webhook_id: str | None, word: str, recipient: str | None, when: str | None, data: Mapping[str, Any]
) -> Sequence[str | None]:
    rest = ("message_id", "url", "attempt", "client_ip", "user_agent")
    return (webhook_id, word, recipient, when, *(text(data.get(name)) for name in rest))


def _addresses(data: Mapping[str, Any]) -> Sequence[str]:
    return texts(data.get("recipient")) or texts(data.get("email")) or texts(data.get("to"))


def _common(data: Mapping[str, Any]) -> dict[str, Any]:
    get = data.get
    columns: dict[str, Any] = {column: text(data[name]) for name, column in _TEXTS.items() if name in data}
    return columns | {
        "message_id": bare_id(get("message_id")),
        "internet_message_id": bare_id(get("internet_message_id")),
        "verdict": _CATEGORIES.get(text(get("bounce_category")) or ""),
        "smtp_code": integer(get("smtp_code"), low=200, high=599),
        "reject_reason": _REASONS.get(text(get("reject_reason")) or ""),
        "actor": _ACTORS.get(text(get("actor")) or ""),
        "attempt": integer(get("attempt")),
        "tags": texts(get("tags")),
        "metadata": mapping(get("metadata")) or None,
        "echo": boolean(get("echo")) is True,
        "is_test": boolean(get("is_test")) is True,
    }


# Keys


def _public_key(key: str) -> Ed25519PublicKey:
    """Raises ValueError."""
    return ed25519_key(key.removeprefix("whpk_"))


def _public_key_problem(key: str) -> str | None:
    if key.removeprefix("whpk_") == PUBLISHED_PUBLIC.removeprefix("whpk_"):
        return "is a sample from published documents, which everybody could sign for"
    try:
        _public_key(key)
    except ValueError:
        return "is no Ed25519 public key in base64"
    return None


# Simulation


def _sample(occurrence: Occurrence) -> dict[str, Any]:
    number = f"{occurrence.run}-{occurrence.number}"
    return {
        "type": f"email.{occurrence.type.value}",
        "timestamp": occurrence.at.isoformat(),
        "data": {
            "recipient": occurrence.recipient,
            "sender": occurrence.sender,
            "message_id": number,
            "internet_message_id": f"<{number}@mail.example.net>",
            "subject": "Autumn news",
            "stream": "marketing",
            "topic": "newsletter",
            "campaign": "autumn",
            "tags": ["newsletter"],
            "metadata": {"customer": "4711"},
            **_OF_TYPE.get(occurrence.type, {}),
        },
    }


_PERSON: Final = {
    "client_ip": "198.51.100.23",
    "user_agent": "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:144.0) Gecko/20100101 Firefox/144.0",
}
_OF_TYPE: Final[Mapping[EventType, Mapping[str, Any]]] = {
    EventType.REJECTED: {"reject_reason": "bounced", "diagnostic": "on the suppression list"},
    EventType.FAILED: {"reject_reason": "quota", "diagnostic": "daily quota reached"},
    EventType.BOUNCED: {
        "bounce_category": "hard",
        "smtp_code": 550,
        "enhanced_code": "5.1.1",
        "diagnostic": "550 5.1.1 No such user here",
        "remote_mta": "mx.example.org",
    },
    EventType.DEFERRED: {"smtp_code": 451, "diagnostic": "451 4.7.1 Try again later", "attempt": 3},
    EventType.DELIVERED: {"smtp_code": 250, "sending_ip": "192.0.2.40", "remote_mta": "mx.example.org"},
    EventType.OPENED: {**_PERSON, "actor": "human"},
    EventType.CLICKED: {**_PERSON, "actor": "human", "url": "https://shop.example.com/autumn"},
}


StandardWebhooks.simulation = Simulation(
    types=tuple(_WORDS.values()),
    demo=signer.demo("secret"),
    keys=hmacs.keys("secret"),
    sample=_sample,
    post=signer.post(),
    setup="Make an endpoint with the address {url} at the sender, and copy its secret (`whsec_...`) into `secret`.",
    unsignable="The sender keeps the private key (`whsk_...`). List a `secret` beside `public_key` to simulate.",
)

PROVIDER: Final[type[Provider]] = StandardWebhooks
