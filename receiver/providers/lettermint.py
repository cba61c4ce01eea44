"""Lettermint: webhooks of a route.

Rests on (all seen 2026-11)
- "Events" and "Introduction", https://docs.lettermint.co/platform/webhooks/events: envelope, payloads, test ping
- "Signed webhooks", same place, and the verifiers of Lettermint's own clients, https://github.com/lettermint
  (lettermint-python 3.2, lettermint-laravel: the fields of each event, the bot's verdict)

What the signature covers: HMAC-SHA256 over `t.body`, so every byte, keyed with the secret as it is shown, `whsec_` and
all. While a secret is replaced there are several `v1`. The header `X-Lettermint-Delivery` repeats `t` and must be equal
to it. Lettermint's clients allow five minutes; whether each attempt is signed anew is not said: 25 hours.

Status codes: 2xx is kept; anything else is repeated with growing pauses, for how long is not documented.

Identity: the envelope's `id`, "useful for idempotency", with event, message, recipient, time, link and user agent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from pydantic import Field

from receiver.contract import (
    Authentic,
    Delivery,
    Item,
    Occurrence,
    Post,
    Provider,
    Reply,
    Secrets,
    Simulation,
    SourceSettings,
    UnreadableItem,
)
from receiver.credentials import BySecret
from receiver.errors import Reason, Refused
from receiver.event import Actor, BounceCategory, EventType, Reading, RejectReason
from receiver.payload import (
    bare_id,
    boolean,
    event_object,
    integer,
    iso_time,
    item_of,
    mapping,
    sequence,
    strip,
    text,
    unix_time,
)
from receiver.signatures import check_timed, header
from receiver.signers import hmacs, posts

WINDOW: Final = 25 * 3600.0
TEST: Final = "webhook.test"
_SIGNATURE: Final = "x-lettermint-signature"
_DELIVERY: Final = "x-lettermint-delivery"
_RIGHT: Final = (
    "It is the whole text that starts with whsec_: Lettermint, your project, Routes, the route, Webhooks, Secret"
)


class LettermintSettings(SourceSettings):
    """`signing_secret`: the webhook's secret, or several."""

    signing_secret: Secrets = Field(default=[], description="`whsec_...`, from the webhook's page")


_WORDS: Final[Mapping[str, EventType]] = {
    "message.created": EventType.QUEUED,
    "message.scheduled": EventType.QUEUED,
    "message.rescheduled": EventType.QUEUED,
    "message.released": EventType.QUEUED,
    "message.canceled": EventType.UNKNOWN,
    "message.sent": EventType.SENT,
    "message.delivered": EventType.DELIVERED,
    "message.auto_replied": EventType.AUTORESPONDED,
    "message.hard_bounced": EventType.BOUNCED,
    "message.soft_bounced": EventType.BOUNCED,
    "message.spam_complaint": EventType.COMPLAINED,
    "message.failed": EventType.FAILED,
    "message.suppressed": EventType.REJECTED,
    "message.policy_rejected": EventType.REJECTED,
    "message.unsubscribed": EventType.UNSUBSCRIBED,
    "message.opened": EventType.OPENED,
    "message.clicked": EventType.CLICKED,
    "message.inbound": EventType.INBOUND,
    "suppression.added": EventType.UNKNOWN,
    "suppression.removed": EventType.UNKNOWN,
    TEST: EventType.UNKNOWN,
}
_VERDICTS: Final = {"message.hard_bounced": BounceCategory.HARD, "message.soft_bounced": BounceCategory.SOFT}
# `reason` of a suppressed message, in the words of the suppression list.
_SUPPRESSED: Final = {
    "hard_bounce": RejectReason.BOUNCED,
    "spam_complaint": RejectReason.COMPLAINED,
    "unsubscribe": RejectReason.UNSUBSCRIBED,
}


class Lettermint(BySecret, Provider):
    """Lettermint's webhooks: one event for each request."""

    name = "lettermint"
    title = "Lettermint"
    basis = "verified"
    covers = "body"
    words = _WORDS
    reply = Reply(
        retries="Anything but 2xx is repeated with growing pauses; for how long is not documented.",
        max_body=4 << 20,
    )
    Settings = LettermintSettings
    right = _RIGHT
    window = WINDOW

    async def authenticate(self, delivery: Delivery) -> Authentic:
        headers, body = delivery.headers, delivery.body
        sent_at = header(headers, _DELIVERY).strip()
        if f"t={sent_at}" not in header(headers, _SIGNATURE).replace(" ", "").split(","):
            raise Refused(Reason.MALFORMED_HEADER, f"the header {_DELIVERY} is not the time `t` of {_SIGNATURE}")
        check_timed(headers, _SIGNATURE, self._keys, body, now=self._now(), past=self._tolerance)
        return Authentic(payload=body)

    def parse(self, payload: bytes) -> Iterable[Item | UnreadableItem]:
        return [item_of(strip(payload))]

    def read(self, item: Item) -> Sequence[Reading]:
        value = event_object(item, "a Lettermint event")
        return [_reading(value, recipient) for recipient in _recipients(mapping(value.get("data")))]


def _recipients(data: Mapping[str, Any]) -> Sequence[str | None]:
    """`recipient`; else all that `message.created` names, or who answered automatically, or what is suppressed."""
    if found := text(data.get("recipient")):
        return [found]
    named = [_address(member) for name in ("to", "cc", "bcc") for member in sequence(data.get(name))]
    everybody = [address for address in dict.fromkeys(named) if address]
    listed = data.get("value") if data.get("type") == "email" else None
    return everybody or [text(mapping(data.get("auto_reply")).get("sender")) or text(listed)]


