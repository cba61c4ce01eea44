"""Postmark (ActiveCampaign): message events, and inbound messages.

Rests on (all seen 2026-11)
- "Webhooks overview", https://postmarkapp.com/developer/webhooks/webhooks-overview: one JSON object for each
  request, told apart by `RecordType`; only Basic credentials or headers of one's own prove the sender; exactly
  200 is success; after 5xx, 408 and 429 it tries again for about an hour, any other 4xx drops the event at once.
- "Bounce types", https://postmarkapp.com/developer/api/bounce-api#bounce-types
- the pages of the single webhooks (bounce, delivery, open, click, spam complaint, subscription change, inbound)
- "Generate fake bounces", https://postmarkapp.com/developer/user-guide/sandbox-mode/generate-fake-bounces
- "Understanding inbound webhook retries", in Postmark's Support Center: there only 403 stops.

What the proof covers: nothing of the body. Whoever knows the credentials can say anything, and a body that was
changed on the way is accepted: TLS is all that protects it.

Status codes: 200 is kept; 408, 429 and 5xx are tried again; every other 4xx drops the event at once. So it is 503
instead of 401 for wrong credentials, which are nearly always our own mistake, and instead of 413 and 400 for a body
over our limit or in an encoding that a proxy of ours may have given it.

Identity: only bounces and complaints have an `ID`, so what the event says is hashed: record type, bounce type,
`MessageID`, recipient, the time with its seven digits, link, `ID`, address and user agent, and what a
subscription change says. Not hashed: `Inactive`, `CanActivate`, `DumpAvailable` and `Content`, which tell the
state at the time of sending; and not the header `X-PM-Webhook-Trace-Id`. It is stable across retries, but it is
sent only "when available", one event posted to two webhooks has two of them, and what is fetched from
Postmark's API has none. It becomes `provider_event_id` where there is no `ID`. Without a time: the whole item but
for those four.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from secrets import token_urlsafe
from typing import Any, ClassVar, Final
from uuid import UUID

from pydantic import Field

from receiver import payload as read_json
from receiver.contract import Authentic, Delivery, Item, Occurrence, Post, Provider, Reply, Simulation, UnreadableItem
from receiver.credentials import ByCredentials, CredentialSettings
from receiver.event import BounceCategory, EventType, Reading, RejectReason
from receiver.payload import bare_id, boolean, event_object, first_text, mapping, sequence, stable_text, text
from receiver.signers import credentials as signer
from receiver.signers import posts

TEST_RECIPIENT: Final = "john@example.com"  # the console's sample, also sent when a webhook is made or edited
FAKE_BOUNCES: Final = "@bounce-testing.postmarkapp.com"

_RIGHT: Final = (
    "Give the webhook Basic credentials or a header of your own (Postmark: server, message stream, Webhooks, "
    "edit the webhook) and set the same here: at least 16 random characters"
)
_PUBLISHED: Final = ("<password>", "password", "your-secret-password", "YOUR_WEBHOOK_SECRET")


class PostmarkSettings(CredentialSettings):
    """Basic credentials, or a header with a secret value, or both: what is set is required."""

    username: str = Field("postmark", description="user of the Basic credentials")


# `RecordType`, for bounces followed by `Type`, for a suppression by its `SuppressionReason`, for a reactivation
# by its `Origin` (an administrator's reactivation is no consent of the recipient's).
WORDS: Final[Mapping[str, EventType]] = {
    "Delivery": EventType.DELIVERED,
    "Open": EventType.OPENED,
    "Click": EventType.CLICKED,
    "SpamComplaint": EventType.COMPLAINED,
    "Inbound": EventType.INBOUND,
    "Bounce:HardBounce": EventType.BOUNCED,
    "Bounce:SoftBounce": EventType.BOUNCED,
    "Bounce:Unknown": EventType.BOUNCED,
    "Bounce:SpamNotification": EventType.BOUNCED,
    "Bounce:Blocked": EventType.BOUNCED,
    "Bounce:DMARCPolicy": EventType.BOUNCED,
    "Bounce:VirusNotification": EventType.BOUNCED,
    "Bounce:Transient": EventType.DEFERRED,
    "Bounce:DnsError": EventType.DEFERRED,
    "Bounce:AutoResponder": EventType.AUTORESPONDED,
    "Bounce:AddressChange": EventType.AUTORESPONDED,
    "Bounce:ChallengeVerification": EventType.AUTORESPONDED,
    "Bounce:BadEmailAddress": EventType.REJECTED,
    "Bounce:ManuallyDeactivated": EventType.REJECTED,
    "Bounce:Unconfirmed": EventType.REJECTED,
    "Bounce:SMTPApiError": EventType.FAILED,
    "Bounce:TemplateRenderingFailed": EventType.FAILED,
    "Bounce:SpamComplaint": EventType.COMPLAINED,
    "Bounce:Unsubscribe": EventType.UNSUBSCRIBED,
    "Bounce:Subscribe": EventType.SUBSCRIBED,
    "Bounce:OpenRelayTest": EventType.UNKNOWN,
    "Bounce:InboundError": EventType.UNKNOWN,
    "SubscriptionChange:HardBounce": EventType.BOUNCED,
    "SubscriptionChange:SpamComplaint": EventType.COMPLAINED,
    "SubscriptionChange:ManualSuppression": EventType.UNSUBSCRIBED,
    "SubscriptionChange:Recipient": EventType.SUBSCRIBED,
    "SubscriptionChange:Customer": EventType.UNKNOWN,
    "SubscriptionChange:Admin": EventType.UNKNOWN,
}
_ECHOES: Final = frozenset({"SubscriptionChange:HardBounce", "SubscriptionChange:SpamComplaint"})
_VERDICTS: Final[Mapping[str, BounceCategory]] = {
    "Bounce:HardBounce": BounceCategory.HARD,
    "SubscriptionChange:HardBounce": BounceCategory.HARD,
    "Bounce:SoftBounce": BounceCategory.SOFT,
    "Bounce:Unknown": BounceCategory.UNDETERMINED,
    "Bounce:SpamNotification": BounceCategory.BLOCK,
    "Bounce:Blocked": BounceCategory.BLOCK,
    "Bounce:DMARCPolicy": BounceCategory.BLOCK,
    "Bounce:VirusNotification": BounceCategory.BLOCK,
}
# `ManuallyDeactivated` is a decision of the account's owner and `Unconfirmed` one of Postmark's: they say
# nothing about the address that would hold elsewhere.
_REJECTS: Final[Mapping[str, RejectReason]] = {
    "Bounce:BadEmailAddress": RejectReason.INVALID,
    "Bounce:ManuallyDeactivated": RejectReason.OTHER,
    "Bounce:Unconfirmed": RejectReason.OTHER,
}
_VOLATILE: Final = ("Inactive", "CanActivate", "DumpAvailable", "Content")
_TIMES: Final = ("DeliveredAt", "BouncedAt", "ReceivedAt", "ChangedAt")


class Postmark(ByCredentials, Provider):
    """One source of Postmark."""

    name = "postmark"
    title = "Postmark"
    basis = "verified"
    covers = "nothing"
    words = WORDS
    right: ClassVar[str] = _RIGHT
    published: ClassVar[Sequence[str]] = _PUBLISHED
    reply = Reply(
        repeated=lambda code: code in {408, 429} or code >= 500,
        retries="5xx, 408, 429 and silence are repeated for about 70 minutes; every other 4xx drops the event at once.",
        stored=200,
        refused=503,
        again=503,
        slow=408,
        too_large=503,
        bad_encoding=503,
        timeout=10.0,
        max_body=2 << 20,
    )
    Settings = PostmarkSettings

    async def authenticate(self, delivery: Delivery) -> Authentic:
        self._credentials.require(delivery)
        return Authentic(payload=delivery)

    def parse(self, payload: Delivery) -> Iterable[Item | UnreadableItem]:
        body = read_json.strip(payload.body)
        return [read_json.item_of(body, event_id=payload.headers.get("x-pm-webhook-trace-id") or None)]

    def read(self, item: Item) -> Sequence[Reading]:
        value = event_object(item, "a Postmark event")
        if value.get("RecordType") in (None, "Inbound") and ("FromFull" in value or "MailboxHash" in value):
            return [_inbound(value)]
        return [_event(value, item.event_id)]


def _event(value: Mapping[str, Any], trace: str | None) -> Reading:
    word = _word(value)
    kind = WORDS.get(word, EventType.UNKNOWN)
    recipient = first_text(value, "Recipient", "Email")
    time = first_text(value, *_TIMES)
    geo = mapping(value.get("Geo"))
    identity = (
        text(value.get("RecordType")),
        text(value.get("Type")),
        text(value.get("MessageID")),
        recipient,
        time,
        text(value.get("OriginalLink")),
        text(value.get("ID")),
        text(geo.get("IP")),
        text(value.get("UserAgent")),
        text(value.get("Origin")),
        text(value.get("SuppressionReason")),
        str(boolean(value.get("SuppressSending"))),
    )
    return Reading(
        type=kind,
        word=word,
        identity=identity if time else ("raw", stable_text(value, without=_VOLATILE)),
        occurred_at=_time(time),
        provider_event_id=text(value.get("ID")) or trace,
        recipient=recipient,
        message_id=text(value.get("MessageID")),
        sender=text(value.get("From")),
        verdict=_VERDICTS.get(word),
        diagnostic=text(value.get("Details")),
        reject_reason=_REJECTS.get(word),
        stream=text(value.get("MessageStream")),
        tags=read_json.texts(value.get("Tag")),
        metadata=mapping(value.get("Metadata")) or None,
        subject=text(value.get("Subject")),
        url=text(value.get("OriginalLink")),
        user_agent=text(value.get("UserAgent")),
        client_ip=text(geo.get("IP")),
        country=text(geo.get("CountryISOCode")),
        echo=word in _ECHOES,
        is_test=_is_test(recipient),
    )


def _word(value: Mapping[str, Any]) -> str:
    record = text(value.get("RecordType")) or "(none)"
    if record == "Bounce":
        return f"Bounce:{text(value.get('Type'))}"
    if record == "SubscriptionChange":
        suppressed = boolean(value.get("SuppressSending"))
        detail = value.get("SuppressionReason") if suppressed else value.get("Origin") if suppressed is False else None
        return f"SubscriptionChange:{text(detail)}"
    return record


def _time(value: str | None) -> datetime | None:
    return read_json.iso_time(value)


def _is_test(recipient: str | None) -> bool:
    address = (recipient or "").lower()
    return address == TEST_RECIPIENT or address.endswith(FAKE_BOUNCES)


def _inbound(value: Mapping[str, Any]) -> Reading:
    """An inbound message. Its `Date` is the sender's claim, no time of the provider's: there is no time."""
    message_id = text(value.get("MessageID"))
    recipient = text(value.get("OriginalRecipient")) or _first_address(value.get("ToFull"))
    return Reading(
        type=EventType.INBOUND,
        word="Inbound",
        identity=("Inbound", message_id, recipient) if message_id else None,
        recipient=recipient,
        message_id=message_id,
        internet_message_id=_message_id_header(value.get("Headers")),
        sender=text(mapping(value.get("FromFull")).get("Email")) or text(value.get("From")),
        stream=text(value.get("MessageStream")),
        tags=read_json.texts(value.get("Tag")),
        subject=text(value.get("Subject")),
    )


def _first_address(people: object) -> str | None:
    return next((found for person in sequence(people) if (found := text(mapping(person).get("Email")))), None)


def _message_id_header(headers: object) -> str | None:
    for member in sequence(headers):
        pair = mapping(member)
        if (text(pair.get("Name")) or "").lower() == "message-id":
            return bare_id(pair.get("Value"))
    return None


# The simulator's side.

_BROWSER: Final = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"
)
_BOUNCES: Final[Mapping[EventType, tuple[str, int, str, str]]] = {
    EventType.BOUNCED: ("HardBounce", 1, "Hard bounce", "smtp;550 5.1.1 The email account does not exist"),
    EventType.DEFERRED: ("Transient", 2, "Message delayed", "smtp;451 4.7.1 Please try again later"),
    EventType.AUTORESPONDED: ("AutoResponder", 64, "Auto responder", "I am away until Monday"),
    EventType.REJECTED: (
        "BadEmailAddress",
        100000,
        "Invalid email address",
        "The address is not a valid email address",
    ),
    EventType.FAILED: (
        "SMTPApiError",
        100007,
        "SMTP API error",
        "An error occurred while accepting the message",
    ),
    EventType.COMPLAINED: (
        "SpamComplaint",
        100001,
        "Spam complaint",
        "The subscriber marked this message as spam",
    ),
}


def _sample(what: Occurrence) -> dict[str, Any]:
    digest = sha256(f"{what.run}/{what.number}".encode()).digest()
    common = {
        "MessageStream": "outbound",
        "MessageID": str(UUID(bytes=digest[:16], version=4)),
        "Tag": "welcome",
        "Metadata": {"run": what.run, "number": str(what.number)},
    }
    time = what.at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{what.at.microsecond:06d}0Z"
    if what.type is EventType.INBOUND:
        return common | _inbound_sample(what, time)
    if what.type in _BOUNCES:
        return common | _bounce_sample(what, time, int.from_bytes(digest[16:20], "big"))
    if what.type is EventType.DELIVERED:
        details = {"ServerID": 23, "Details": "250 2.0.0 OK", "DeliveredAt": time}
        return common | {"RecordType": "Delivery", "Recipient": what.recipient} | details
    if what.type in {EventType.UNSUBSCRIBED, EventType.SUBSCRIBED}:
        return common | _subscription_sample(what, time)
    return common | _engagement_sample(what, time)


def _bounce_sample(what: Occurrence, time: str, number: int) -> dict[str, Any]:
    word, code, title, details = _BOUNCES[what.type]
    return {
        "RecordType": "SpamComplaint" if what.type is EventType.COMPLAINED else "Bounce",
        "ID": number,
        "Type": word,
        "TypeCode": code,
        "Name": title,
        "ServerID": 23,
        "Description": f"{title}.",
        "Details": details,
        "Email": what.recipient,
        "From": what.sender,
        "BouncedAt": time,
        "DumpAvailable": True,
        "Inactive": what.type is EventType.BOUNCED,
        "CanActivate": True,
        "Subject": "Welcome",
    }


def _subscription_sample(what: Occurrence, time: str) -> dict[str, Any]:
    off = what.type is EventType.UNSUBSCRIBED
    return {
        "RecordType": "SubscriptionChange",
        "ServerID": 23,
        "Recipient": what.recipient,
        "ChangedAt": time,
        "Origin": "Recipient",
        "SuppressSending": off,
        "SuppressionReason": "ManualSuppression" if off else None,
    }


def _engagement_sample(what: Occurrence, time: str) -> dict[str, Any]:
    click = what.type is EventType.CLICKED
    particular = (
        {"RecordType": "Click", "ClickLocation": "HTML", "OriginalLink": "https://example.com/welcome"}
        if click
        else {"RecordType": "Open", "FirstOpen": True, "ReadSeconds": 5}
    )
    return particular | {
        "Recipient": what.recipient,
        "ReceivedAt": time,
        "Platform": "Desktop",
        "UserAgent": _BROWSER,
        "Client": {"Name": "Chrome 140.0.0.0", "Company": "Google", "Family": "Chrome"},
        "OS": {"Name": "Linux", "Company": "", "Family": "Linux"},
        "Geo": {"CountryISOCode": "DE", "Country": "Germany", "City": "Berlin", "IP": "203.0.113.42"},
    }


def _inbound_sample(what: Occurrence, time: str) -> dict[str, Any]:
    sender, person = (
        {"Email": what.sender, "Name": "", "MailboxHash": ""},
        {"Email": what.recipient, "Name": ""},
    )
    return {
        "MessageStream": "inbound",
        "From": what.sender,
        "FromName": "",
        "FromFull": sender,
        "To": what.recipient,
        "ToFull": [person],
        "CcFull": [],
        "OriginalRecipient": what.recipient,
        "MailboxHash": "",
        "Subject": "Hello",
        "Date": time,
        "TextBody": "Hello",
        "HtmlBody": "",
        "Attachments": [],
        "Tag": "",
        "Headers": [{"Name": "Message-ID", "Value": f"<{what.run}.{what.number}@example.net>"}],
    }


def _demo(_: Path) -> tuple[dict[str, Any], dict[str, str]]:
    password, secret = token_urlsafe(24), token_urlsafe(24)
    settings = {
        "username": "postmark",
        "password": password,
        "header_name": "X-Webhook-Secret",
        "header_value": secret,
    }
    return settings, dict(settings)


def _post(items: Sequence[Any], keys: Mapping[str, str], _: datetime) -> Sequence[Post]:
    headers = {"user-agent": "Postmark", "x-pm-retries-remaining": "6", **signer.headers(keys)}
    return posts.one_by_one(items, lambda _: headers, query=signer.query(keys))


Postmark.simulation = Simulation(
    types=(
        EventType.DELIVERED,
        EventType.OPENED,
        EventType.CLICKED,
        EventType.BOUNCED,
        EventType.DEFERRED,
        EventType.REJECTED,
        EventType.FAILED,
        EventType.AUTORESPONDED,
        EventType.COMPLAINED,
        EventType.UNSUBSCRIBED,
        EventType.SUBSCRIBED,
        EventType.INBOUND,
    ),
    demo=_demo,
    keys=signer.keys,
    sample=_sample,
    post=_post,
    setup=(
        "1. Make a password with `openssl rand -hex 24`, and put it with a user into `username` and `password` (or\n"
        "   make up a header, `header_name` and `header_value`).\n"
        "2. Postmark: choose the server and message stream, Webhooks, Add webhook. URL: {url}. Set Basic auth with\n"
        "   that user and password (or the custom header), and tick all events.\n"
        "3. Press Verify: it must say 200."
    ),
)

PROVIDER: Final[type[Provider]] = Postmark
