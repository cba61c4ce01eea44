"""Scaleway Transactional Email: events over a topic of Scaleway's Topics and Events, which has SNS's interface.

Rests on (all seen 2026-11)
- "Understanding Webhook event payloads" and "Webhook event type", https://www.scaleway.com/en/docs/transactional-email/
- "Verifying webhook signatures", https://www.scaleway.com/en/docs/topics-and-events/reference-content/verifying-webhooks/:
  certificates change at least once a year, and only Scaleway's own authority is to be trusted
- "Using Go, Python or Node.js with Topics and Events": ARN, endpoint, where the certificate lies, and that the signed
  text is SNS's; "Supported Actions": signatures are of version 1, ConfirmSubscription needs no permission
- the authority's two certificates (`scaleway.pem`), as Symfony's Scaleway bridge carries and compares them

What the signature covers: the same fields of the envelope as SNS's (`receiver/sns.py`), so all that Scaleway says of
the mail. It does not say whose topic it is (the list `topics` does) nor that the post is new: no window applies unless
`tolerance` is set; a replay is harmless, because an event is stored once. Version 1 means SHA-1: two texts with one
SHA-1 can be made by whoever can have one of them signed, which here is somebody who may publish to the same topic.
Certificates are read in one place alone, Scaleway's own bucket (other buckets of the same domain are its customers'),
and must come from Scaleway's authority, whatever name they bear: the name is not documented. Nor is the bucket for
other regions than fr-par: it is taken to be the one that holds the authority's certificates for all of them.
A subscription is confirmed by a call that is built from topic and token, never by `SubscribeURL`; that Scaleway
understands this GET as Amazon does follows from the interface, and has not been seen.

Status codes: how Topics and Events repeats is not documented, except that it does. Taken are SNS's rules: up to 4xx is
final, 5xx and silence are repeated. A wrong signature is final (403). All else is 503, as it is our side's trouble or
may pass.

Identity: the event's `id` with the word, the mail's id, recipient and time as written. Without `id` and time: the item.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Final
from uuid import NAMESPACE_URL, uuid5

from cryptography import x509
from pydantic import Field

from receiver.contract import Authentic, Delivery, Item, Occurrence, Provider, Reply, Simulation, UnreadableItem, World
from receiver.errors import ConfigError, Problem
from receiver.event import BounceCategory, EventType, Reading, RejectReason
from receiver.payload import (
    bare_id,
    event_object,
    first_text,
    integer,
    iso_time,
    item_of,
    mapping,
    sequence,
    strip,
    text,
)
from receiver.signers import sns as signer
from receiver.sns import Topic
from receiver.sns_certificates import load_certificates
from receiver.sns_topics import Service, Topics, TopicSettings, pinned_keys, proof_problems, proof_warnings

SAMPLE_TOPIC: Final = "arn:scw:sns:fr-par:project-6170692:tem-events"
BUCKET: Final = "https://messaging.s3.fr-par.scw.cloud"

_ARN: Final = re.compile(
    r"arn:scw:sns:(?P<region>[a-z]{2}-[a-z]{3}):[A-Za-z0-9-]{1,64}:[A-Za-z0-9_-]{1,256}(?:\.fifo)?"
)
_CERTIFICATE: Final = re.compile(r"sns_certificate_[0-9A-Za-z:_-]{1,128}\.crt")
_RIGHT: Final = f"List the ARN of the topic that the webhook publishes to, like {SAMPLE_TOPIC}"
_RIGHT_CHAIN: Final = f"Give the path of the file that {BUCKET}/fr-par/sns/sns-trust-chain.pem serves, or leave it out"


class ScalewaySettings(TopicSettings):
    """The topics are the proof of the sender; everything else has a default."""

    trust_chain: str | None = Field(
        None, description="PEM file of Scaleway's authority, should it have changed; default: the one we bring"
    )


def topic_of(arn: str) -> Topic | None:
    """The topic of a well-formed ARN; None for anything else."""
    found = _ARN.fullmatch(arn)
    return found and Topic(
        arn=arn,
        host=f"sns.mnq.{found['region']}.scaleway.com",
        certificates=f"{BUCKET}/{found['region']}/sns/",
        certificate_file=_CERTIFICATE,
        certificate_names=None,
    )


@cache
def authority(path: str | None = None) -> Sequence[x509.Certificate]:
    """The certificates of a PEM file, or of Scaleway's authority as we know it. Raises OSError, ValueError."""
    found = load_certificates((Path(path) if path else Path(__file__).with_suffix(".pem")).read_bytes())
    if not found:
        raise ValueError(f"{path} holds no certificate")
    return found


