"""Zoho ZeptoMail: events of sent mail, one for each request.

Rests on (all seen 2026-11)
- "Webhooks in an Agent", https://www.zoho.com/zeptomail/help/webhooks.html: events, fields, signature and a validator
- the console's own previews, as users quote them: `fbl_compliant` for a complaint, `details[].bounced_recipient`

What the proof covers: with an authentication key every byte of the JSON, by an HMAC-SHA256 in base64 in the header
`producer-signature`. The time beside it, `ts`, is not among the signed bytes: the published validator signs the JSON
alone, although it looks at the age of `ts` first. Whoever replays a request can write any time, so that its age proves
nothing and is not looked at; a replay is stored once. The JSON may be the whole body, or the value of a form's only
field; the field's name is not covered. Without a key the credentials are the proof (authorization
headers that the console lets one add), and they cover nothing of the body.

Status codes: nothing is documented; 2xx is taken for success and everything else for something to be repeated. The
console's "Verify" wants 200 and posts no event: a GET is always answered so, an empty POST once its proof is right (set
the key on both sides first). A sample sent by "Send Test" looks like an event and is stored as one.

Identity: word, `request_id`, recipient, time, link and address as written. Not hashed: `webhook_request_id`, the id of
one "webhook transaction", which may be another one for a repetition. Without a time (complaints have none): the word,
the recipient and all that is said of the message.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, Final
from urllib.parse import quote, unquote

from pydantic import Field

from receiver.contract import (
    Answer,
    Authentic,
    Delivery,
    Item,
    Occurrence,
    Post,
    Provider,
    Reply,
    Secrets,
    Simulation,
    UnreadableItem,
    World,
    secret_bytes,
)
from receiver.credentials import Credentials, CredentialSettings, covers_with, signed_problems
from receiver.errors import Problem, Reason, Refused, Unreadable
from receiver.event import BounceCategory, EventType, Reading
from receiver.forms import unescaped
from receiver.payload import first_text, iso_time, item_of, mapping, objects, sequence, stable_text, strip, text, texts
from receiver.signatures import check_hmac, header, unbase64
from receiver.signers import credentials, posts
from receiver.signers import hmacs as signer

_SIGNATURE: Final = "producer-signature"
_FIELD: Final = re.compile(rb"[\w.-]*=")  # no JSON begins so
_RIGHT: Final = (
    "ZeptoMail: Agents, your agent, Webhooks, Authentication Key (at least 16 characters of your own); or an "
    "authorization header there, with the same value here"
)


class ZeptoMailSettings(CredentialSettings):
    """The authentication key, or credentials, or both: what is set is required."""

    authentication_key: Secrets = Field([], description="the agent's authentication key, or several")


# A soft bounce is what the mail ended with: nothing says that ZeptoMail tries again after it is reported.
_WORDS: Final[Mapping[str, EventType]] = {
    "delivered": EventType.DELIVERED,
    "softbounce": EventType.BOUNCED,
    "hardbounce": EventType.BOUNCED,
    "email_open": EventType.OPENED,
    "email_link_click": EventType.CLICKED,
    "feedback_loop": EventType.COMPLAINED,
    "fbl_compliant": EventType.COMPLAINED,
}
_VERDICTS: Final = {"softbounce": BounceCategory.SOFT, "hardbounce": BounceCategory.HARD}
_ENGAGED: Final = frozenset({EventType.OPENED, EventType.CLICKED})


class ZeptoMail(Provider):
    """One agent of ZeptoMail."""

    name = "zeptomail"
    title = "Zoho ZeptoMail"
    basis = "documents"
    covers = "body"
    words = _WORDS
    reply = Reply(retries="Whether and how long it repeats is not documented; anything but 2xx is taken for a failure.")
    Settings = ZeptoMailSettings
    covers_with = staticmethod(covers_with)

    def __init__(self, settings: ZeptoMailSettings, world: World) -> None:  # noqa: ARG002 - the contract's
        self._keys = secret_bytes(settings.authentication_key)
        self._credentials = Credentials(settings)

    @staticmethod
    def problems(settings: ZeptoMailSettings, key: str) -> Sequence[Problem]:
        return signed_problems(settings, "authentication_key", key, _RIGHT)

    async def authenticate(self, delivery: Delivery) -> Authentic:
        body = _json(delivery.body)
        if self._keys:
            check_hmac(self._keys, body, [_signature(header(delivery.headers, _SIGNATURE))])
            self._credentials.check(delivery)
        else:
            self._credentials.require(delivery)
        if not body.strip(b"{} \r\n"):  # what "Verify" posts
            return Authentic(answer=Answer(status=200))
        return Authentic(payload=body)

    def parse(self, payload: bytes | None) -> Iterable[Item | UnreadableItem]:
        return [item_of(strip(payload))] if payload else []

    def read(self, item: Item) -> Sequence[Reading]:
        event = mapping(item.value)
        words = texts(event.get("event_name"))
        if not words:
            raise Unreadable("a ZeptoMail event must be a JSON object with the member `event_name`")
        return [
            reading
            for message in objects(event.get("event_message"))
            for data in objects(message.get("event_data"))
            for details in objects(data.get("details"))
            for reading in _readings(words[0], event, message, details)
        ]


def _json(body: bytes) -> bytes:
    """The bytes that are signed: the body, or the value of a form's only field, whatever its name. Raises Refused."""
    field = _FIELD.match(body)
    try:
        return unescaped(body[field.end() :]) if field else body
    except ValueError as error:
        raise Refused(Reason.BODY_CHANGED, f"no form that ZeptoMail sends: {error}") from error