def _address(value: object) -> str | None:
    return text(value) or text(mapping(value).get("email"))


def _reading(value: Mapping[str, Any], recipient: str | None) -> Reading:
    word = text(value.get("event")) or ""
    data = mapping(value.get("data"))
    response = mapping(data.get("response"))
    time = value.get("timestamp") or value.get("created_at")  # the older name
    number, message_id = text(value.get("id")), text(data.get("message_id"))
    link, agent = text(data.get("destination_url")), text(data.get("user_agent"))
    type_ = _WORDS.get(word, EventType.UNKNOWN)
    reason = text(data.get("reason"))
    return Reading(
        type=type_,
        word=word,
        identity=(number, word, message_id, recipient, text(time), link, agent) if number else None,
        occurred_at=iso_time(time) or unix_time(time),
        provider_event_id=number,
        recipient=recipient,
        message_id=bare_id(message_id),
        sender=_address(data.get("from")),
        verdict=_VERDICTS.get(word),
        smtp_code=integer(response.get("status_code"), low=200, high=599),
        enhanced_code=text(response.get("enhanced_status_code")),
        diagnostic=text(response.get("content")) or reason,
        reject_reason=_reject_reason(word, reason),
        actor=_actor(mapping(data.get("bot"))),
        stream=text(data.get("route")),
        tags=[tag] if (tag := text(data.get("tag"))) else [],
        metadata=mapping(data.get("metadata")) or None,
        subject=text(data.get("subject")),
        url=link,
        user_agent=agent,
        is_test=word == TEST,
    )


def _reject_reason(word: str, reason: str | None) -> RejectReason | None:
    if word == "message.suppressed":
        return _SUPPRESSED.get(reason or "", RejectReason.OTHER)
    return RejectReason.CONTENT if word == "message.policy_rejected" else None


def _actor(bot: Mapping[str, Any]) -> Actor | None:
    if boolean(bot.get("machine")):
        return Actor.MACHINE
    return Actor.PROXY if text(bot.get("proxy_type")) else None


# The simulator's side.

_PERSON: Final = {
    "device_type": "desktop",
    "client_type": "browser",
    "client_name": "Firefox",
    "user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0",
    "bot": {
        "detected": False,
        "probability": 0.02,
        "classification": "human",
        "proxy_type": None,
        "reason_codes": [],
        "machine": False,
        "counts_for_metrics": True,
    },
}
_UNKNOWN_USER: Final = {"status_code": 550, "enhanced_status_code": "5.1.1", "content": "5.1.1 User unknown"}
_OF_TYPE: Final[Mapping[EventType, tuple[str, Mapping[str, Any]]]] = {
    EventType.QUEUED: ("scheduled", {"scheduled_at": "2026-12-01T09:00:00Z"}),
    EventType.SENT: ("sent", {}),
    EventType.DELIVERED: (
        "delivered",
        {"response": {"status_code": 250, "enhanced_status_code": "2.0.0", "content": "OK"}},
    ),
    EventType.AUTORESPONDED: ("auto_replied", {}),
    EventType.BOUNCED: ("hard_bounced", {"response": _UNKNOWN_USER}),
    EventType.COMPLAINED: ("spam_complaint", {}),
    EventType.FAILED: ("failed", {"reason": "The message could not be processed", "response": {}}),
    EventType.REJECTED: ("suppressed", {"reason": "hard_bounce"}),
    EventType.UNSUBSCRIBED: ("unsubscribed", {}),
    EventType.OPENED: ("opened", {"first_open": True, **_PERSON}),
    EventType.CLICKED: (
        "clicked",
        {"destination_url": "https://example.com/autumn", "link_index": 0, "first_click": True, **_PERSON},
    ),
    EventType.INBOUND: ("inbound", {"route": "incoming", "from": {"email": "grace@customer.example", "name": "Grace"}}),
}


def _sample(what: Occurrence) -> dict[str, Any]:
    word, details = _OF_TYPE[what.type]
    number, message = (str(uuid5(NAMESPACE_URL, f"{what.run}/{what.number}/{part}")) for part in (word, "mail"))
    return {
        "id": number,
        "event": f"message.{word}",
        "timestamp": what.at.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
        "data": {
            "message_id": message,
            "subject": "Autumn news",
            "recipient": what.recipient,
            **details,
            "metadata": {"customer": "4711"},
            "tag": "newsletter",
        },
    }


def _post(items: Sequence[Any], keys: Mapping[str, str], now: datetime) -> Sequence[Post]:
    at = int(now.timestamp())
    secret = keys["signing_secret"]
    return posts.one_by_one(items, lambda body: {_SIGNATURE: hmacs.timed(secret, at, body), _DELIVERY: str(at)})


Lettermint.simulation = Simulation(
    types=tuple(_OF_TYPE),
    demo=hmacs.demo(prefix="whsec_"),
    keys=hmacs.keys(),
    sample=_sample,
    post=_post,
    setup=(
        "1. Lettermint dashboard: your project, Routes, the route, Webhooks, Create webhook. URL: {url}. Choose\n"
        "   all events, those of machines too if you want to see them.\n"
        "2. Save, copy the secret into `signing_secret`, restart the receiver, and press Test Webhook."
    ),
)

PROVIDER: Final[type[Provider]] = Lettermint
