"""Loops: webhooks about emails and contacts.

Rests on (all seen 2026-11)
- "Webhooks", https://loops.so/docs/webhooks: one endpoint for each account, at most ten events a second
- the webhooks of "Loops OpenAPI Spec", https://app.loops.so/openapi.json (1.21.6): every event and its fields

What the signature covers: Standard Webhooks', HMAC-SHA256 over id, timestamp and raw body, so every byte. The
timestamp is that of the attempt: 300 seconds. A replay within them is stored once.

Status codes: 2xx is kept. What happens after any other code is not documented; senders of this kind try again.

A soft bounce "may still be delivered", as Loops tries again: it is a deferral. A hard bounce is followed by
`contact.unsubscribed`, and so is the deletion of a contact: Loops no longer writes to that address, but it need not
have been the person's wish.

Identity: `webhook-id`, documented for telling repetitions, with the event's name, the contact, the email and the time
as sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from pydantic import Field

from receiver.contract import Item, Occurrence, Provider, Reply, Secrets, Simulation, SourceSettings, World
from receiver.errors import Problem
from receiver.event import BounceCategory, EventType, Reading
from receiver.payload import event_object, first_text, mapping, text, unix_time
from receiver.signers import hmacs
from receiver.signers import standard_webhooks as signer
from receiver.standard_webhooks import ByStandardWebhooks, Proof, hmac_keys, whsec_problems

TEST: Final = "testing.testEvent"
_RIGHT: Final = "It is the text that starts with whsec_: Loops, Settings, Webhooks, Signing secret"


class LoopsSettings(SourceSettings):
    """`signing_secret`: the endpoint's signing secret, or several."""

    signing_secret: Secrets = Field(default=[], description="`whsec_...`, from Settings, Webhooks")


_WORDS: Final[Mapping[str, EventType]] = {
    "campaign.email.sent": EventType.SENT,
    "loop.email.sent": EventType.SENT,
    "transactional.email.sent": EventType.SENT,
    "email.delivered": EventType.DELIVERED,
    "email.softBounced": EventType.DEFERRED,
    "email.hardBounced": EventType.BOUNCED,
    "email.opened": EventType.OPENED,
    "email.clicked": EventType.CLICKED,
    "email.unsubscribed": EventType.UNSUBSCRIBED,
    "email.resubscribed": EventType.SUBSCRIBED,
    "email.spamReported": EventType.COMPLAINED,
    "contact.unsubscribed": EventType.UNSUBSCRIBED,
    "contact.mailingList.subscribed": EventType.SUBSCRIBED,
    "contact.mailingList.unsubscribed": EventType.UNSUBSCRIBED,
    "contact.created": EventType.UNKNOWN,
    "contact.deleted": EventType.UNKNOWN,
    TEST: EventType.UNKNOWN,
}


class Loops(ByStandardWebhooks, Provider):
    """Loops' webhooks: one event for each request."""

    name = "loops"
    title = "Loops"
    basis = "documents"
    covers = "body"
    words = _WORDS
    reply = Reply(retries="Not documented; senders of its kind repeat until they get 2xx.")
    Settings = LoopsSettings

    def __init__(self, settings: LoopsSettings, world: World) -> None:
        self._proof = Proof(hmac_keys(settings.signing_secret), settings, world)

    @staticmethod
    def problems(settings: LoopsSettings, key: str) -> Sequence[Problem]:
        return whsec_problems(settings.signing_secret, f"{key}.signing_secret", _RIGHT)

    def read(self, item: Item) -> Sequence[Reading]:
        value = event_object(item, "a Loops event")
        return [_reading(value, item.event_id)]


def _reading(value: Mapping[str, Any], webhook_id: str | None) -> Reading:
    word = text(value.get("eventName")) or ""
    contact = mapping(value.get("contactIdentity"))
    email = mapping(value.get("email"))
    recipient, user = text(contact.get("email")), text(contact.get("userId"))
    time = value.get("eventTime")
    type_ = _WORDS.get(word, EventType.UNKNOWN)
    return Reading(
        type=type_,
        word=word,
        identity=(webhook_id, word, text(contact.get("id")), recipient, text(email.get("id")), text(time)),
        occurred_at=unix_time(time),
        provider_event_id=webhook_id,
        recipient=recipient,
        message_id=text(email.get("id")),
        verdict=BounceCategory.HARD if type_ is EventType.BOUNCED else None,
        topic=text(mapping(value.get("mailingList")).get("id")),
        campaign=first_text(value, "campaignId", "loopId"),
        template_id=text(value.get("transactionalId")),
        metadata={"userId": user} if user else None,
        subject=text(email.get("subject")),
        is_test=word == TEST,
    )


# The simulator's side.

_OF_TYPE: Final[Mapping[EventType, str]] = {
    EventType.SENT: "campaign.email.sent",
    EventType.DELIVERED: "email.delivered",
    EventType.DEFERRED: "email.softBounced",
    EventType.BOUNCED: "email.hardBounced",
    EventType.OPENED: "email.opened",
    EventType.CLICKED: "email.clicked",
    EventType.COMPLAINED: "email.spamReported",
    EventType.UNSUBSCRIBED: "email.unsubscribed",
    EventType.SUBSCRIBED: "email.resubscribed",
}


def _sample(what: Occurrence) -> dict[str, Any]:
    number = uuid5(NAMESPACE_URL, f"{what.run}/{what.number}").hex
    sent = {"campaignName": "Autumn", "mailingLists": []} if what.type is EventType.SENT else {"sourceType": "campaign"}
    return {
        "eventName": _OF_TYPE[what.type],
        "eventTime": int(what.at.timestamp()),
        "webhookSchemaVersion": "1.0.0",
        "contactIdentity": {"id": f"cont_{number[:24]}", "email": what.recipient, "userId": f"user-{what.number}"},
        "campaignId": "cmfn8hpo03hb10i0gdqdt1zn2",
        **sent,
        "email": {"id": f"em_{number}", "emailMessageId": "cmfn8hpo13hb30i0gz7nq7h5p", "subject": "Autumn news"},
    }


Loops.simulation = Simulation(
    types=tuple(_OF_TYPE),
    demo=signer.demo(),
    keys=hmacs.keys(),
    sample=_sample,
    post=signer.post(),
    setup=(
        "1. Loops: Settings, Webhooks. Endpoint URL: {url}. Switch on every event of the groups Contacts, Emails\n"
        "   and Mailing lists.\n"
        "2. Copy the signing secret into `signing_secret`, restart the receiver, and send a test event."
    ),
)

PROVIDER: Final[type[Provider]] = Loops