def _service(path: str | None) -> Service:
    return Service(
        name="Scaleway",
        company="Scaleway",
        right=_RIGHT,
        topic_of=topic_of,
        roots=lambda: authority(path),
    )


WORDS: Final[Mapping[str, EventType]] = {
    "email_queued": EventType.QUEUED,
    "email_delivered": EventType.DELIVERED,
    "email_deferred": EventType.DEFERRED,
    "email_dropped": EventType.BOUNCED,
    "email_mailbox_not_found": EventType.BOUNCED,
    "email_spam": EventType.BOUNCED,  # a filter's verdict, Scaleway's or the recipient's server's
    "email_blocklisted": EventType.REJECTED,
    "blocklist_created": EventType.UNKNOWN,  # about an address, after the event that was the cause
    "unknown_type": EventType.UNKNOWN,
}
_VERDICTS: Final = {
    "email_dropped": BounceCategory.HARD,
    "email_mailbox_not_found": BounceCategory.HARD,
    "email_spam": BounceCategory.BLOCK,
}


class Scaleway(Provider):
    """One source of Scaleway Transactional Email."""

    name = "scaleway"
    title = "Scaleway Transactional Email"
    basis = "documents"
    covers = "fields"
    words = WORDS
    waits: ClassVar[bool] = True  # for the signing certificate, the first time
    reply = Reply(
        repeated=lambda code: code >= 500,
        final_refusal=True,
        retries="5xx and silence are repeated, how often is not documented; a 4xx is taken to be final.",
        refused=403,
        slow=503,
        too_large=503,
        bad_encoding=503,
    )
    Settings = ScalewaySettings

    def __init__(self, settings: ScalewaySettings, world: World) -> None:
        if found := _chain_problems(settings, "trust_chain"):
            raise ConfigError(found)
        self._tolerance = settings.tolerance
        service, pinned = _service(settings.trust_chain), pinned_keys(settings)
        self._topics = Topics(settings.topics, world, confirm=settings.confirm, pinned=pinned, service=service)

    @staticmethod
    def problems(settings: ScalewaySettings, key: str) -> Sequence[Problem]:
        found = proof_problems(settings, key, _service(None))
        return found + _chain_problems(settings, f"{key}.trust_chain")

    @staticmethod
    def warnings(settings: ScalewaySettings) -> list[str]:
        return proof_warnings(settings, _service(None))

    async def authenticate(self, delivery: Delivery) -> Authentic:
        return await self._topics.authenticate(delivery, self._tolerance)

    def parse(self, payload: Mapping[str, str]) -> Iterable[Item | UnreadableItem]:
        return (item_of(strip(payload["Message"].encode(errors="replace"))),)

    def read(self, item: Item) -> Sequence[Reading]:
        return [_event(event_object(item, "a Scaleway event"))]


def _chain_problems(settings: ScalewaySettings, key: str) -> list[Problem]:
    try:
        authority(settings.trust_chain)
    except (OSError, ValueError) as error:
        return [Problem(key, str(error), _RIGHT_CHAIN)]
    return []


