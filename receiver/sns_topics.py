"""The SNS topics of one source: what they sign is proven, and their subscriptions are confirmed.

The rules of the proof and the calls stand in `receiver/sns.py`. The topics may be Amazon's own, or those of a service
with the same interface: what differs between them is a `Service`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from pydantic import BeforeValidator, Field

from receiver import sns
from receiver.contract import Answer, Authentic, Delivery, SourceSettings, World
from receiver.errors import ConfigError, Problem, Reason, Refused
from receiver.payload import iso_time
from receiver.signatures import check_time
from receiver.sns_certificates import Certificates, load_certificates, public_roots

_RIGHT_CERTIFICATE: Final = "Give the path of a PEM file with an RSA certificate, or its text; for trying only"
_PINNED: Final = (
    "certificates: PINNED FOR TRYING: whatever these keys signed is accepted, what {0} signed is refused, "
    "and no subscription is confirmed. Remove the line before this source faces {1}."
)

Texts = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Who runs topics. `roots`: what issues its signing certificates. `right`: where the ARN of a topic is found."""

    name: str
    company: str
    right: str
    topic_of: Callable[[str], sns.Topic | None]
    roots: Callable[[], Sequence[x509.Certificate]]


AMAZON: Final = Service(
    name="Amazon SNS",
    company="Amazon",
    right=(
        "List the ARN of each SNS topic that SES publishes to, like arn:aws:sns:us-east-1:123456789012:ses-events "
        "(console: Amazon SNS, Topics)"
    ),
    topic_of=sns.topic_of,
    roots=public_roots,
)


class TopicSettings(SourceSettings):
    """The topics are the proof of the sender; everything else has a default."""

    topics: Texts = Field([], description="ARNs of the SNS topics to accept; messages of all others are refused")
    confirm: bool = Field(default=True, description="confirm subscriptions of the listed topics automatically")
    certificates: Texts = Field(
        [],
        repr=False,  # the text of a trial's PEM file may hold its private key too
        description="for trying: accept what these certificates (PEM file or text) signed, instead of SNS's",
    )


def topic_problems(arns: Sequence[str], key: str, service: Service = AMAZON) -> list[Problem]:
    """A problem for each text that is not the ARN of a topic."""
    return [
        Problem(f"{key}.topics", f"{arn[:300]!r} is not the ARN of an SNS topic", service.right)
        for arn in arns
        if service.topic_of(arn) is None
    ]


def proof_problems(settings: TopicSettings, key: str, service: Service = AMAZON) -> list[Problem]:
    """No topic, an ill-formed one, a certificate that cannot be used."""
    found = topic_problems(settings.topics, key, service)
    if not settings.topics:
        found.append(Problem(f"{key}.topics", "is missing, so nothing would prove the sender", service.right))
    for one in settings.certificates:
        try:
            _pinned_key(one)
        except (OSError, ValueError) as error:
            found.append(Problem(f"{key}.certificates", str(error), _RIGHT_CERTIFICATE))
    return found


def proof_warnings(settings: TopicSettings, service: Service = AMAZON) -> list[str]:
    """What is allowed but must be said loudly."""
    return [_PINNED.format(service.name, service.company)] if settings.certificates else []


def pinned_keys(settings: TopicSettings) -> list[RSAPublicKey]:
    """The keys of the pinned certificates. Raises ConfigError."""
    try:
        return [_pinned_key(one) for one in settings.certificates]
    except (OSError, ValueError) as error:
        raise ConfigError([Problem("certificates", str(error), _RIGHT_CERTIFICATE)]) from error


def _pinned_key(one: str) -> RSAPublicKey:
    """The key of a pinned certificate, from PEM text or a file. Raises OSError, ValueError."""
    found = load_certificates(one.encode() if "-----BEGIN" in one else Path(one).read_bytes())
    key = found[0].public_key() if found else None
    if not isinstance(key, RSAPublicKey):
        where = "the text" if "-----BEGIN" in one else one[:300]
        raise ValueError(f"{where} holds no RSA certificate")  # noqa: TRY004 - a wrong value, not a wrong call
    return key


