"""HubSpot: webhooks of an app, as far as they tell of mail.

Rests on
- "Validating requests", https://developers.hubspot.com/docs/apps/developer-platform/build-apps/authentication/request-validation
  and the pages of the older signatures, https://legacydocs.hubspot.com/docs/faq/v1-request-validation and
  .../v2-request-validation, whose sample signatures the tests repeat
- "Webhooks API", https://developers.hubspot.com/docs/api-reference/2026-03/webhooks/guide: subscriptions and payload
- "Error handling", https://developers.hubspot.com/docs/api-reference/latest/error-handling: repetitions
- the descriptions of the contact properties in the group "Email information"
all seen 2026-11.

No webhook of HubSpot's reports what happened to a message. What it reports are changes of a contact's properties, and
some of those tell of mail: an opt-out, the reason of a hard bounce, the time of the last open, click and send. Such an
event names the contact's number and no address, so that it has no recipient and suppresses nobody by itself: a handler
that wants to act looks the contact up (`metadata`: `contact`, `portal`). An opt-out that is taken back is unknown,
because it is not said who did that. Not read here: the email events themselves, which can only be fetched from
HubSpot's API, and what a workflow's "send a webhook" action posts, a body of one's own (for the provider `generic`).

Signature: v3 is HMAC-SHA256, as base64, over method, URI, body and timestamp; v2 is SHA-256 over secret, method, URI
and body, v1 over secret and body. Each covers every byte of the body. v1 and v2 have no time, and as plain hashes they
are weaker: whoever has one can compute that of a longer body. Between the two stand NUL characters, which JSON cannot
hold, so that such a body is refused. Only v3 is accepted unless `signature_versions` says otherwise. HubSpot asks to
refuse what is older than five minutes, so repetitions are signed anew. v2 and v3 sign the URL as HubSpot calls it:
`public_url`.

Status codes: 2xx within 5 s is kept; 4xx, 5xx and silence are repeated, up to ten times within 24 hours.

Identity: `eventId`, which is not guaranteed to be unique, with subscription, portal, contact, kind, property, value
and time as sent. Not hashed: `attemptNumber`, which counts the repetitions.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from secrets import token_urlsafe
from typing import Any, Final, Literal

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
    World,
    secret_bytes,
    secret_problems,
)
from receiver.errors import Problem, Reason, Refused
from receiver.event import BounceCategory, EventType, Reading
from receiver.payload import boolean, event_object, first_text, items_of, text, unix_time
from receiver.signatures import check_base64, check_time, header, same, unhex, unix_milliseconds, wrong_key
from receiver.signers import hmacs, posts

WINDOW: Final = 300.0  # seconds
BATCH: Final = 100
DEMO_URL: Final = "https://localhost/"
_RIGHT: Final = "HubSpot: Development, your app, Auth, Client secret"
_PUBLISHED: Final = ("yyyyyyyy-yyyy-yyyy-yyyy-yyyyyyyyyyyy",)


class HubSpotSettings(SourceSettings):
    """`client_secret`: the app's client secret, or several. `public_url`: needed for v2 and v3."""

    public_url: str | None = Field(
        None,
        description="the target URL exactly as in the app's settings; it is signed",
        examples=["https://your-host/webhooks/hubspot"],
    )
    client_secret: Secrets = Field([], description="the app's client secret")
    signature_versions: list[Literal["v1", "v2", "v3"]] = Field(
        ["v3"], description="the signatures to accept; v1 and v2 are weaker: they have no time and are plain hashes"
    )


_CHANGE: Final = "contact.propertyChange:"
_OPT_OUT: Final = f"{_CHANGE}hs_email_optout"
_BOUNCE: Final = f"{_CHANGE}hs_email_hard_bounce_reason_enum"
# The kind of subscription, for a contact's changed property followed by its name. Everything else is no mail: unknown.
_WORDS: Final[Mapping[str, EventType]] = {
    _OPT_OUT: EventType.UNSUBSCRIBED,  # also `hs_email_optout_<number>`, for one subscription type
    _BOUNCE: EventType.BOUNCED,
    f"{_CHANGE}hs_email_last_send_date": EventType.SENT,
    f"{_CHANGE}hs_email_last_open_date": EventType.OPENED,
    f"{_CHANGE}hs_email_last_click_date": EventType.CLICKED,
}
_TIMES: Final = frozenset(word for word in _WORDS if word.endswith("_date"))  # the property is the time itself
_TOPIC: Final = re.compile(re.escape(_OPT_OUT) + r"_(\d+)")
_CONTACT: Final = "0-1"  # `objectTypeId`
# What HubSpot decodes in the URI before it signs v3: the table of "Validating requests".
_DECODED: Final = {f"%{ord(letter):02X}": letter for letter in ":/?@!$'()*,;"}
_ENCODED: Final = re.compile("|".join(_DECODED), re.IGNORECASE)


