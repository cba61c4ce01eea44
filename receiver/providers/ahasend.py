"""AhaSend: webhooks about messages, suppressions and domains, and inbound routes.

Rests on (all seen 2026-11)
- "AhaSend Webhooks" (OpenAPI 2.0.0), behind https://ahasend.com/docs/integrations/webhooks: events, fields, headers,
  retries, and the secret's own rule

What the signature covers: Standard Webhooks', HMAC-SHA256 over id, timestamp and raw body, so every byte. The one
difference: the key is the secret's text as it stands, prefix and all, not base64 of one. Whether each attempt is
signed anew is not said, so an hour is allowed, which holds all of them. A replay within it is stored once.

Status codes: 2xx is kept; any other answer is repeated six times over some 16 minutes, and a hundred failures in a row
disable the webhook. A wrong secret is answered 401, as it is mostly our own mistake.

`message.failed` means that the attempts ran out, and so is a (soft) bounce. A body may have 4 MB; a route that brings
attachments may want a larger `max_body`.

Identity: `webhook-id`, documented as the key to tell repetitions by, with the type, both message ids, the recipient,
the time, link, address and user agent as sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from pydantic import Field

from receiver.contract import (
    Item,
    Occurrence,
    Provider,
    Reply,
    Secrets,
    Simulation,
    SourceSettings,
    World,
    secret_bytes,
    secret_problems,
)
from receiver.errors import Problem
from receiver.event import Actor, BounceCategory, EventType, Reading, RejectReason
from receiver.payload import bare_id, boolean, event_object, first_text, integer, iso_time, mapping, text
from receiver.signers import hmacs
from receiver.signers import standard_webhooks as signer
from receiver.standard_webhooks import ByStandardWebhooks, Proof

WINDOW: Final = 3600.0
_RIGHT: Final = (
    "AhaSend shows it when the webhook or the route is made: Dashboard, Webhooks. Copy it whole, prefix and all"
)


class AhaSendSettings(SourceSettings):
    """`signing_secret`: the webhook's secret, and those of inbound routes that post here."""

    signing_secret: Secrets = Field(default=[], description="the secret(s) of webhooks and routes, as shown")


_WORDS: Final[Mapping[str, EventType]] = {
    "message.reception": EventType.QUEUED,
    "message.delivered": EventType.DELIVERED,
    "message.transient_error": EventType.DEFERRED,
    "message.bounced": EventType.BOUNCED,
    "message.failed": EventType.BOUNCED,
    "message.suppressed": EventType.REJECTED,
    "message.opened": EventType.OPENED,
    "message.clicked": EventType.CLICKED,
    "message.routing": EventType.INBOUND,
    "route.message": EventType.INBOUND,  # the former name of `message.routing`
    "suppression.created": EventType.UNKNOWN,
    "domain.dns_error": EventType.UNKNOWN,
}
# AhaSend's own view of a failed attempt; new ones may come.
_VERDICTS: Final[Mapping[str, BounceCategory]] = {
    "InvalidRecipient": BounceCategory.HARD,
    "BadDomain": BounceCategory.HARD,
    "InactiveMailbox": BounceCategory.HARD,
    "InvalidSender": BounceCategory.ADMIN,
    "QuotaIssues": BounceCategory.SOFT,
    "NoAnswerFromHost": BounceCategory.SOFT,
    "BadConnection": BounceCategory.SOFT,
    "DNSFailure": BounceCategory.SOFT,
    "RoutingErrors": BounceCategory.SOFT,
    "TransientFailure": BounceCategory.SOFT,
    "MessageExpired": BounceCategory.SOFT,
    "ProtocolErrors": BounceCategory.UNDETERMINED,
    "AuthenticationFailed": BounceCategory.BLOCK,
    "PolicyRelated": BounceCategory.BLOCK,
    "Uncategorized": BounceCategory.UNDETERMINED,
}
# Where no attempt is told of: the attempts ran out; a bounce came back later.
_WITHOUT_ATTEMPT: Final = {"message.failed": BounceCategory.SOFT, "message.bounced": BounceCategory.HARD}


class AhaSend(ByStandardWebhooks, Provider):
    """AhaSend's webhooks: one event for each request."""

    name = "ahasend"
    title = "AhaSend"
    basis = "documents"
    covers = "body"
    words = _WORDS
    reply = Reply(
        retries="Anything but 2xx is repeated 6 times over 16 minutes; 100 failures in a row disable the webhook.",
        max_body=4 << 20,
    )
    Settings = AhaSendSettings

    def __init__(self, settings: AhaSendSettings, world: World) -> None:
        keys = secret_bytes(settings.signing_secret)
        self._proof = Proof(keys, settings, world, window=WINDOW)

    @staticmethod
    def problems(settings: AhaSendSettings, key: str) -> Sequence[Problem]:
        return secret_problems(settings.signing_secret, f"{key}.signing_secret", _RIGHT)

    def read(self, item: Item) -> Sequence[Reading]:
        value = event_object(item, "an AhaSend event")
        return [_reading(value, item.event_id)]


