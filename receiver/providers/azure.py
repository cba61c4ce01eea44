"""Azure Communication Services Email, through Azure Event Grid: its own event schema and CloudEvents 1.0.

Rests on (all seen 2026-11)
- "Azure Communication Services - Email events",
  https://learn.microsoft.com/azure/event-grid/communication-services-email-events: the samples that the fixtures repeat
- the known values of `AcsEmailDeliveryReportStatus` and the properties of both events' data in the Azure SDK,
  https://learn.microsoft.com/javascript/api/@azure/eventgrid/acsemaildeliveryreportstatus
- "Webhook event delivery", https://learn.microsoft.com/azure/event-grid/webhook-event-delivery: the handshake, the
  secret in the URL's query
- "Event Grid message delivery and retry", https://learn.microsoft.com/azure/event-grid/delivery-and-retry
- "CloudEvents schema", https://learn.microsoft.com/azure/event-grid/cloud-event-schema

What the proof covers: nothing of the body. Event Grid signs nothing. A secret in the URL's query (`?token=`) or in a
custom delivery header shows who sends; whoever knows it can say anything. The bearer token of Microsoft Entra ID, which
Event Grid can send instead, is not verified here.

Status codes: 200 to 204 are kept. 400, 401, 403 and 413 are never repeated: the event is dead-lettered, or dropped
where no dead-lettering is set up. So wrong credentials, a body over our limit and an encoding that a proxy gave it are
answered 503.

Handshake: the only event of a request, of the type Microsoft.EventGrid.SubscriptionValidationEvent, is answered with
its code, after the proof. For CloudEvents the handshake is an OPTIONS request, which the service answers.

Identity: `id`, which Event Grid keeps when it sends again, with the type, status or engagement, message, recipient,
both times, link and user agent as sent: the same in both schemas. Without an id: the whole item.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, ClassVar, Final
from uuid import UUID

import msgspec

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
from receiver.credentials import ByCredentials, CredentialSettings
from receiver.errors import Unreadable
from receiver.event import BounceCategory, EventType, Reading, RejectReason
from receiver.payload import bare_id, event_object, first_text, iso_time, items_of, mapping, text
from receiver.signers import credentials as signer
from receiver.signers import posts

DELIVERY: Final = "Microsoft.Communication.EmailDeliveryReportReceived"
ENGAGEMENT: Final = "Microsoft.Communication.EmailEngagementTrackingReportReceived"
VALIDATION: Final = "Microsoft.EventGrid.SubscriptionValidationEvent"
_FINAL: Final = frozenset({400, 401, 403, 413})
_RIGHT: Final = (
    "Azure: the Event Grid subscription's endpoint URL with `?token=` and at least 16 random characters behind it "
    "(`url_secret`), or a secret static header under Delivery Properties (`header_name`, `header_value`)"
)

# The status of a delivery report; the engagement of the other event, in lower case; else the type of the event.
_WORDS: Final[Mapping[str, EventType]] = {
    "Delivered": EventType.DELIVERED,
    "Expanded": EventType.SENT,  # to the members of a distribution list; what became of them is not told
    "Bounced": EventType.BOUNCED,
    "Suppressed": EventType.REJECTED,
    "Quarantined": EventType.BOUNCED,
    "FilteredSpam": EventType.BOUNCED,
    "Failed": EventType.BOUNCED,
    "view": EventType.OPENED,
    "click": EventType.CLICKED,
}
_VERDICTS: Final[Mapping[str, BounceCategory]] = {
    "Bounced": BounceCategory.HARD,
    "Quarantined": BounceCategory.BLOCK,
    "FilteredSpam": BounceCategory.BLOCK,
    "Failed": BounceCategory.UNDETERMINED,
}
# Both spellings occur in Microsoft's own documents.
_TIMES: Final = (
    "deliveryAttemptTimestamp",
    "deliveryAttemptTimeStamp",
    "userActionTimestamp",
    "userActionTimeStamp",
)


class Azure(ByCredentials, Provider):
    """One source of Azure Communication Services Email."""

    name = "azure"
    title = "Azure Communication Services Email"
    basis = "verified"
    covers = "nothing"
    words = _WORDS
    right: ClassVar[str] = _RIGHT
    reply = Reply(
        repeated=lambda code: not 200 <= code <= 204 and code not in _FINAL,
        retries=(
            "Anything but 200 to 204 within 30 s is repeated for 24 hours, 30 times at most; 400, 401, 403 and 413 "
            "dead-letter or drop the event at once."
        ),
        refused=503,
        too_large=503,
        bad_encoding=503,
        timeout=30.0,
        max_body=4 << 20,
    )
    Settings = CredentialSettings

    async def authenticate(self, delivery: Delivery) -> Authentic:
        self._credentials.require(delivery)
        code = _validation_code(delivery.body) if VALIDATION.encode() in delivery.body else None
        if code is None:
            return Authentic(payload=delivery.body)
        body = msgspec.json.encode({"validationResponse": code})
        return Authentic(payload=b"[]", answer=Answer(status=200, body=body, content_type="application/json"))

    def parse(self, payload: bytes) -> Iterable[Item | UnreadableItem]:
        return items_of(payload)

    def read(self, item: Item) -> Sequence[Reading]:
        return [_event(event_object(item, "an Azure event"))]


def _validation_code(body: bytes) -> str | None:
    """The code of a handshake; None for anything else, such as an event whose data contains the handshake's name."""
    try:
        items = list(items_of(body))
    except Unreadable:
        return None
    if len(items) != 1 or isinstance(items[0], UnreadableItem):
        return None
    value = mapping(items[0].value)
    return text(mapping(value.get("data")).get("validationCode")) if value.get("eventType") == VALIDATION else None