def _signature(value: str) -> bytes:
    """The signature of `ts=...;s=...;s-algorithm=HmacSHA256`, which is percent-encoded in whole or in part."""
    parts = dict(part.replace(" ", "").partition("=")[::2] for part in unquote(value).split(";"))
    if parts.get("s-algorithm") != "HmacSHA256" or not parts.get("s"):
        wrong = f"the header {_SIGNATURE} is not of the form ts=...;s=...;s-algorithm=HmacSHA256"
        raise Refused(Reason.MALFORMED_HEADER, wrong)
    return unbase64(parts["s"], f"s of {_SIGNATURE}")


def _readings(
    word: str, event: Mapping[str, Any], message: Mapping[str, Any], details: Mapping[str, Any]
) -> Iterable[Reading]:
    info = mapping(message.get("email_info"))
    place = mapping(details.get("ip_location_info"))
    time = first_text(details, "time", "modified_time")
    common = (word, text(message.get("request_id")))
    link, address = text(details.get("clicked_link")), text(place.get("ip_address"))
    reference = text(info.get("client_reference"))
    recipients, attribution = _recipients(word, info, details)
    for recipient in recipients:
        identity = (*common, recipient, time, link, address)
        yield Reading(
            type=_WORDS.get(word, EventType.UNKNOWN),
            word=word,
            identity=identity if time else ("raw", word, recipient, stable_text([message, details])),
            occurred_at=iso_time(time),
            provider_event_id=text(event.get("webhook_request_id")),
            recipient=recipient,
            attribution=attribution,
            message_id=text(message.get("request_id")),
            sender=text(mapping(info.get("from")).get("address")),
            verdict=_VERDICTS.get(word),
            diagnostic=first_text(details, "diagnostic_message", "reason"),
            tags=texts(info.get("tag")),
            metadata={"client_reference": reference} if reference else None,
            subject=text(info.get("subject")),
            url=link,
            client_ip=address,
            country=text(place.get("country_code")),
        )


def _recipients(
    word: str, info: Mapping[str, Any], details: Mapping[str, Any]
) -> tuple[Sequence[str | None], str | None]:
    """(recipients, attribution): whom the details name, else all to whom the mail went, and it is not told which."""
    named = texts(details.get("bounced_recipient")) or texts(details.get("to"))
    found = named or [address for name in ("to", "cc", "bcc") for address in _addresses(info.get(name))]
    found = list(dict.fromkeys(found))
    if len(found) > 1:
        return (None,) if _WORDS.get(word) in _ENGAGED else found, "ambiguous"
    return found or (None,), None


