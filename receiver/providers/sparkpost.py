"""SparkPost (Bird): event webhooks, and messages from relay webhooks.

Rests on (all seen 2026-11)
- "Webhooks", https://developers.sparkpost.com/api/webhooks/: batches, time-out, retries, and a sample of each event
- "Bounce classification codes", https://support.sparkpost.com/docs/deliverability/bounce-classification-codes
- "Webhook authentication and security" and "Best practices for managing webhook data streams", SparkPost's support
  center: the ways to authenticate, the ping `[{"msys":{}}]`
- "Relay webhooks", https://developers.sparkpost.com/api/relay-webhooks/

What the proof covers: nothing of the body. SparkPost signs nothing; whoever knows the credentials can say anything.

Status codes: only 200 is success; every other code is tried again for 8 hours. To a 401 (or 400) SparkPost gets
another OAuth token and comes again. The ping, sent when a webhook is made or
its URL changes, must be answered 200, or the webhook is not made.

Identity: `event_id`, which SparkPost recommends for finding duplicates and keeps in a batch that it repeats, with
class, word, message id, recipient, time and link. `sms_status` has no `event_id`, relay messages have neither id nor
time: the whole event. Not hashed: `X-MessageSystems-Batch-ID`, which is about the request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, ClassVar, Final
from uuid import NAMESPACE_URL, uuid5

from receiver.contract import (
    Answer,
    Authentic,
    Delivery,
    Item,
    Occurrence,
    Post,
    Provider,
    Reply,
    Simulation,
    UnreadableItem,
)
from receiver.credentials import ByCredentials, OAuthSettings
from receiver.errors import Unreadable
from receiver.event import Actor, BounceCategory, EventType, Reading, RejectReason
from receiver.payload import (
    bare_id,
    boolean,
    first_text,
    integer,
    items_of,
    mapping,
    sequence,
    stable_text,
    text,
    texts,
    unix_time,
)
from receiver.signers import credentials as signer
from receiver.signers import posts

PING: Final = b'[{"msys":{}}]'
SINK: Final = ".sink.sparkpostmail.com"  # SparkPost's own test recipients

_RIGHT: Final = (
    "SparkPost: Configuration, Webhooks, your webhook, Authentication (Basic or OAuth 2.0) or custom headers; set the "
    "same here, at least 16 random characters"
)


# `type`; a relay message has none and is known by its class. `relay_...` is how a received message fared on its way to
# a relay webhook, and `ab_test_...`, `success` and `error` (of an ingest) concern no message.
WORDS: Final[Mapping[str, EventType]] = {
    "injection": EventType.QUEUED,
    "delivery": EventType.DELIVERED,
    "delay": EventType.DEFERRED,
    "bounce": EventType.BOUNCED,
    "out_of_band": EventType.BOUNCED,
    "policy_rejection": EventType.REJECTED,
    "spam_complaint": EventType.COMPLAINED,
    "generation_failure": EventType.FAILED,
    "generation_rejection": EventType.REJECTED,
    "initial_open": EventType.OPENED,
    "open": EventType.OPENED,
    "click": EventType.CLICKED,
    "amp_initial_open": EventType.OPENED,
    "amp_open": EventType.OPENED,
    "amp_click": EventType.CLICKED,
    "list_unsubscribe": EventType.UNSUBSCRIBED,
    "link_unsubscribe": EventType.UNSUBSCRIBED,
    "relay_message": EventType.INBOUND,
    "sms_status": EventType.UNKNOWN,
    "relay_injection": EventType.UNKNOWN,
    "relay_rejection": EventType.UNKNOWN,
    "relay_delivery": EventType.UNKNOWN,
    "relay_tempfail": EventType.UNKNOWN,
    "relay_permfail": EventType.UNKNOWN,
    "ab_test_completed": EventType.UNKNOWN,
    "ab_test_cancelled": EventType.UNKNOWN,
    "success": EventType.UNKNOWN,
    "error": EventType.UNKNOWN,
}
_VERDICTS: Final[Mapping[int, BounceCategory]] = {
    1: BounceCategory.UNDETERMINED,
    10: BounceCategory.HARD,
    30: BounceCategory.HARD,
    **dict.fromkeys((20, 21, 22, 23, 24, 40, 70), BounceCategory.SOFT),
    25: BounceCategory.ADMIN,
    **dict.fromkeys((50, 51, 52, 53, 54), BounceCategory.BLOCK),
}
# Classes of "bounces" that are answers to a message that arrived.
_ANSWERS: Final[Mapping[int, EventType]] = {
    60: EventType.AUTORESPONDED,
    80: EventType.SUBSCRIBED,
    90: EventType.UNSUBSCRIBED,
    100: EventType.AUTORESPONDED,
}
_ADMIN: Final = 25
_SUPPRESSED: Final = "suppressed"  # "recipient address suppressed due to customer policy"
_NO_COMPLAINTS: Final = frozenset({"not-spam", "auth-failure", "virus"})  # RFC 5965's feedback types
# Which pixel: AMP's are the same two. Mail programs that cut a long message never load the one at the bottom.
_PIXELS: Final[Mapping[str, str]] = {
    "initial_open": "top",
    "amp_initial_open": "top",
    "open": "bottom",
    "amp_open": "bottom",
}
_BY_PEOPLE: Final = frozenset({"track_event", "unsubscribe_event"})


class SparkPost(ByCredentials, Provider):
    """One source of SparkPost."""

    name = "sparkpost"
    title = "SparkPost"
    basis = "verified"
    covers = "nothing"
    words = WORDS
    right: ClassVar[str] = _RIGHT
    reply = Reply(
        repeated=lambda code: code != 200,
        retries="Anything but 200 is repeated at growing intervals, 12 times within 8 hours.",
        timeout=10.0,
        max_body=8 << 20,
    )
    Settings = OAuthSettings

    async def authenticate(self, delivery: Delivery) -> Authentic:
        self._credentials.require(delivery)
        if len(delivery.body) < 100 and b"".join(delivery.body.split()) == PING:
            return Authentic(payload=b"[]", answer=Answer(status=200))
        return Authentic(payload=delivery.body)

    def parse(self, payload: bytes) -> Iterable[Item | UnreadableItem]:
        return items_of(payload)

    def read(self, item: Item) -> Sequence[Reading]:
        msys = mapping(item.value).get("msys")
        if msys == {}:  # a ping
            return ()
        for kind, event in mapping(msys).items():
            if isinstance(event, dict):
                return [_event(kind, event)]
        raise Unreadable("the item has no event under `msys`")


def _event(kind: str, event: Mapping[str, Any]) -> Reading:
    get = event.get
    word = text(get("type")) or kind
    type_, verdict, reject_reason = _meaning(word, event)
    recipient = first_text(event, "raw_rcpt_to", "rcpt_to")  # the second is in lower case
    by_person = kind in _BY_PEOPLE
    retries = integer(get("num_retries"), low=0, high=1000)
    return Reading(
        type=type_,
        word=word,
        identity=_identity(kind, word, event),
        occurred_at=unix_time(get("timestamp")),
        provider_event_id=text(get("event_id")),
        recipient=recipient,
        message_id=first_text(event, "transmission_id", "message_id"),  # the first is what the send call returned
        internet_message_id=_message_id_header(mapping(get("content")).get("headers")),
        sender=first_text(event, "friendly_from", "msg_from"),
        verdict=verdict,
        smtp_code=integer(get("error_code"), low=200, high=599),
        diagnostic=first_text(event, "raw_reason", "reason"),
        reject_reason=reject_reason,
        actor=_actor(mapping(get("user_agent_parsed"))),
        sending_ip=text(get("sending_ip")),
        ip_pool=text(get("ip_pool")),
        remote_mta=None if by_person else text(get("ip_address")),
        campaign=text(get("campaign_id")),
        template_id=text(get("template_id")),
        attempt=None if retries is None else retries + 1,
        tags=texts(get("rcpt_tags")),
        metadata=_metadata(word, get("rcpt_meta")),
        subject=text(get("subject")) or text(mapping(get("content")).get("subject")),
        url=text(get("target_link_url")),
        user_agent=text(get("user_agent")),
        client_ip=text(get("ip_address")) if by_person else None,
        country=text(mapping(get("geo_ip")).get("country")),
        is_test=(recipient or "").lower().endswith(SINK),
    )


def _meaning(word: str, event: Mapping[str, Any]) -> tuple[EventType, BounceCategory | None, RejectReason | None]:
    type_ = WORDS.get(word, EventType.UNKNOWN)
    held_back = _SUPPRESSED in (text(event.get("reason")) or "").lower()
    if type_ is EventType.BOUNCED:
        number = integer(event.get("bounce_class")) or 0
        if number == _ADMIN and held_back:
            return EventType.REJECTED, None, RejectReason.OTHER
        answer = _ANSWERS.get(number)
        return (answer, None, None) if answer else (type_, _VERDICTS.get(number), None)
    if type_ is EventType.REJECTED:  # whose suppression list it is, and why, is not said
        return type_, None, RejectReason.OTHER if held_back else RejectReason.POLICY
    if type_ is EventType.COMPLAINED and text(event.get("fbtype")) in _NO_COMPLAINTS:
        return EventType.UNKNOWN, None, None
    return type_, None, None


def _identity(kind: str, word: str, event: Mapping[str, Any]) -> Sequence[str | None]:
    event_id = text(event.get("event_id"))
    if event_id is None:
        return "raw", kind, stable_text(event)
    fields = ("message_id", "rcpt_to", "raw_rcpt_to", "timestamp", "target_link_url")
    return kind, word, event_id, *(text(event.get(name)) for name in fields)


def _actor(agent: Mapping[str, Any]) -> Actor | None:
    if boolean(agent.get("is_prefetched")):
        return Actor.MACHINE
    return Actor.PROXY if boolean(agent.get("is_proxy")) else None


def _metadata(word: str, given: object) -> Mapping[str, Any] | None:
    """The sender's own, which is an empty list where there is none, and which pixel an open is of."""
    pixel = {"pixel": _PIXELS[word]} if word in _PIXELS else {}
    return {**pixel, **mapping(given)} or None


