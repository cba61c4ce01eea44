"""SMTP2GO: email webhooks, as JSON or as a form.

Rests on (all seen 2026-11)
- "Webhooks Overview", https://developers.smtp2go.com/docs/webhooks-overview: events, fields, retries, how to protect
- "Webhooks", https://support.smtp2go.com/hc/en-gb/articles/223087967: the output type and the Authorization header

What the proof covers: nothing of the body, as SMTP2GO signs nothing. Whoever knows the credentials can say anything,
and a body that was changed on the way is accepted: TLS is all that protects it. Requests come from the addresses of
`webhooks.smtp2go.com`, which may be listed in `allow_from` on top.

Status codes: 2xx is kept. Up to 35 attempts are made in 48 hours, when no answer comes within ten seconds or a bad one
does; which codes are bad is not documented, so it is taken that all but 2xx are. A wrong credential is answered 401.

A soft bounce is final, as a message that is still being tried stays "processed". `resubscribe` may also mean that
somebody of ours took the address off the list of suppressions. What concerns SMS is kept as unknown.

Identity: there is no event id (`id` is the webhook's own). Hashed are the event, the email's id, the recipient, the
time, what kind of bounce, the context (such as a link), address and user agent as sent. Not hashed: `id`, `read-secs`
and what follows from the others. Without a time: the whole item but for those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final
from uuid import NAMESPACE_URL, uuid5

from receiver.contract import Authentic, Delivery, Item, Occurrence, Post, Provider, Reply, Simulation, UnreadableItem
from receiver.credentials import ByCredentials, CredentialSettings
from receiver.event import BounceCategory, EventType, Reading, RejectReason
from receiver.forms import is_form, object_of
from receiver.payload import (
    bare_id,
    event_object,
    first_text,
    iso_time,
    item_from_value,
    item_of,
    stable_text,
    strip,
    text,
    unix_time,
)
from receiver.signers import credentials, posts

_RIGHT: Final = (
    "Give the webhook an Authorization header (SMTP2GO: Settings, Webhooks, the webhook) or a secret in its URL, and "
    "set the same here: at least 16 random characters"
)


class Smtp2goSettings(CredentialSettings):
    """Basic or bearer credentials, or a secret in the URL: what is set is required."""


_WORDS: Final[Mapping[str, EventType]] = {
    "processed": EventType.QUEUED,
    "delivered": EventType.DELIVERED,
    "open": EventType.OPENED,
    "click": EventType.CLICKED,
    "bounce": EventType.BOUNCED,
    "spam": EventType.COMPLAINED,
    "unsubscribe": EventType.UNSUBSCRIBED,
    "resubscribe": EventType.SUBSCRIBED,
    "reject": EventType.REJECTED,
}
_VERDICTS: Final = {"hard": BounceCategory.HARD, "soft": BounceCategory.SOFT}
_VOLATILE: Final = ("id", "read-secs")
# Every other field is one of the sender's headers, which the webhook was told to bring.
_DOCUMENTED: Final = frozenset(
    (
        *("event", "time", "sendtime", "sender", "from", "from_address", "from_name", "rcpt", "recipients", "auth"),
        *("host", "message", "context", "email_id", "id", "message-id", "bounce", "subject", "user-agent", "read-secs"),
        *("client", "client-device", "client-os", "geoip-continent", "geoip-country", "geoip-city", "srchost"),
    )
)
_REFUSALS: Final = frozenset({EventType.BOUNCED, EventType.REJECTED})
_PEOPLE: Final = frozenset({"open", "click", "spam", "unsubscribe", "resubscribe"})


class Smtp2go(ByCredentials, Provider):
    """One webhook of SMTP2GO: one event for each request."""

    name = "smtp2go"
    title = "SMTP2GO"
    basis = "documents"
    covers = "nothing"
    words = _WORDS
    right: ClassVar[str] = _RIGHT
    reply = Reply(
        retries="Failures are repeated up to 35 times in 48 hours; which codes fail is not documented (all but 2xx).",
        timeout=10.0,
    )
    Settings = Smtp2goSettings

    async def authenticate(self, delivery: Delivery) -> Authentic:
        self._credentials.require(delivery)
        return Authentic(payload=delivery)

    def parse(self, payload: Delivery) -> Iterable[Item | UnreadableItem]:
        kind = payload.headers.get("content-type", "")
        return [item_from_value(object_of(kind, payload.body)) if is_form(kind) else item_of(strip(payload.body))]

    def read(self, item: Item) -> Sequence[Reading]:
        value = event_object(item, "an SMTP2GO event")
        return [_reading(value)]


def _reading(value: Mapping[str, Any]) -> Reading:
    word = text(value.get("event")) or ""
    type_ = _WORDS.get(word, EventType.UNKNOWN)
    own = {name: member for name, member in value.items() if name not in _DOCUMENTED and word in _WORDS}
    time = text(value.get("time"))
    names = ("event", "email_id", "rcpt", "time", "bounce", "context", "srchost", "user-agent")
    identity = tuple(text(value.get(name)) for name in names)
    bounce = text(value.get("bounce")) or ""
    return Reading(
        type=type_,
        word=word,
        identity=identity if time else ("raw", stable_text(value, without=_VOLATILE)),
        occurred_at=iso_time(time) or unix_time(time),
        recipient=text(value.get("rcpt")),
        message_id=text(value.get("email_id")),
        internet_message_id=bare_id(value.get("message-id")),
        sender=first_text(value, "from_address", "from", "sender"),
        verdict=_VERDICTS.get(bounce, BounceCategory.UNDETERMINED) if type_ is EventType.BOUNCED else None,
        diagnostic=first_text(value, "message", "context") if type_ in _REFUSALS else text(value.get("message")),
        reject_reason=RejectReason.OTHER if type_ is EventType.REJECTED else None,  # suppressed, or not allowed to send
        remote_mta=text(value.get("host")),
        metadata=own or None,
        subject=text(value.get("subject")),
        url=text(value.get("context")) if type_ is EventType.CLICKED else None,
        user_agent=text(value.get("user-agent")),
        client_ip=text(value.get("srchost")) if word in _PEOPLE else None,  # of the others it is who submitted it
        country=text(value.get("geoip-country")),
    )


# The simulator's side.

_PERSON: Final = {
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0",
    "client": "Firefox",
    "client-device": "desktop",
    "client-os": "Linux",
    "geoip-continent": "EU",
    "geoip-country": "DE",
    "geoip-city": "Berlin",
    "srchost": "203.0.113.42",
}
_OF_TYPE: Final[Mapping[EventType, tuple[str, Mapping[str, Any]]]] = {
    EventType.QUEUED: ("processed", {"srchost": "192.0.2.40"}),
    EventType.DELIVERED: ("delivered", {"message": "250 2.0.0 OK"}),
    EventType.BOUNCED: (
        "bounce",
        {"bounce": "hard", "host": "mx.example.com", "message": "550 5.1.1 The email account does not exist"},
    ),
    EventType.REJECTED: ("reject", {"message": "The recipient is on the list of suppressions"}),
    EventType.OPENED: ("open", {"read-secs": 5, **_PERSON}),
    EventType.CLICKED: ("click", _PERSON),
    EventType.COMPLAINED: ("spam", {}),
    EventType.UNSUBSCRIBED: ("unsubscribe", {}),
    EventType.SUBSCRIBED: ("resubscribe", {}),
}


def _sample(what: Occurrence) -> dict[str, Any]:
    word, details = _OF_TYPE[what.type]
    number = uuid5(NAMESPACE_URL, f"{what.run}/{what.number}").hex
    return {
        "event": word,
        "time": what.at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "sendtime": what.at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "sender": what.sender,
        "from": f"News <{what.sender}>",
        "from_address": what.sender,
        "from_name": "News",
        "rcpt": what.recipient,
        "recipients": [what.recipient],
        "auth": "api-1",
        "email_id": f"1r{number[:14]}",
        "id": "7d1b2a7c0b5f4f0e9f6a2f3b4c5d6e7f",
        "message-id": f"<{number}@example.net>",
        "subject": "Autumn news",
        "X-Campaign": "autumn",
        **details,
    }


def _post(items: Sequence[Any], keys: Mapping[str, str], _: datetime) -> Sequence[Post]:
    return posts.one_by_one(items, lambda _: credentials.headers(keys), query=credentials.query(keys))


Smtp2go.simulation = Simulation(
    types=tuple(_OF_TYPE),
    demo=credentials.demo(),
    keys=credentials.keys,
    sample=_sample,
    post=_post,
    setup=(
        "1. Make a password with `openssl rand -hex 24`, and put it with a user into `username` and `password`, or\n"
        "   a token into `bearer_token`.\n"
        "2. SMTP2GO: Settings, Webhooks, Add Webhook. URL: {url}. Authorization header: Basic or Bearer, with the\n"
        "   same. Output type: JSON. Choose all email events, and list the headers you want in the metadata.\n"
        "3. Save, and press Test."
    ),
)

PROVIDER: Final[type[Provider]] = Smtp2go
