"""Mailchimp (Marketing): webhooks of an audience.

Rests on (all seen 2026-11)
- "Sync Audience Data with Webhooks", https://mailchimp.com/developer/marketing/guides/sync-audience-data-webhooks/: the
  GET, the form, retries, a secret in the URL
- "Webhooks", https://mailchimp.com/developer/marketing/api-concepts/webhooks/: the signature
- "About Webhooks", the older guide, https://apidocs.mailchimp.com/webhooks/: a sample of each event

What the signature covers: HMAC-SHA256, as hexadecimal text, over `t`, a dot and the raw body, which is every byte. It
came in 2026: only webhooks made since then have a secret, which the API shows once, when the webhook is made. Whether a
repetition is signed anew is not documented: the window is the 75 minutes of the repetitions and 45 more. An older
webhook has a secret in its URL alone (`url_secret`), and that covers nothing: whoever knows it can say anything.

Status codes: 200 is kept. What is not answered within 10 seconds or fails is tried again; which codes count as failure
is not documented. A GET, which Mailchimp sends when the webhook is saved, is answered 200.

Identity: there is no event id. Hashed are type, time, audience, contact, address, action, reason and campaign. Without
a time: the whole form.

Time: `fired_at` names no zone and is taken as UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import md5
from typing import Any, Final

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
    UnreadableItem,
    World,
    secret_bytes,
    secret_problems,
)
from receiver.credentials import Credentials, CredentialSettings, covers_with, credential_problems
from receiver.errors import Problem, Unreadable
from receiver.event import BounceCategory, EventType, Reading
from receiver.forms import nested, object_of
from receiver.payload import first_text, iso_time, item_from_value, mapping, stable_text, text
from receiver.signatures import check_timed
from receiver.signers import credentials, hmacs, posts

WINDOW: Final = 2 * 3600.0  # seconds
HEADER: Final = "x-mailchimp-signature"

_RIGHT: Final = (
    "It is `signing_secret` in the answer to POST /lists/{list_id}/webhooks, and shown only there. For an older "
    "webhook set `url_secret` instead, and end its URL with that: at least 16 random characters"
)


class MailchimpSettings(CredentialSettings):
    """The signing secret, or for older webhooks a secret in the URL, or both."""

    signing_secret: Secrets = Field(default=[], description="the webhook's signing secret(s)")


# `type`; `unsubscribe` and `cleaned` with the reason `abuse` are complaints. The last three concern no consent.
WORDS: Final[Mapping[str, EventType]] = {
    "subscribe": EventType.SUBSCRIBED,
    "unsubscribe": EventType.UNSUBSCRIBED,
    "cleaned": EventType.BOUNCED,
    "profile": EventType.UNKNOWN,
    "upemail": EventType.UNKNOWN,
    "campaign": EventType.UNKNOWN,
}
_MAY_BE_ABUSE: Final = frozenset({"unsubscribe", "cleaned"})
_IDENTITY: Final = (
    "id",
    "list_id",
    "email",
    "action",
    "reason",
    "old_email",
    "new_email",
    "campaign_id",
    "status",
)


class Mailchimp(Provider):
    """One audience's webhook."""

    name = "mailchimp"
    title = "Mailchimp (Marketing)"
    basis = "documents"
    covers = "body"
    words = WORDS
    reply = Reply(
        retries="Failures are repeated at increasing intervals for 75 minutes; too many may disable the webhook.",
        timeout=10.0,
    )
    covers_with = staticmethod(covers_with)
    Settings = MailchimpSettings

    def __init__(self, settings: MailchimpSettings, world: World) -> None:
        self._credentials = Credentials(settings)
        self._keys = secret_bytes(settings.signing_secret)
        self._window = settings.tolerance or WINDOW
        self._now = world.now

    @staticmethod
    def problems(settings: MailchimpSettings, key: str) -> Sequence[Problem]:
        found = credential_problems(settings, key, _RIGHT, required=False)
        if settings.signing_secret or not Credentials(settings).any:
            found += secret_problems(settings.signing_secret, f"{key}.signing_secret", _RIGHT)
        return found

    async def authenticate(self, delivery: Delivery) -> Authentic:
        if self._keys:
            self._credentials.check(delivery)
            check_timed(delivery.headers, HEADER, self._keys, delivery.body, now=self._now(), past=self._window)
        else:
            self._credentials.require(delivery)
        return Authentic(payload=delivery)

    def parse(self, payload: Delivery) -> Iterable[Item | UnreadableItem]:
        fields = object_of(payload.headers.get("content-type", ""), payload.body)
        return (item_from_value(nested(fields)),)

    def read(self, item: Item) -> Sequence[Reading]:
        value = item.value
        if not isinstance(value, dict) or not (value.get("type") or value.get("data")):
            raise Unreadable("the form has neither `type` nor `data`")
        return [_event(value, mapping(value.get("data")))]