def _message_id_header(headers: object) -> str | None:
    """Of a relayed message, whose headers are a list of objects with one member each."""
    for member in sequence(headers):
        for name, value in mapping(member).items():
            if name.lower() == "message-id":
                return bare_id(value)
    return None


# Simulation

_CLASSES: Final[Mapping[EventType, tuple[str, str]]] = {
    EventType.QUEUED: ("message_event", "injection"),
    EventType.DELIVERED: ("message_event", "delivery"),
    EventType.DEFERRED: ("message_event", "delay"),
    EventType.BOUNCED: ("message_event", "bounce"),
    EventType.AUTORESPONDED: ("message_event", "out_of_band"),
    EventType.REJECTED: ("message_event", "policy_rejection"),
    EventType.COMPLAINED: ("message_event", "spam_complaint"),
    EventType.FAILED: ("gen_event", "generation_failure"),
    EventType.OPENED: ("track_event", "initial_open"),
    EventType.CLICKED: ("track_event", "click"),
    EventType.UNSUBSCRIBED: ("unsubscribe_event", "list_unsubscribe"),
}
_AGENT: Final = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:144.0) Gecko/20100101 Firefox/144.0"
_SEEN: Final[Mapping[str, Any]] = {
    "user_agent": _AGENT,
    "user_agent_parsed": {"agent_family": "Firefox", "is_mobile": False, "is_prefetched": False, "is_proxy": False},
    "ip_address": "203.0.113.7",
    "geo_ip": {"country": "DE", "region": "BE", "city": "Berlin", "latitude": 52.52, "longitude": 13.4, "zip": 10115},
}
_DETAILS: Final[Mapping[EventType, Mapping[str, Any]]] = {
    EventType.DELIVERED: {"num_retries": "0", "queue_time": "12", "ip_address": "198.51.100.25"},
    EventType.DEFERRED: {
        "num_retries": "1",
        "error_code": "451",
        "bounce_class": "70",
        "reason": "451 4.7.1 Try again",
    },
    EventType.BOUNCED: {"error_code": "550", "bounce_class": "10", "raw_reason": "550 5.1.1 No such user"},
    EventType.AUTORESPONDED: {"bounce_class": "60", "reason": "I am away until Monday"},
    EventType.REJECTED: {"error_code": "554", "reason": "554 5.7.1 [internal] recipient address suppressed"},
    EventType.COMPLAINED: {"fbtype": "abuse", "report_by": "fbl.example.org", "report_to": "abuse.example.net"},
    EventType.FAILED: {"error_code": "554", "reason": "554 5.3.0 [internal] the template has no such field"},
    EventType.OPENED: _SEEN,
    EventType.CLICKED: {**_SEEN, "target_link_url": "https://shop.example.com/autumn", "target_link_name": "Autumn"},
    EventType.UNSUBSCRIBED: {"mailfrom": "bounces@example.net"},
}


