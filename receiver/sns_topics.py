"""The SNS topics of one source: what they sign is proven, and their subscriptions are confirmed.

The rules of the proof and the calls stand in `receiver/sns.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from pydantic import BeforeValidator

from receiver import sns
from receiver.contract import Answer, World
from receiver.errors import Problem, Reason, Refused
from receiver.sns_certificates import Certificates

RIGHT_TOPIC: Final = (
    "List the ARN of each SNS topic that SES publishes to, like arn:aws:sns:us-east-1:123456789012:ses-events "
    "(console: Amazon SNS, Topics)"
)

Texts = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


def topic_problems(arns: Sequence[str], key: str) -> list[Problem]:
    """A problem for each text that is not the ARN of a topic."""
    return [
        Problem(f"{key}.topics", f"{arn[:300]!r} is not the ARN of an SNS topic", RIGHT_TOPIC)
        for arn in arns
        if sns.topic_of(arn) is None
    ]


class Topics:
    """The topics that a source lists. `pinned`: keys to take instead of SNS's certificates, for trying."""

    def __init__(
        self, arns: Sequence[str], world: World, *, confirm: bool, pinned: Sequence[RSAPublicKey] = ()
    ) -> None:
        self._topics = {arn: topic for arn in arns if (topic := sns.topic_of(arn))}
        self._world = world
        self._confirm = confirm
        self._pinned = pinned
        self._certificates = Certificates(world.fetch, world.now)

    def listed(self, arn: str) -> sns.Topic:
        """The topic of an ARN. Raises Refused where the source does not list it."""
        topic = self._topics.get(arn)
        if topic is None:
            named = f"the topic {arn}" if sns.topic_of(arn) else "a topic whose ARN is not well-formed"
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


def _answer(said: str) -> Answer:
    return Answer(status=200, body=said.encode())