def _event(value: Mapping[str, Any]) -> Reading:
    word = text(value.get("type")) or ""
    kind = WORDS.get(word, EventType.UNKNOWN)
    identity = [text(value.get(name)) for name in _IDENTITY]
    headers = _headers(value.get("email_headers"))
    return Reading(
        type=kind,
        word=word,
        identity=identity if identity[0] or (identity[2] and identity[4]) else None,
        occurred_at=iso_time(value.get("created_at")),
        provider_event_id=text(value.get("id")),
        recipient=text(value.get("email_to")),
        message_id=text(value.get("email_id")),
        internet_message_id=bare_id(headers.get("message-id")),
        sender=text(value.get("email_from")),
        verdict=_VERDICTS.get(word),
        smtp_code=integer(value.get("email_response_code"), low=200, high=599),
        diagnostic=first_text(value, "email_response_message", "email_error", "blocklist_reason"),
        reject_reason=_reject_reason(value) if kind is EventType.REJECTED else None,
        attempt=integer(value.get("email_try_count"), low=0),
        subject=text(headers.get("subject")),
    )


_IDENTITY: Final = ("id", "type", "email_id", "email_to", "created_at")


def _headers(value: object) -> Mapping[str, Any]:
    pairs = map(mapping, sequence(value))
    return {name.lower(): pair.get("value") for pair in pairs if (name := text(pair.get("key"))) is not None}


def _reject_reason(value: Mapping[str, Any]) -> RejectReason:
    """A full mailbox says nothing lasting about the address, one that was not found does."""
    return RejectReason.BOUNCED if value.get("blocklist_type") == "mailbox_not_found" else RejectReason.OTHER


# The simulator's side.

_OF_TYPE: Final[Mapping[EventType, tuple[str, Mapping[str, Any]]]] = {
    EventType.DELIVERED: (
        "email_delivered",
        {"email_response_code": 250, "email_response_message": "2.0.0 OK"},
    ),
    EventType.QUEUED: ("email_queued", {}),
    EventType.DEFERRED: (
        "email_deferred",
        {"email_try_count": 2, "email_response_code": 451, "email_response_message": "4.7.1 Please try again later"},
    ),
    EventType.BOUNCED: (
        "email_mailbox_not_found",
        {"email_response_code": 550, "email_response_message": "5.1.1 No such user here"},
    ),
    EventType.REJECTED: (
        "email_blocklisted",
        {"blocklist_type": "mailbox_not_found", "blocklist_reason": "550 5.1.1 No such user here"},
    ),
}


def _sample(what: Occurrence) -> dict[str, Any]:
    word, details = _OF_TYPE[what.type]
    event, mail = (str(uuid5(NAMESPACE_URL, f"{what.run}/{what.number}/{part}")) for part in ("event", "mail"))
    message_id = sha256(mail.encode()).hexdigest()[:24]
    return {
        "id": event,
        "type": word,
        "organization_id": "6170692e-7363-616c-6577-61792e636f6d",
        "project_id": "6170692e-7363-616c-6577-61792e636f6d",
        "domain_id": "b2a4d0a8-5d4c-4e0a-9d68-9c0d3a1f5e71",
        "domain_name": "example.net",
        "created_at": what.at.isoformat().replace("+00:00", "Z"),
        "email_id": mail,
        "email_from": what.sender,
        "email_to": what.recipient,
        "email_headers": [{"key": "Message-ID", "value": f"<{message_id}@example.net>"}],
        **details,
    }


Scaleway.simulation = Simulation(
    types=tuple(_OF_TYPE),
    demo=signer.demo(SAMPLE_TOPIC),
    keys=signer.keys,
    sample=_sample,
    post=signer.post,
    setup=(
        "1. Scaleway console, Topics and Events: create a topic and put its ARN into `topics`.\n"
        "2. Transactional Email, your domain, Webhooks: create a webhook for that topic, all event types.\n"
        "3. Topics and Events, the topic, Subscriptions: protocol HTTPS, endpoint {url}. It is confirmed automatically."
    ),
    unsignable=(
        "Only Scaleway has the key that it signs with. To try this provider, make a key of your own:\n"
        "  openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=trial -keyout trial.pem -out trial.pem\n"
        "and a second source for it, with `certificates = ['trial.pem']` and a topic's ARN that is made up."
    ),
)

PROVIDER: Final[type[Provider]] = Scaleway
