"""Amazon SES, whose events come over Amazon SNS. What its events say is read in `receiver/ses_events.py`.

Rests on (all seen 2026-11)
- "Contents of event data that Amazon SES publishes to Amazon SNS" and its page of examples (event publishing,
  `eventType`), "Amazon SNS notification contents for Amazon SES" (feedback notifications, `notificationType`),
  "Contents of notifications for Amazon SES email receiving" (`Received`): docs.aws.amazon.com/ses/latest/dg
- SNS's own rules: see `receiver/sns.py`.

What the signature covers: the fields of SNS's envelope that are listed there, so all that SES says, but not the
envelope's layout nor `UnsubscribeURL`. It does not say whose topic it is (the list `topics` does) nor that the
post is new: `Timestamp` is the time of publishing and stays the same when SNS tries again, so no window applies
unless `tolerance` is set; a replay is harmless, because an event is stored once.

Status codes: SNS takes 200 to 4xx as final and tries again after 5xx and time-outs only, by default three times,
20 s apart ("Amazon SNS message delivery retries" and "Step 1" of "Fanout to HTTP/S endpoints" in its guide; that 429
is tried again stands on newer pages alone, so it is not relied on). A wrong signature is final (403). All else is
503, as it is our side's trouble or may pass: a topic that is not listed yet, a certificate that could not be had, a
body that came too slowly, is over our limit or comes in an encoding that a proxy of ours may have given it.

Identity: word, SES's message id (shared by all recipients of a message), recipient, the event's own time as
written, `feedbackId`, link, address, user agent, topic. SNS's `MessageId` survives its retries, but is left out:
whoever has both feedback notifications and event publishing gets each event twice, with the same content under
two `MessageId`s, and that shall end as one row wherever SES says the same both times. It stands in
`provider_event_id`. For a word we do not know, and where the time is missing, the text of the item and SNS's
`MessageId` are hashed: there nothing says which fields tell two events apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from pydantic import Field

from receiver import sns
from receiver.contract import (
    Authentic,
    Basis,
    Covers,
    Delivery,
    Item,
    Post,
    Provider,
    Reply,
    Simulation,
    SourceSettings,
    UnreadableItem,
    World,
)
from receiver.errors import ConfigError, Problem, Reason, Refused
from receiver.event import EventType, Reading
from receiver.payload import iso_time
from receiver.ses_events import WORDS, items_of_message, readings
from receiver.signatures import check_time
from receiver.signers import ses as samples
from receiver.signers import sns as signer
from receiver.sns_certificates import load_certificates
from receiver.sns_topics import RIGHT_TOPIC, Texts, Topics, topic_problems

_RIGHT_CERTIFICATE: Final = "Give the path of a PEM file with an RSA certificate, or its text; for trying only"
_PINNED: Final = (
    "certificates: PINNED FOR TRYING: whatever these keys signed is accepted, what Amazon SNS signed is refused, "
    "and no subscription is confirmed. Remove the line before this source faces Amazon."
)


class SesSettings(SourceSettings):
    """The topics are the proof of the sender; everything else has a default."""

    topics: Texts = Field([], description="ARNs of the SNS topics to accept; messages of all others are refused")
    confirm: bool = Field(default=True, description="confirm subscriptions of the listed topics automatically")
    certificates: Texts = Field(
        [],
        repr=False,  # the text of a trial's PEM file may hold its private key too
        description="for trying: accept what these certificates (PEM file or text) signed, instead of SNS's",
    )


class Ses:
    """One source of Amazon SES."""

    name: ClassVar[str] = "ses"
    title: ClassVar[str] = "Amazon SES (over SNS)"
    basis: ClassVar[Basis] = "verified"
    covers: ClassVar[Covers] = "fields"
    words: ClassVar[Mapping[str, EventType]] = WORDS
    waits: ClassVar[bool] = True  # for the signing certificate, the first time
    reply: ClassVar[Reply] = Reply(
        repeated=lambda code: code >= 500,
        final_refusal=True,
        retries="5xx and silence are repeated three times, 20 s apart, or as the subscription says; a 4xx is final.",
        stored=200,
        refused=403,
        again=503,
        slow=503,
        too_large=503,
        bad_encoding=503,
        timeout=15.0,
    )
    simulation: ClassVar[Simulation]
    Settings: ClassVar[type[SourceSettings]] = SesSettings

    def __init__(self, settings: SesSettings, world: World) -> None:
        self._settings = settings
        self._world = world
        self._topics = Topics(settings.topics, world, confirm=settings.confirm, pinned=_pinned_keys(settings))

    @staticmethod
    def problems(settings: SesSettings, key: str) -> Sequence[Problem]:
        """No topic, an ill-formed one, a certificate that cannot be used."""
        found = topic_problems(settings.topics, key)
        if not settings.topics:
            found.append(Problem(f"{key}.topics", "is missing, so nothing would prove the sender", RIGHT_TOPIC))
        for one in settings.certificates:
            try:
                _pinned_key(one)
            except (OSError, ValueError) as error:
                found.append(Problem(f"{key}.certificates", str(error), _RIGHT_CERTIFICATE))
        return found

    @staticmethod
    def warnings(settings: SesSettings) -> list[str]:
        """What is allowed but must be said loudly."""
        return [_PINNED] if settings.certificates else []

    async def authenticate(self, delivery: Delivery) -> Authentic:
        """The envelope as payload, or the answer to SNS's handshake."""
        if sns.is_raw(delivery.headers):
            raise sns.raw_delivery()
        envelope = sns.envelope_of(delivery.body)
        signed = await self._topics.prove(envelope)
        self._check_age(envelope["Timestamp"], signed)
        if envelope["Type"] == sns.NOTIFICATION:
            return Authentic(payload=envelope, proof=signed)
        return Authentic(answer=await self._topics.handshake(envelope))

    def _check_age(self, stamp: str, proof: bytes) -> None:
        if self._settings.tolerance is None:
            return
        moment = iso_time(stamp)
        if moment is None:
            raise Refused(Reason.MISSING_FIELD, "the field Timestamp is not a time")
        check_time(moment.timestamp(), self._world.now(), past=self._settings.tolerance, proof=proof)

    def parse(self, payload: Mapping[str, str]) -> Iterable[Item | UnreadableItem]:
        """The one item of a notification; none for the notices that SES sends when it is set up."""
        return items_of_message(payload["Message"].encode(errors="replace"), payload["MessageId"])

    def read(self, item: Item) -> Sequence[Reading]:
        """The events of one SES object, one for each recipient it concerns."""
        return readings(item, self.words)


