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

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Final

from receiver import sns
from receiver.contract import Authentic, Delivery, Item, Provider, Reply, Simulation, UnreadableItem, World
from receiver.errors import Problem
from receiver.event import Reading
from receiver.ses_events import WORDS, items_of_message, readings
from receiver.signers import ses as samples
from receiver.signers import sns as signer
from receiver.sns_topics import PATIENCE, Topics, TopicSettings, pinned_keys, proof_problems, proof_warnings


class SesSettings(TopicSettings):
    """The topics are the proof of the sender; everything else has a default."""


class Ses(Provider):
    """One source of Amazon SES."""

    name = "ses"
    title = "Amazon SES (over SNS)"
    basis = "verified"
    covers = "fields"
    words = WORDS
    waits: ClassVar[bool] = True  # for the signing certificate, the first time
    reply = Reply(
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
    Settings = SesSettings

    def __init__(self, settings: SesSettings, world: World) -> None:
        self._tolerance = settings.tolerance
        self._topics = Topics(settings.topics, world, confirm=settings.confirm, pinned=pinned_keys(settings))

    @staticmethod
    def problems(settings: SesSettings, key: str) -> Sequence[Problem]:
        return proof_problems(settings, key)

    @staticmethod
    def warnings(settings: SesSettings) -> list[str]:
        return proof_warnings(settings)

    async def authenticate(self, delivery: Delivery) -> Authentic:
        """The envelope as payload, or the answer to SNS's handshake."""
        if sns.is_raw(delivery.headers):
            raise sns.raw_delivery()
        return await self._topics.authenticate(delivery, self._tolerance)

    def parse(self, payload: Mapping[str, str]) -> Iterable[Item | UnreadableItem]:
        """The one item of a notification; none for the notices that SES sends when it is set up."""
        return items_of_message(payload["Message"].encode(errors="replace"), payload["MessageId"])

    def read(self, item: Item) -> Sequence[Reading]:
        """The events of one SES object, one for each recipient it concerns."""
        return readings(item, self.words)


# The simulator's side.

Ses.simulation = Simulation(
    types=samples.TYPES,
    demo=signer.demo(signer.SAMPLE_TOPIC),
    keys=signer.keys,
    sample=samples.sample,
    post=signer.post,
    setup=(
        "1. Amazon SNS, Topics: create a standard topic and put its ARN into `topics`.\n"
        "2. Amazon SES, Configuration sets, your set, Event destinations: add the topic for all event types (or,\n"
        "   not both, Identities, your domain, Notifications).\n"
        "3. Amazon SNS, the topic, Create subscription: protocol HTTPS, endpoint {url}, raw message delivery off.\n"
        "   The subscription is confirmed automatically, within seconds; it must be made in the topic's region.\n"
        f"4. {PATIENCE}"
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