class HubSpot(Provider):
    """HubSpot's app webhooks: up to 100 events in a request."""

    name = "hubspot"
    title = "HubSpot"
    basis = "verified"
    covers = "body"
    words = _WORDS
    reply = Reply(
        retries="Anything but 2xx within 5 s, 4xx too, is repeated up to ten times within 24 hours.",
        timeout=5.0,
    )
    Settings = HubSpotSettings

    def __init__(self, settings: HubSpotSettings, world: World) -> None:
        self._keys = secret_bytes(settings.client_secret)
        self._versions = settings.signature_versions
        self._url = (settings.public_url or "").partition("?")[0]  # its query is taken as it came
        self._tolerance = settings.tolerance or WINDOW
        self._now = world.now

    @staticmethod
    def problems(settings: HubSpotSettings, key: str) -> Sequence[Problem]:
        found = secret_problems(settings.client_secret, f"{key}.client_secret", _RIGHT, published=_PUBLISHED)
        if not settings.signature_versions:
            found.append(Problem(f"{key}.signature_versions", "is empty, so nothing would be accepted", 'Use ["v3"]'))
        if set(settings.signature_versions) != {"v1"} and not settings.public_url:
            wrong = "is missing, and HubSpot signs the URL it calls"
            right = (
                "The URL exactly as in the app's webhook settings, such as https://events.example.com/webhooks/hubspot"
            )
            found.append(Problem(f"{key}.public_url", wrong, right))
        return found

    async def authenticate(self, delivery: Delivery) -> Authentic:
        version = self._version(delivery.headers)
        uri = f"{self._url}?{delivery.query}" if delivery.query else self._url
        if version == "v3":
            self._check_v3(delivery, uri)
        else:
            uri_part = b"POST" + uri.encode() if version == "v2" else b""
            self._check_hash(delivery.headers, uri_part + delivery.body)
        return Authentic(payload=delivery.body)

    def _version(self, headers: Mapping[str, str]) -> str:
        """The best of the accepted signatures that came along; else the best of the accepted."""
        came = {headers.get("x-hubspot-signature-version", "v1").strip()} if "x-hubspot-signature" in headers else set()
        came |= {"v3"} if "x-hubspot-signature-v3" in headers else set()
        accepted = set(self._versions)
        return max(came & accepted or accepted or {"v3"})

    def _check_v3(self, delivery: Delivery, uri: str) -> None:
        stamp = header(delivery.headers, "x-hubspot-request-timestamp")
        signed_at = unix_milliseconds(stamp, "x-hubspot-request-timestamp")
        signed = b"POST" + decoded(uri).encode() + delivery.body + stamp.encode()
        check_base64(delivery.headers, "x-hubspot-signature-v3", self._keys, signed)
        check_time(signed_at, self._now(), past=self._tolerance)

    def _check_hash(self, headers: Mapping[str, str], signed: bytes) -> None:
        if b"\0" in signed:  # what SHA-256 pads with: who has one hash can compute that of a longer body
            wrong = "the body holds NUL characters, which JSON cannot: something was added"
            raise Refused(Reason.BODY_CHANGED, wrong)
        given = unhex(header(headers, "x-hubspot-signature"), "x-hubspot-signature")
        matched = False
        for key in self._keys:
            matched |= same(hashlib.sha256(key + signed).digest(), given)
        if not matched:
            raise wrong_key("client secrets")

    def parse(self, payload: bytes) -> Iterable[Item | UnreadableItem]:
        return items_of(payload)

    def read(self, item: Item) -> Sequence[Reading]:
        return [_event(event_object(item, "a HubSpot event"))]


def decoded(uri: str) -> str:
    """The URI as HubSpot signs it for v3: a dozen characters of it decoded, all others as they are."""
    return _ENCODED.sub(lambda found: _DECODED[found.group().upper()], uri)


def _event(value: Mapping[str, Any]) -> Reading:
    word = _word(value)
    changed = text(value.get("propertyValue"))
    type_, topic = _meaning(word, changed)
    occurred_at = unix_time(value.get("occurredAt"), per_second=1000)
    if word in _TIMES:
        occurred_at = unix_time(changed, per_second=1000) or occurred_at
    names = ("eventId", "subscriptionId", "portalId", "objectId")
    identity = (*(text(value.get(name)) for name in names), word, changed, text(value.get("occurredAt")))
    return Reading(
        type=type_,
        word=word,
        identity=identity if value.get("occurredAt") else None,
        occurred_at=occurred_at,
        provider_event_id=text(value.get("eventId")),
        verdict=_verdict(changed) if type_ is EventType.BOUNCED else None,
        diagnostic=changed if type_ is EventType.BOUNCED else None,
        topic=topic,
        metadata=_about(value, "contact" if word.startswith("contact.") else "object"),
    )