def _reading(value: Mapping[str, Any], webhook_id: str | None) -> Reading:
    word = text(value.get("type")) or ""
    data = mapping(value.get("data"))
    attempt = mapping(data.get("delivery_attempt"))
    type_ = _WORDS.get(word, EventType.UNKNOWN)
    inbound = type_ is EventType.INBOUND
    header_id = bare_id(data.get("message_id" if inbound else "message_id_header"))
    recipient = first_text(data, "recipient", "to")
    time = text(value.get("timestamp"))
    about = (text(data.get(name)) for name in ("id", "message_id_header", "url", "ip", "user_agent"))
    return Reading(
        type=type_,
        word=word,
        identity=(webhook_id, word, recipient, time, *about),
        occurred_at=iso_time(time),
        provider_event_id=webhook_id,
        recipient=recipient,
        message_id=text(data.get("id")) if inbound else header_id,  # what the send call returns is the header
        internet_message_id=header_id,
        sender=text(data.get("from")),
        verdict=_verdict(word, attempt) if type_ is EventType.BOUNCED else None,
        smtp_code=integer(attempt.get("smtp_code"), low=200, high=599),  # 0: an error of their own
        enhanced_code=text(attempt.get("enhanced_status_code")),
        diagnostic=first_text(attempt, "response", "description") or text(data.get("reason")),
        reject_reason=RejectReason.OTHER if type_ is EventType.REJECTED else None,  # why it is listed is not told
        actor=Actor.MACHINE if boolean(data.get("is_bot")) else None,
        subject=text(data.get("subject")),
        url=text(data.get("url")),
        user_agent=text(data.get("user_agent")),
        client_ip=text(data.get("ip")),
    )


def _verdict(word: str, attempt: Mapping[str, Any]) -> BounceCategory | None:
    classification = text(attempt.get("classification"))
    if classification is None:
        return _WITHOUT_ATTEMPT.get(word)
    return _VERDICTS.get(classification, BounceCategory.UNDETERMINED)


# The simulator's side.

_PERSON: Final = {
    "user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0",
    "is_bot": False,
}
_OF_TYPE: Final[Mapping[EventType, tuple[str, Mapping[str, Any]]]] = {
    EventType.QUEUED: ("reception", {}),
    EventType.DELIVERED: (
        "delivered",
        {"delivery_attempt": {"smtp_code": 250, "enhanced_status_code": "2.0.0", "response": "OK", "command": "DATA"}},
    ),
    EventType.DEFERRED: (
        "transient_error",
        {
            "delivery_attempt": {
                "classification": "QuotaIssues",
                "smtp_code": 452,
                "enhanced_status_code": "4.2.2",
                "response": "The recipient's inbox is out of storage space",
                "command": "RCPT TO",
            }
        },
    ),
    EventType.BOUNCED: (
        "bounced",
        {
            "delivery_attempt": {
                "classification": "InvalidRecipient",
                "smtp_code": 550,
                "enhanced_status_code": "5.1.1",
                "response": "The email account that you tried to reach does not exist",
                "command": "RCPT TO",
            }
        },
    ),
    EventType.REJECTED: ("suppressed", {}),
    EventType.OPENED: ("opened", {"ip": "203.0.113.42", **_PERSON}),
    EventType.CLICKED: ("clicked", {"ip": "203.0.113.42", "url": "https://example.com/landing-page", **_PERSON}),
    EventType.INBOUND: ("routing", {}),
}


def _sample(what: Occurrence) -> dict[str, Any]:
    word, details = _OF_TYPE[what.type]
    number = uuid5(NAMESPACE_URL, f"{what.run}/{what.number}")
    data = {"id": number.hex, "from": what.sender, "subject": "Autumn news", **details}
    if what.type is EventType.INBOUND:
        data |= {
            "to": what.recipient,
            "message_id": f"<{number}@example.net>",
            "plain_body": "Hello",
            "attachments": [],
        }
    else:
        data |= {"event": f"on_{word}", "recipient": what.recipient, "message_id_header": f"<{number}@example.net>"}
    return {
        "type": f"message.{word}",
        "route_id" if what.type is EventType.INBOUND else "webhook_id": "abe11757-2886-4b55-96f1-0e0afc95795a",
        "timestamp": what.at.strftime("%Y-%m-%dT%H:%M:%S.%f000Z"),
        "data": {"account_id": "4cdd7bdd-294e-4762-892f-83d40abf5a87", **data},
    }


AhaSend.simulation = Simulation(
    types=tuple(_OF_TYPE),
    demo=hmacs.demo(prefix="aha-whsec-"),
    keys=hmacs.keys(),
    sample=_sample,
    post=signer.post(raw=True),
    setup=(
        "1. AhaSend dashboard: Webhooks, Add webhook. URL: {url}. Choose all message events, and suppression and\n"
        "   domain events.\n"
        "2. Save, and copy the secret into `signing_secret`. An inbound route to the same URL has a secret of its\n"
        "   own: add it to the list."
    ),
)

PROVIDER: Final[type[Provider]] = AhaSend
