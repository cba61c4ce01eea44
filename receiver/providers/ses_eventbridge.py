"""Amazon SES over Amazon EventBridge and an API destination. What its events say is read in `receiver/ses_events.py`.

Rests on (all seen 2026-11)
- "Monitoring SES events using Amazon EventBridge", https://docs.aws.amazon.com/ses/latest/dg/monitoring-eventbridge.html:
  the `detail` of EventBridge's envelope is the object that SES publishes over SNS too
- "Amazon Simple Email Service events", https://docs.aws.amazon.com/eventbridge/latest/ref/events-ref-ses.html: the
  values of `detail-type`; events come as a best effort, so that one may be missing or come twice
- "API destinations as targets", https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-api-destinations.html:
  headers, five seconds for an answer, error codes, `Retry-After`
- "De-authorizing connections", eb-target-connection-deauthorize.html in the same guide: 401 and 407 disable one
- "How EventBridge retries delivering events", eb-rule-retry-policy.html in the same guide: 24 hours, 185 attempts

What the proof covers: nothing of the body. EventBridge signs nothing; it sends the credentials of its connection.
Whoever knows them can say anything, and a body that was changed on the way is accepted: TLS is all that protects it.

Status codes: 429 and 5xx are repeated, and every other 4xx drops the event at once (newer pages add 401, 407 and 409
to what is repeated). A 401 or 407 has EventBridge get another OAuth token ("Authorization methods for connections",
eb-target-connection-auth.html in the same guide), and is what a token of ours that will not do is answered with. Else
it disables the connection, until somebody enters its credentials anew. So wrong
credentials, which are nearly always our own mistake, are answered with 503, as is everything else that may pass.

Identity: as over SNS (`ses`): word, SES's message id, recipient, the event's own time, `feedbackId`, link, address,
user agent, topic. EventBridge's `id` stays the same when it tries again and becomes `provider_event_id`; it is
hashed, with the whole envelope, only for words that we do not know and where the time is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final
from uuid import NAMESPACE_URL, uuid5

from msgspec.structs import replace

from receiver.contract import Item, Occurrence, Post, Provider, Reply, Simulation, UnreadableItem
from receiver.credentials import ByCredentials, OAuthSettings
from receiver.errors import Unreadable
from receiver.event import EventType, Reading
from receiver.payload import first_text, iso_time, items_of, mapping, text
from receiver.ses_events import WORDS, readings
from receiver.signers import credentials as signer
from receiver.signers import posts
from receiver.signers import ses as samples

_RIGHT: Final = (
    "Give EventBridge's connection Basic credentials or an API key (EventBridge, API destinations, Connections) and "
    "set the same here: at least 16 random characters"
)


class SesEventbridgeSettings(OAuthSettings):
    """What the connection sends: Basic credentials, an API key (a header with a secret value), or OAuth's token."""


class SesEventbridge(ByCredentials, Provider):
    """One source of Amazon SES whose events come over EventBridge."""

    name = "ses_eventbridge"
    title = "Amazon SES (over EventBridge)"
    basis = "documents"
    covers = "nothing"
    words: ClassVar[Mapping[str, EventType]] = {word: type_ for word, type_ in WORDS.items() if word != "Received"}
    right: ClassVar[str] = _RIGHT
    reply = Reply(
        repeated=lambda code: code == 429 or code >= 500,
        retries=(
            "429, 5xx and silence are repeated for 24 hours, up to 185 times, or as the rule's target says; "
            "any other 4xx is final, and 401 disables the connection."
        ),
        refused=503,
        again=503,
        slow=503,
        too_large=503,
        bad_encoding=503,
        timeout=5.0,
    )
    Settings = SesEventbridgeSettings

    def parse(self, payload: bytes) -> Iterable[Item | UnreadableItem]:
        """EventBridge posts one envelope; a pipe may post an array of them."""
        return items_of(payload)

    def read(self, item: Item) -> Sequence[Reading]:
        """The events of one envelope, one for each recipient it concerns."""
        envelope = item.value
        if not isinstance(envelope, dict):
            raise Unreadable("the event is no JSON object")
        inner = replace(item, value=_ses_object(envelope), event_id=text(envelope.get("id")))
        sent_at = iso_time(envelope.get("time"))
        return [
            one if one.occurred_at or one.word in self.words else replace(one, occurred_at=sent_at)
            for one in readings(inner, self.words)
        ]


def _ses_object(envelope: Mapping[str, Any]) -> Mapping[str, Any]:
    """What SES says. For news about the account, which name no `eventType`, the detail-type is the word.

    A rule may be set to hand on the matched part `$.detail` alone, which then is the whole body.
    """
    if "detail" not in envelope and "eventType" in envelope:
        return envelope
    detail = mapping(envelope.get("detail"))
    if "eventType" in detail:
        return detail
    return {**detail, "eventType": first_text(envelope, "detail-type") or "(none)"}


# The simulator's side.

_DETAIL_TYPES: Final = {
    "Send": "Email Sent",
    "Delivery": "Email Delivered",
    "Bounce": "Email Bounced",
    "DeliveryDelay": "Email Delivery Delayed",
    "Complaint": "Email Complaint Received",
    "Reject": "Email Rejected",
    "Rendering Failure": "Email Rendering Failed",
    "Open": "Email Opened",
    "Click": "Email Clicked",
    "Subscription": "Email Subscribed",
}


def _sample(occurrence: Occurrence) -> dict[str, Any]:
    detail = samples.sample(occurrence)
    return {
        "version": "0",
        "id": str(uuid5(NAMESPACE_URL, f"event {occurrence.run} {occurrence.number} {occurrence.type}")),
        "detail-type": _DETAIL_TYPES[detail["eventType"]],
        "source": "aws.ses",
        "account": "123456789012",
        "time": f"{occurrence.at:%Y-%m-%dT%H:%M:%SZ}",
        "region": "us-east-1",
        "resources": ["arn:aws:ses:us-east-1:123456789012:configuration-set/letters"],
        "detail": detail,
    }


def _post(items: Sequence[Any], keys: Mapping[str, str], now: object) -> Sequence[Post]:  # noqa: ARG001 - no clock
    headers = {
        "content-type": "application/json; charset=utf-8",
        "user-agent": "Amazon/EventBridge/ApiDestinations",
        "range": "bytes=0-1048575",
        **signer.headers(keys),
    }
    return posts.one_by_one(items, lambda _: headers, query=signer.query(keys))


SesEventbridge.simulation = Simulation(
    types=[type_ for type_ in samples.TYPES if type_ is not EventType.INBOUND],
    demo=signer.demo(),
    keys=signer.keys,
    sample=_sample,
    post=_post,
    setup=(
        "1. Amazon SES, Configuration sets, your set, Event destinations: add Amazon EventBridge for all event types.\n"
        "2. EventBridge, API destinations, Connections: create one with Basic credentials (`username`, `password`),\n"
        "   an API key (`header_name` and `header_value`), or OAuth client credentials (`client_id`, `client_secret`,\n"
        "   POST to /oauth/token on the same host, with the body field grant_type = client_credentials).\n"
        "3. EventBridge, API destinations: create one with the endpoint {url}, method POST and that connection.\n"
        "4. EventBridge, Rules: on the default event bus, with the API destination as target and the pattern\n"
        '     {"source": ["aws.ses"], "detail-type": [{"prefix": "Email "}]}\n'
        "   Give the target a dead-letter queue for what cannot be delivered within a day."
    ),
)

PROVIDER: Final[type[Provider]] = SesEventbridge