def _word(value: Mapping[str, Any]) -> str:
    """`object.propertyChange` of a contact is the newer name of `contact.propertyChange`."""
    kind = first_text(value, "subscriptionType", "eventType") or "(none)"
    if kind.startswith("object.") and value.get("objectTypeId") == _CONTACT:
        kind = f"contact.{kind.removeprefix('object.')}"
    name = text(value.get("propertyName"))
    return f"{kind}:{name}" if name else kind


def _meaning(word: str, changed: str | None) -> tuple[EventType, str | None]:
    topic = _TOPIC.fullmatch(word)
    type_ = EventType.UNSUBSCRIBED if topic else _WORDS.get(word, EventType.UNKNOWN)
    if not changed or (type_ is EventType.UNSUBSCRIBED and not boolean(changed)):
        type_ = EventType.UNKNOWN  # a property that was emptied, an opt-out that was taken back
    return type_, topic[1] if topic else None


def _verdict(reason: str | None) -> BounceCategory:
    """HubSpot calls every one of them hard, and stops sending; its reasons are not documented, this one was seen."""
    return BounceCategory.HARD if reason == "UNKNOWN_USER" else BounceCategory.UNDETERMINED


def _about(value: Mapping[str, Any], what: str) -> dict[str, Any] | None:
    names = {what: "objectId", "portal": "portalId", "change_source": "changeSource"}
    return {name: value[key] for name, key in names.items() if value.get(key) is not None} or None


# Simulation

_VALUES: Final = {EventType.UNSUBSCRIBED: "true", EventType.BOUNCED: "UNKNOWN_USER"}
_PROPERTIES: Final[Mapping[EventType, str]] = {type_: word.removeprefix(_CHANGE) for word, type_ in _WORDS.items()}


def _demo(_: Path) -> tuple[dict[str, Any], dict[str, str]]:
    secret = token_urlsafe(32)
    return {"client_secret": [secret], "public_url": DEMO_URL}, {"client_secret": secret}


def _keys(settings: HubSpotSettings) -> dict[str, str] | None:
    if not settings.client_secret:
        return None
    secret = settings.client_secret[0].get_secret_value()
    return {"client_secret": secret, "public_url": settings.public_url or DEMO_URL}


def _sample(occurrence: Occurrence) -> dict[str, Any]:
    digest = hashlib.sha256(f"{occurrence.run}/{occurrence.number}".encode()).digest()
    millis = int(occurrence.at.timestamp() * 1000)
    return {
        "eventId": int.from_bytes(digest[:4], "big"),
        "subscriptionId": 12345,
        "portalId": 62515,
        "appId": 54321,
        "occurredAt": millis,
        "subscriptionType": "contact.propertyChange",
        "attemptNumber": 0,
        "objectId": int.from_bytes(digest[4:8], "big"),
        "propertyName": _PROPERTIES[occurrence.type],
        "propertyValue": _VALUES.get(occurrence.type, str(millis)),
        "changeSource": "EMAIL",
    }


def _post(items: Sequence[Any], keys: Mapping[str, str], now: datetime) -> Sequence[Post]:
    stamp = str(int(now.timestamp() * 1000))
    uri = keys.get("public_url", DEMO_URL)

    def headers(body: bytes) -> dict[str, str]:
        signature = hmacs.base64(keys["client_secret"], b"POST", uri.encode(), body, stamp.encode())
        return {"x-hubspot-request-timestamp": stamp, "x-hubspot-signature-v3": signature}

    return posts.in_batches(items, BATCH, headers, query=uri.partition("?")[2])


HubSpot.simulation = Simulation(
    types=tuple(_PROPERTIES),
    demo=_demo,
    keys=_keys,
    sample=_sample,
    post=_post,
    names_recipients=False,
    setup=(
        "1. HubSpot: Development, your app, Auth. Copy the Client secret into `client_secret`.\n"
        "2. Your app, Webhooks. Target URL: {url}. Write exactly the same as `public_url` here: it is signed.\n"
        "3. Subscribe to contact property changes of `hs_email_optout`, `hs_email_hard_bounce_reason_enum`,\n"
        "   `hs_email_last_send_date`, `hs_email_last_open_date` and `hs_email_last_click_date`, and of\n"
        "   `hs_email_optout_<number>` for single subscription types."
    ),
)

PROVIDER: Final[type[Provider]] = HubSpot