def _addresses(people: object) -> Iterable[str]:
    """The addresses of `[{"email_address": {"address": ...}}]`, also where the inner object is left out."""
    for person in map(mapping, sequence(people)):
        if address := text((mapping(person.get("email_address")) or person).get("address")):
            yield address


# Simulation

_PLACE: Final = {
    "ip_location_info": {"country_code": "DE", "country_name": "Germany", "ip_address": "203.0.113.80"},
    "email_client": {"name": "Gmail", "version": "unknown"},
    "browser": {"name": "Firefox", "version": "144.0"},
    "operating_system": {"name": "Linux", "version": "unknown"},
    "device": {"name": "Desktop"},
}
_OF_TYPE: Final[Mapping[EventType, tuple[str, Mapping[str, Any]]]] = {
    EventType.BOUNCED: ("hardbounce", {"reason": "invalid", "diagnostic_message": "smtp; 550 5.1.1 user unknown"}),
    EventType.DELIVERED: ("delivered", {}),
    EventType.OPENED: ("email_open", _PLACE),
    EventType.CLICKED: ("email_link_click", {**_PLACE, "clicked_link": "https://shop.example.com/autumn"}),
    EventType.COMPLAINED: ("fbl_compliant", {"fblFrom": "fbl@mailbox.example"}),
}


def _sample(what: Occurrence) -> dict[str, Any]:
    word, details = _OF_TYPE[what.type]
    digest = sha256(f"{what.run}/{what.number}".encode()).hexdigest()
    at = what.at.isoformat(timespec="seconds").replace("+00:00", "Z")
    about: dict[EventType, dict[str, Any]] = {
        EventType.COMPLAINED: {"to": [what.recipient]},
        EventType.BOUNCED: {"bounced_recipient": what.recipient},
    }
    info = {
        "client_reference": f"order-{what.number}",
        "email_reference": f"13ef.{digest[:16]}",
        "is_smtp_trigger": False,
        "subject": "Autumn news",
        "bounce_address": "bounce@bounce.example.net",
        "from": {"address": what.sender, "name": "News"},
        "to": [{"email_address": {"address": what.recipient, "name": "Customer"}}],
        "processed_time": at,
        "object": "email",
    }
    time = {} if what.type is EventType.COMPLAINED else {"time": at}
    data = {"details": [{**details, **time, **about.get(what.type, {})}], "object": word}
    return {
        "event_name": [word],
        "event_message": [{"email_info": info, "event_data": [data], "request_id": f"2d6f.{digest[:24]}"}],
        "mailagent_key": "4e29626b34b4a653",
        "webhook_request_id": f"4e29626b.{digest[:32]}",
    }


def _post(items: Sequence[Any], keys: Mapping[str, str], now: datetime) -> Sequence[Post]:
    def headers(body: bytes) -> Mapping[str, str]:
        found = credentials.headers(keys)
        if "authentication_key" in keys:
            signature = quote(signer.base64(keys["authentication_key"], body), safe="")
            found[_SIGNATURE] = f"ts={now.timestamp() * 1000:.0f};s={signature};s-algorithm=HmacSHA256"
        return found

    return posts.one_by_one(items, headers, query=credentials.query(keys))


ZeptoMail.simulation = Simulation(
    types=tuple(_OF_TYPE),
    demo=signer.demo("authentication_key"),
    keys=credentials.keys_with("authentication_key"),
    sample=_sample,
    post=_post,
    setup=(
        "1. ZeptoMail: Agents > your agent > Webhooks. Set the Authentication Key at the top, the same as\n"
        "   `authentication_key` here; or in the newer console an authorization header, the same as `header_name`\n"
        "   and `header_value`.\n"
        "2. Add Webhook, URL: {url}, tick Soft bounced, Hard bounced, Open, Click, Delivered and Feedback loop.\n"
        "3. Press Verify: it must get 200."
    ),
)

PROVIDER: Final[type[Provider]] = ZeptoMail
