"""Amazon SES over Amazon SNS with raw message delivery. What its events say is read in `receiver/ses_events.py`.

Take the provider `ses` where you can: there SNS signs each message, and no secret has to be kept. This one is for
subscriptions that must stay raw, because somebody else reads them too.

Rests on (all seen 2026-11)
- "Amazon SNS raw message delivery", https://docs.aws.amazon.com/sns/latest/dg/sns-large-payload-raw-message-delivery.html:
  the body is what was published and nothing else; the header `x-amz-sns-rawdelivery: true` tells so
- "HTTP/HTTPS headers" (http-header.html in the same guide): `x-amz-sns-message-id` stays the same when SNS tries again
- "Fanout to HTTP/S endpoints", "Step 1": user and password in the endpoint's URL (RFC 2617), for which the endpoint
  must be able to answer 401; "Amazon SNS message delivery retries"
- the documents of `receiver/providers/ses.py` and `receiver/sns.py`.

What the proof covers: nothing of the body. A raw message has no signature. Whoever knows the secret in the URL or the
Basic credentials can say anything, and a body that was changed on the way is accepted: TLS is all that protects it.
A URL is written to more logs than a header is: keep its query and path out of a proxy's. The topic in the header
`x-amz-sns-topic-arn` is compared with `topics` where some are listed; that notices mistakes and proves nothing.
Messages about the subscription itself are signed even so, and a subscription is confirmed only if they prove to come
from a listed topic.

Status codes: SNS takes 200 to 4xx as final and tries again after 5xx and time-outs only. So all that may pass is 503,
wrong credentials too. The one exception is a request without the Basic credentials that are set: 401 with
`WWW-Authenticate`, upon which SNS sends them. If the subscription's URL has none, SNS takes that 401 as final.

Identity: as with signed delivery (`ses`): SNS's `MessageId`, here from the header, is only hashed for words that we do
not know and where the time is missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final

from pydantic import Field

from receiver import sns
from receiver.contract import Authentic, Delivery, Item, Post, Provider, Reply, Simulation, UnreadableItem, World
from receiver.credentials import Credentials, CredentialSettings, credential_problems
from receiver.errors import Problem, Reason, Refused
from receiver.event import Reading
from receiver.ses_events import WORDS, items_of_message, readings
from receiver.signatures import header
from receiver.signers import credentials as signer
from receiver.signers import ses as samples
from receiver.signers import sns as sns_signer
from receiver.sns_topics import PATIENCE, Texts, Topics, topic_problems

_RIGHT: Final = (
    "Subscribe the topic to a URL that ends with a secret (?token=...) and set it here as `url_secret`: at least 16 "
    "random characters, `openssl rand -hex 24` makes some"
)


class SesRawSettings(CredentialSettings):
    """A secret in the subscription's URL, or Basic credentials there; SNS can send nothing else."""

    topics: Texts = Field(
        [],
        description="ARNs of the SNS topics to accept and confirm; without any, all are accepted and none is confirmed",
        examples=[["arn:aws:sns:us-east-1:123456789012:ses-events"]],
    )
    confirm: bool = Field(default=True, description="confirm subscriptions of the listed topics automatically")


class SesRaw(Provider):
    """One source of Amazon SES whose events come over SNS as they are."""

    name = "ses_raw"
    title = "Amazon SES (over SNS, raw message delivery)"
    basis = "documents"
    covers = "nothing"
    words = WORDS
    waits: ClassVar[bool] = True  # for the signing certificate of a message about the subscription
    reply = Reply(
        repeated=lambda code: code >= 500,
        retries="5xx and silence are repeated three times, 20 s apart, or as the subscription says; a 4xx is final.",
        refused=503,
        again=503,
        slow=503,
        too_large=503,
        bad_encoding=503,
        timeout=15.0,
    )
    Settings = SesRawSettings

    def __init__(self, settings: SesRawSettings, world: World) -> None:
        self._credentials = Credentials(settings, ask=True)
        self._any_topic = not settings.topics
        self._topics = Topics(settings.topics, world, confirm=settings.confirm)

    @staticmethod
    def problems(settings: SesRawSettings, key: str) -> Sequence[Problem]:
        """No credentials, short ones, what SNS cannot send, an ill-formed topic."""
        found = credential_problems(settings, key, _RIGHT) + topic_problems(settings.topics, key)
        if settings.bearer_token or settings.header_value:
            wrong = "asks for a header that SNS cannot send, so every request would be refused"
            found.append(Problem(f"{key}.{'bearer_token' if settings.bearer_token else 'header_value'}", wrong, _RIGHT))
        return found

    async def authenticate(self, delivery: Delivery) -> Authentic:
        """The message and its id as payload, or the answer to SNS's handshake."""
        self._credentials.require(delivery)
        kind = delivery.headers.get("x-amz-sns-message-type")
        if kind in {sns.SUBSCRIPTION, sns.UNSUBSCRIPTION}:
            return await self._handshake(delivery.body, kind)
        if not sns.is_raw(delivery.headers):
            detail = "raw message delivery is off for this subscription: turn it on, or use the provider ses"
            raise Refused(Reason.MISSING_HEADER, detail, again=True)
        if not self._any_topic:
            self._topics.listed(header(delivery.headers, "x-amz-sns-topic-arn", again=True))
        return Authentic(payload=(delivery.body, delivery.headers.get("x-amz-sns-message-id")))

    async def _handshake(self, body: bytes, kind: str) -> Authentic:
        envelope = sns.envelope_of(body)
        if envelope["Type"] != kind:
            raise Refused(Reason.MISSING_FIELD, "the field Type is not what the header x-amz-sns-message-type says")
        await self._topics.prove(envelope)
        return Authentic(answer=await self._topics.handshake(envelope))

    def parse(self, payload: tuple[bytes, str | None]) -> Iterable[Item | UnreadableItem]:
        """The one item of a message; none for the notices that SES sends when it is set up."""
        return items_of_message(*payload)

    def read(self, item: Item) -> Sequence[Reading]:
        """The events of one SES object, one for each recipient it concerns."""
        return readings(item, self.words)


# The simulator's side.


def _post(items: Sequence[Any], keys: Mapping[str, str], now: datetime) -> Sequence[Post]:
    texts = [json.dumps(item, separators=(",", ":")) for item in items]
    heads = [sns_signer.headers_of(sns_signer.notification(text, now)) for text in texts]
    proof = {"x-amz-sns-rawdelivery": "true", **signer.headers(keys)}
    query = signer.query(keys)
    return [
        Post(headers=head | proof, body=text.encode(), query=query) for head, text in zip(heads, texts, strict=True)
    ]


SesRaw.simulation = Simulation(
    types=samples.TYPES,
    demo=signer.demo(),
    keys=signer.keys,
    sample=samples.sample,
    post=_post,
    setup=(
        "1. Amazon SNS, Topics: create a standard topic and put its ARN into `topics`.\n"
        "2. Amazon SES, Configuration sets, your set, Event destinations: add the topic for all event types (or,\n"
        "   not both, Identities, your domain, Notifications).\n"
        "3. Make a secret with `openssl rand -hex 24` and put it into `url_secret`.\n"
        "4. Amazon SNS, the topic, Create subscription: protocol HTTPS, raw message delivery on, and the endpoint\n"
        "   {url}?token=<url_secret>\n"
        "   The subscription is confirmed automatically, within seconds. (Basic credentials instead: write\n"
        "   https://user:password@... as the endpoint, and set `username` and `password`.)\n"
        f"5. {PATIENCE}"
    ),
)

PROVIDER: Final[type[Provider]] = SesRaw