def _event(value: Mapping[str, Any], data: Mapping[str, Any]) -> Reading:
    word = text(value.get("type")) or ""
    type_ = WORDS.get(word, EventType.UNKNOWN)
    if word in _MAY_BE_ABUSE and data.get("reason") == "abuse":
        type_ = EventType.COMPLAINED
    fired_at = text(value.get("fired_at"))
    campaign = text(data.get("id")) if word == "campaign" else text(data.get("campaign_id"))
    return Reading(
        type=type_,
        word=word,
        identity=_identity(word, fired_at, data) if fired_at else ("raw", stable_text(value)),
        occurred_at=iso_time(fired_at),
        recipient=first_text(data, "email", "old_email"),
        verdict=BounceCategory.HARD if type_ is EventType.BOUNCED and data.get("reason") == "hard" else None,
        topic=text(data.get("list_id")),
        campaign=campaign,
        metadata=_metadata(data),
        subject=text(data.get("subject")),
        client_ip=text(data.get("ip_opt")),
    )


def _identity(word: str, fired_at: str, data: Mapping[str, Any]) -> Sequence[str | None]:
    return word, fired_at, *(text(data.get(name)) for name in _IDENTITY)


def _metadata(data: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The contact's fields, and the address it has now where that changed."""
    new = text(data.get("new_email"))
    return {**mapping(data.get("merges")), **({"new_email": new} if new else {})} or None


# Simulation

_OF_TYPE: Final[Mapping[EventType, Mapping[str, Any]]] = {
    EventType.SUBSCRIBED: {"type": "subscribe"},
    EventType.UNSUBSCRIBED: {"type": "unsubscribe", "action": "unsub", "reason": "manual", "campaign_id": "4fjk2ma9xd"},
    EventType.BOUNCED: {"type": "cleaned", "reason": "hard", "campaign_id": "4fjk2ma9xd"},
    EventType.COMPLAINED: {"type": "unsubscribe", "action": "unsub", "reason": "abuse", "campaign_id": "4fjk2ma9xd"},
}


def _keys(settings: MailchimpSettings) -> Mapping[str, str] | None:
    return {**credentials.keys(settings), **(hmacs.keys()(settings) or {})} or None


def _sample(what: Occurrence) -> dict[str, Any]:
    details = dict(_OF_TYPE[what.type])
    digest = md5(what.recipient.lower().encode(), usedforsecurity=False).hexdigest()  # the contact's id at Mailchimp
    merges = {"EMAIL": what.recipient, "FNAME": "Ada", "LNAME": f"of run {what.run}, number {what.number}"}
    data = {"id": digest, "list_id": "a6b5da1054", "email": what.recipient, "email_type": "html", "merges": merges}
    fired_at = what.at.strftime("%Y-%m-%d %H:%M:%S")
    return {"type": details.pop("type"), "fired_at": fired_at, "data": {**data, "ip_opt": "203.0.113.7", **details}}


def _post(items: Sequence[Any], keys: Mapping[str, str], now: datetime) -> Sequence[Post]:
    def headers(body: bytes) -> dict[str, str]:
        found = {"user-agent": "MailChimp", **credentials.headers(keys)}
        if "signing_secret" in keys:
            found[HEADER] = hmacs.timed(keys["signing_secret"], int(now.timestamp()), body)
        return found

    return posts.as_forms(items, headers, query=credentials.query(keys))


Mailchimp.simulation = Simulation(
    types=tuple(_OF_TYPE),
    demo=hmacs.demo(),
    keys=_keys,
    sample=_sample,
    post=_post,
    setup=(
        "1. Make the webhook by Mailchimp's API: POST /3.0/lists/{list_id}/webhooks with the URL {url}, all events\n"
        "   and all sources.\n"
        "2. Put `signing_secret` of the answer in here. It is not shown again.\n"
        "\n"
        "Or in the console: Audience, Settings, Webhooks, Create New Webhook, with the URL {url}/<url_secret>.\n"
        "Such a webhook signs nothing: make that secret up, and set `url_secret` instead of `signing_secret`."
    ),
)

PROVIDER: Final[type[Provider]] = Mailchimp