class Topics:
    """The topics that a source lists. `pinned`: keys to take instead of SNS's certificates, for trying."""

    def __init__(
        self,
        arns: Sequence[str],
        world: World,
        *,
        confirm: bool,
        pinned: Sequence[RSAPublicKey] = (),
        service: Service = AMAZON,
    ) -> None:
        self._topics = {arn: topic for arn in arns if (topic := service.topic_of(arn))}
        self._world = world
        self._confirm = confirm
        self._pinned = pinned
        self._service = service
        self._certificates = Certificates(world.fetch, world.now, service.roots)

    async def authenticate(self, delivery: Delivery, tolerance: float | None) -> Authentic:
        """The envelope as payload, or the answer to a handshake. `tolerance`: seconds its time may be old."""
        envelope = sns.envelope_of(delivery.body)
        signed = await self.prove(envelope)
        if tolerance is not None:
            _check_age(envelope["Timestamp"], self._world, tolerance, signed)
        if envelope["Type"] == sns.NOTIFICATION:
            return Authentic(payload=envelope, proof=signed)
        return Authentic(answer=await self.handshake(envelope))

    def listed(self, arn: str) -> sns.Topic:
        """The topic of an ARN. Raises Refused where the source does not list it."""
        topic = self._topics.get(arn)
        if topic is None:
            named = f"the topic {arn}" if self._service.topic_of(arn) else "a topic whose ARN is not well-formed"
            raise Refused(Reason.UNKNOWN_TOPIC, f"{named} is not in this source's `topics`", again=True)
        return topic

    async def prove(self, envelope: Mapping[str, str]) -> bytes:
        """The signed text of an SNS message, once it is proven. Raises Refused, Unavailable."""
        topic = self.listed(envelope["TopicArn"])
        proof = sns.proof_of(envelope)
        sns.check(proof, await self._keys(envelope, topic))
        return proof.signed

    async def _keys(self, envelope: Mapping[str, str], topic: sns.Topic) -> Sequence[RSAPublicKey]:
        if self._pinned:
            return self._pinned
        url = sns.certificate_url(envelope, topic)
        return (await self._certificates.key(url, topic.certificate_names),)

    async def handshake(self, envelope: Mapping[str, str]) -> Answer:
        """The answer to a proven message about a subscription, which is confirmed on the way. Raises Unavailable."""
        topic = self.listed(envelope["TopicArn"])
        if envelope["Type"] == sns.UNSUBSCRIPTION:
            return _answer(f"noted: the subscription to {topic.arn} has ended")
        url = sns.confirmation_url(envelope, topic)
        if self._pinned:
            return _answer("not confirmed: this source has pinned certificates and calls nobody")
        if not self._confirm:
            return _answer("not confirmed: `confirm` is off for this source")
        await self._world.fetch(url)
        return _answer(f"confirmed the subscription to {topic.arn}")


def _check_age(stamp: str, world: World, tolerance: float, signed: bytes) -> None:
    moment = iso_time(stamp)
    if moment is None:
        raise Refused(Reason.MISSING_FIELD, "the field Timestamp is not a time")
    check_time(moment.timestamp(), world.now(), past=tolerance, proof=signed)


def _answer(said: str) -> Answer:
    return Answer(status=200, body=said.encode())


# "SetSubscriptionAttributes delivery policy JSON format" and "Configuring an Amazon SNS dead-letter queue",
# docs.aws.amazon.com/sns/latest/dg, seen 2026-11: all retries together take an hour at most.
PATIENCE: Final = """\
SNS gives up after a minute by default. Give the subscription more time, and a queue for what could not be delivered
   (its policy must let sns.amazonaws.com send). With the ARN of the subscription, and that of the queue:
     aws sns set-subscription-attributes --subscription-arn ARN --attribute-name DeliveryPolicy --attribute-value \\
       '{"healthyRetryPolicy":{"minDelayTarget":10,"maxDelayTarget":300,"numRetries":12,"backoffFunction":"exponential"}}'
     aws sns set-subscription-attributes --subscription-arn ARN --attribute-name RedrivePolicy --attribute-value \\
       '{"deadLetterTargetArn":"QUEUE"}'"""