def _sample(what: Occurrence) -> dict[str, Any]:
    kind, word = _CLASSES[what.type]
    event = {
        "type": word,
        "event_id": str(uuid5(NAMESPACE_URL, f"{what.run} {what.number} {what.type}")),
        "timestamp": str(int(what.at.timestamp())),
        "message_id": sha256(f"{what.run} {what.number}".encode()).hexdigest()[:20],
        "transmission_id": "65832150921904138",
        "rcpt_to": what.recipient.lower(),
        "raw_rcpt_to": what.recipient,
        "friendly_from": what.sender,
        "subject": "Autumn news",
        "campaign_id": f"letter-{what.run}",
        "template_id": "weekly-letter",
        "rcpt_meta": {"run": what.run},
        "rcpt_tags": ["letter"],
        "sending_ip": "192.0.2.10",
        "ip_pool": "letters",
    }
    return {"msys": {kind: {**event, **_DETAILS.get(what.type, {})}}}


def _post(items: Sequence[Any], keys: Mapping[str, str], now: datetime) -> Sequence[Post]:
    def headers(body: bytes) -> dict[str, str]:
        batch = str(uuid5(NAMESPACE_URL, f"{now} {sha256(body).hexdigest()}"))
        return {"x-messagesystems-batch-id": batch, **signer.headers(keys)}

    return posts.in_batches(items, 350, headers, query=signer.query(keys))


SparkPost.simulation = Simulation(
    types=tuple(_CLASSES),
    demo=signer.demo("password"),
    keys=signer.keys,
    sample=_sample,
    post=_post,
    setup=(
        "1. Make a password with `openssl rand -hex 24`, and put it with a user into `username` and `password`;\n"
        "   for OAuth 2.0 into `client_id` and `client_secret` instead. Start the receiver: SparkPost tests the\n"
        "   URL when you save.\n"
        "2. SparkPost: Configuration, Webhooks, Create Webhook. Target: {url}. Choose all message, engagement,\n"
        "   generation and unsubscribe events.\n"
        "3. Authentication: Basic Auth, with that user and password; or OAuth 2.0, with that client, and as token\n"
        "   URL /oauth/token on the same host."
    ),
)

PROVIDER: Final[type[Provider]] = SparkPost