def _event(value: Mapping[str, Any]) -> Reading:
    data = mapping(value.get("data"))
    kind = first_text(value, "eventType", "type")
    word = _word(kind, data)
    type_ = _WORDS.get(word, EventType.UNKNOWN)
    details = mapping(data.get("deliveryStatusDetails"))
    url = text(data.get("engagementContext")) if word == "click" else None
    time, published = first_text(data, *_TIMES), first_text(value, "eventTime", "time")
    identity = (
        text(value.get("id")),
        kind,
        word,
        text(data.get("messageId")),
        text(data.get("recipient")),
        time,
        published,
        url,
        text(data.get("userAgent")),
    )
    return Reading(
        type=type_,
        word=word,
        identity=identity if value.get("id") else None,
        occurred_at=iso_time(time) or iso_time(published),
        provider_event_id=text(value.get("id")),
        recipient=text(data.get("recipient")),
        message_id=text(data.get("messageId")),
        internet_message_id=bare_id(data.get("internetMessageId")),
        sender=text(data.get("sender")),
        verdict=_VERDICTS.get(word),
        diagnostic=text(details.get("statusMessage")),
        reject_reason=RejectReason.OTHER if type_ is EventType.REJECTED else None,
        remote_mta=text(details.get("recipientMailServerHostName")),
        url=url,
        user_agent=text(data.get("userAgent")),
    )


def _word(kind: str | None, data: Mapping[str, Any]) -> str:
    if kind == DELIVERY:
        return first_text(data, "status", "deliveryStatus") or "(none)"
    if kind == ENGAGEMENT:
        return (first_text(data, "engagementType", "engagement") or "(none)").lower()
    return kind or "(none)"


# Simulation

_STATUSES: Final[Mapping[EventType, tuple[str, str]]] = {
    EventType.DELIVERED: ("Delivered", "250 2.6.0 Queued mail for delivery"),
    EventType.BOUNCED: ("Bounced", "550 5.1.1 The email account does not exist"),
    EventType.REJECTED: ("Suppressed", "The address is on the suppression list"),
    EventType.SENT: ("Expanded", ""),
}
_ENGAGEMENTS: Final[Mapping[EventType, tuple[str, str]]] = {
    EventType.OPENED: ("view", ""),
    EventType.CLICKED: ("click", "https://www.example.net/letter"),
}


def _sample(occurrence: Occurrence) -> dict[str, Any]:
    digest = sha256(f"{occurrence.run}/{occurrence.number}".encode()).digest()
    message_id, at = str(UUID(bytes=digest[:16], version=4)), _stamp(occurrence.at)
    data: dict[str, Any] = {"sender": occurrence.sender, "recipient": occurrence.recipient, "messageId": message_id}
    if occurrence.type in _STATUSES:
        status, said = _STATUSES[occurrence.type]
        kind = DELIVERY
        data |= {"status": status, "deliveryAttemptTimeStamp": at, "deliveryStatusDetails": {"statusMessage": said}}
    else:
        engagement, context = _ENGAGEMENTS[occurrence.type]
        kind = ENGAGEMENT
        data |= {"engagementType": engagement, "engagementContext": context, "userActionTimeStamp": at, "userAgent": ""}
    return {
        "id": str(UUID(bytes=digest[16:], version=4)),
        "topic": "/subscriptions/0/resourceGroups/mail/providers/microsoft.communication/communicationservices/mailer",
        "subject": f"sender/{occurrence.sender}/message/{message_id}",
        "data": data,
        "eventType": kind,
        "dataVersion": "1.0",
        "metadataVersion": "1",
        "eventTime": at,
    }


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f0Z")


def _post(items: Sequence[Any], keys: Mapping[str, str], _: datetime) -> Sequence[Post]:
    """An array of one event each, as Event Grid does where no batches are asked for."""
    headers = {"aeg-event-type": "Notification", "aeg-subscription-name": "MAIL", **signer.headers(keys)}
    return posts.in_batches(items, 1, lambda _: headers, query=signer.query(keys))


Azure.simulation = Simulation(
    types=(*_STATUSES, *_ENGAGEMENTS),
    demo=signer.demo("url_secret"),
    keys=signer.keys,
    sample=_sample,
    post=_post,
    setup=(
        "1. Make a secret of letters and digits with `openssl rand -hex 24`, and put it into `url_secret`. Start\n"
        "   the receiver: Azure tests the URL when the subscription is made.\n"
        "2. Azure portal: your Communication Services resource, Events, Event Subscription. Event Schema: Event\n"
        "   Grid or CloudEvents. Filter to Event Types: Email Delivery Report Received and Email Engagement\n"
        "   Tracking Report Received.\n"
        "3. Endpoint type: Web Hook, with the endpoint {url}?token=<url_secret>\n"
        "4. Under Additional Features enable dead-lettering.\n"
        "5. For opens and clicks switch on user interaction tracking, on the email domain's page."
    ),
)

PROVIDER: Final[type[Provider]] = Azure