def _pinned_keys(settings: SesSettings) -> list[RSAPublicKey]:
    try:
        return [_pinned_key(one) for one in settings.certificates]
    except (OSError, ValueError) as error:
        raise ConfigError([Problem("certificates", str(error), _RIGHT_CERTIFICATE)]) from error


def _pinned_key(one: str) -> RSAPublicKey:
    """The key of a pinned certificate, from PEM text or a file. Raises OSError, ValueError."""
    found = load_certificates(_pem(one))
    key = found[0].public_key() if found else None
    if not isinstance(key, RSAPublicKey):
        where = "the text" if "-----BEGIN" in one else one[:300]
        raise ValueError(f"{where} holds no RSA certificate")  # noqa: TRY004 - a wrong value, not a wrong call
    return key


def _pem(one: str) -> bytes:
    return one.encode() if "-----BEGIN" in one else Path(one).read_bytes()


# The simulator's side.

_PRIVATE: Final = re.compile(r"-----BEGIN (?:RSA )?PRIVATE KEY-----[^-]+-----END (?:RSA )?PRIVATE KEY-----")


def _demo(directory: Path) -> tuple[dict[str, Any], dict[str, str]]:
    private, certificate = signer.make_key("SNS of this demo", datetime.now(UTC))
    path = directory / "ses-demo.pem"
    path.write_text(certificate)
    settings = {"topics": [signer.SAMPLE_TOPIC], "certificates": [str(path)]}
    return settings, {"private_key": private, **signer.arn_parts(signer.SAMPLE_TOPIC)}


def _keys(settings: SesSettings) -> dict[str, str] | None:
    """The private key, where somebody who tries things out has put it into the file of a pinned certificate."""
    for one in settings.certificates:
        found = _PRIVATE.search(_pem(one).decode(errors="replace"))
        if found and settings.topics:
            return {"private_key": found[0], **signer.arn_parts(settings.topics[0])}
    return None


def _post(items: Sequence[Any], keys: Mapping[str, str], now: datetime) -> Sequence[Post]:
    topic, version = signer.arn_of(keys), keys.get("version", "2")
    texts = [json.dumps(item, separators=(",", ":")) for item in items]
    unsigned = [signer.notification(text, now, topic=topic, version=version) for text in texts]
    signed = [signer.sign(message, keys["private_key"]) for message in unsigned]
    return [Post(headers=signer.headers_of(message), body=signer.body_of(message)) for message in signed]


Ses.simulation = Simulation(
    types=samples.TYPES,
    demo=_demo,
    keys=_keys,
    sample=samples.sample,
    post=_post,
    setup=(
        "1. Amazon SNS, Topics: create a standard topic and put its ARN into `topics`.\n"
        "2. Amazon SES, Configuration sets, your set, Event destinations: add the topic for all event types (or,\n"
        "   not both, Identities, your domain, Notifications).\n"
        "3. Amazon SNS, the topic, Create subscription: protocol HTTPS, endpoint {url}, raw message delivery off.\n"
        "   The subscription is confirmed automatically, within seconds; it must be made in the topic's region.\n"
        "4. SNS gives up after a minute by default: give the subscription a delivery policy with more retries\n"
        "   (up to an hour in all) and a dead-letter queue."
    ),
    unsignable=(
        "Only Amazon has the key that SNS signs with. To try this provider, make a key of your own:\n"
        "  openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=trial -keyout trial.pem -out trial.pem\n"
        "and a second source for it, which leaves the first one as it is:\n"
        "  [sources.ses_trial]\n"
        '  provider = "ses"\n'
        '  topics = ["arn:aws:sns:us-east-1:123456789012:trial"]\n'
        '  certificates = ["trial.pem"]'
    ),
)

PROVIDER: Final[type[Provider]] = Ses
