"""Sweego: email webhooks.

Rests on (all seen 2026-11)
- "Webhook signature" and "Webhooks", https://learn.sweego.io/docs/webhooks/webhook_signature
- the fields that Symfony's mailer reads of them, https://github.com/symfony/symfony, Mailer/Bridge/Sweego

What the signature covers: HMAC-SHA256 over id, timestamp and raw body, as in Standard Webhooks, so every byte; but the
header is the base64 alone, without `v1,`, and the secret is base64 without `whsec_`. Whether each attempt is signed
anew is not said: 25 hours. A replay within them is stored once.

Status codes: 2xx is kept. What happens after any other code is not documented; senders of this kind try again.

The fields of `email_inbound` were not found: only those that all events share are read of it. What concerns SMS is
kept as unknown.

Identity: `event_id` (the header `webhook-id` repeats it), with the word, `swg_uid`, recipient, time, link, address and
user agent as sent. Without an id and a time: the whole item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from pydantic import Field

from receiver.contract import Item, Occurrence, Provider, Reply, Secrets, Simulation, SourceSettings, World
from receiver.errors import Problem
from receiver.event import Actor, BounceCategory, EventType, Reading
from receiver.payload import boolean, event_object, integer, iso_time, mapping, text, texts
from receiver.signers import hmacs
from receiver.signers import standard_webhooks as signer
from receiver.standard_webhooks import ByStandardWebhooks, Proof, hmac_keys, whsec_problems

WINDOW: Final = 25 * 3600.0
_RIGHT: Final = "It is the base64 text that Sweego shows for the webhook: console, Webhooks, your webhook, Secret"


class SweegoSettings(SourceSettings):
    """`signing_secret`: the webhook's secret, or several."""

    signing_secret: Secrets = Field(default=[], description="the webhook's secret, base64")


_WORDS: Final[Mapping[str, EventType]] = {
    "email_sent": EventType.SENT,
    "delivered": EventType.DELIVERED,
    "soft-bounce": EventType.BOUNCED,  # with a hyphen, unlike the others
    "hard_bounce": EventType.BOUNCED,
    "list_unsub": EventType.UNSUBSCRIBED,
    "complaint": EventType.COMPLAINED,
    "email_opened": EventType.OPENED,
    "email_clicked": EventType.CLICKED,
    "email_inbound": EventType.INBOUND,
}
_VERDICTS: Final = {"soft-bounce": BounceCategory.SOFT, "hard_bounce": BounceCategory.HARD}
# What Sweego writes into `headers` itself; the rest is the sender's own.
_OWN: Final = ("x-swg-", "x-client-", "x-campaign-", "x-mailer", "x-originating-ip", "x-transaction-id")


class Sweego(ByStandardWebhooks, Provider):
    """Sweego's webhooks: one event for each request."""

    name = "sweego"
    title = "Sweego"
    basis = "documents"
    covers = "body"
    words = _WORDS
    reply = Reply(retries="Not documented; senders of its kind repeat until they get 2xx.")
    Settings = SweegoSettings

    def __init__(self, settings: SweegoSettings, world: World) -> None:
        self._proof = Proof(hmac_keys(settings.signing_secret), settings, world, window=WINDOW, bare=True)

    @staticmethod
    def problems(settings: SweegoSettings, key: str) -> Sequence[Problem]:
        return whsec_problems(settings.signing_secret, f"{key}.signing_secret", _RIGHT)

    def read(self, item: Item) -> Sequence[Reading]:
        value = event_object(item, "a Sweego event")
        return [_reading(value)]


def _reading(value: Mapping[str, Any]) -> Reading:
    word = text(value.get("event_type")) or ""
    action = mapping(value.get("click")) or mapping(value.get("open"))
    link, address, agent = (text(action.get(name)) for name in ("url", "ip_address", "user_agent"))
    names = ("event_id", "event_type", "swg_uid", "recipient", "timestamp")
    identity = (*(text(value.get(name)) for name in names), link, address, agent)
    return Reading(
        type=_WORDS.get(word, EventType.UNKNOWN),
        word=word,
        identity=identity if value.get("event_id") or value.get("timestamp") else None,
        occurred_at=iso_time(value.get("timestamp")),
        provider_event_id=text(value.get("event_id")),
        recipient=text(value.get("recipient")),
        message_id=text(value.get("swg_uid")),
        verdict=_VERDICTS.get(word),
        smtp_code=integer(value.get("response_code"), low=200, high=599),
        actor=Actor.PROXY if boolean(action.get("proxy")) else None,
        stream=text(value.get("campaign_type")),
        campaign=text(value.get("campaign_id")),
        tags=texts(value.get("campaign_tags")),
        metadata=_metadata(mapping(value.get("headers"))) or None,
        subject=text(value.get("subject")),
        url=link,
        user_agent=agent,
        client_ip=address,
    )


def _metadata(headers: Mapping[str, Any]) -> dict[str, Any]:
    return {name: member for name, member in headers.items() if not name.lower().startswith(_OWN)}


# The simulator's side.

_PERSON: Final = {
    "ip_address": "203.0.113.42",
    "user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0",
    "proxy": False,
}
_OF_TYPE: Final[Mapping[EventType, tuple[str, Mapping[str, Any]]]] = {
    EventType.SENT: ("email_sent", {}),
    EventType.DELIVERED: ("delivered", {}),
    EventType.BOUNCED: ("hard_bounce", {"response_code": 550, "status": None}),
    EventType.OPENED: ("email_opened", {"subject": "Autumn news", "open": _PERSON}),
    EventType.CLICKED: (
        "email_clicked",
        {"subject": "Autumn news", "click": {**_PERSON, "url": "https://example.com/autumn"}},
    ),
    EventType.COMPLAINED: ("complaint", {}),
    EventType.UNSUBSCRIBED: ("list_unsub", {"one_click": True}),
    EventType.INBOUND: ("email_inbound", {}),
}


def _sample(what: Occurrence) -> dict[str, Any]:
    word, details = _OF_TYPE[what.type]
    number, transaction = (str(uuid5(NAMESPACE_URL, f"{what.run}/{what.number}/{part}")) for part in ("mail", "call"))
    return {
        "event_type": word,
        "timestamp": what.at.isoformat(timespec="seconds"),
        "swg_uid": f"02-{number}",
        "event_id": str(uuid5(NAMESPACE_URL, f"{what.run}/{what.number}/{word}")),
        "channel": "email",
        "transaction_id": transaction,
        "headers": {
            "x-mailer": "Sweego",
            "x-swg-uid": f"02-{number}",
            "x-transaction-id": transaction,
            "x-ref-1": "42",
        },
        "campaign_tags": ["autumn"],
        "campaign_type": "newsletter",
        "campaign_id": "autumn-1",
        "recipient": what.recipient,
        "domain_from": what.sender.partition("@")[2],
        **details,
    }


Sweego.simulation = Simulation(
    types=tuple(_OF_TYPE),
    demo=signer.demo(),
    keys=hmacs.keys(),
    sample=_sample,
    post=signer.post(bare=True),
    setup=(
        "1. Sweego console: Webhooks, Create a webhook. URL: {url}. Choose the channel email and all its events.\n"
        "2. Save, and copy the secret into `signing_secret`."
    ),
)

PROVIDER: Final[type[Provider]] = Sweego
