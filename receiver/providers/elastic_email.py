"""Elastic Email: notifications about emails ("HTTP Web Notification", webhooks).

Rests on (all seen 2026-11)
- "Notification Settings", https://help.elasticemail.com/en/articles/4804685-notification-settings: what is reported,
  the parameters, the categories of errors, and that the URL must answer 200 to GET
- "What are the bounce error categories and filters?", https://help.elasticemail.com/en/articles/2300650: what the
  categories mean
- the client of the API's version 4, https://github.com/ElasticEmail: webhooks, whose delivery method is GET (the
  default, everything in the URL's query) or POST with one flat JSON object

What the proof covers: nothing of what is said. A secret in the URL (or Basic credentials) proves the sender; whoever
knows it can say anything, and what was changed on the way is accepted: TLS is all that protects it. Newer webhooks can
be signed (`X-ElasticEmail-Signature: v1=...`), but which bytes are signed is not documented, so that is not verified.

Status codes: 200 is kept. Whether anything else is tried again is not documented; after a thousand failures the
notifications are switched off. A wrong secret is answered 401.

`Sent` is Elastic Email's word for what left it: sent, not delivered. The format of `date` is not documented: it is read
where it is ISO 8601 (UTC), else the time of receipt counts.

Identity: there is no event id. Hashed are status, category, both ids, the recipient, the date and the link as sent.
Without a date: the whole item.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final
from uuid import NAMESPACE_URL, uuid5

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
from receiver.credentials import TOKEN, ByCredentials, CredentialSettings
from receiver.event import BounceCategory, EventType, Reading, RejectReason
from receiver.forms import is_form, object_of
from receiver.payload import bare_id, event_object, iso_time, item_from_value, item_of, strip, text
from receiver.signers import credentials, posts

_FORM: Final = "application/x-www-form-urlencoded"
_RIGHT: Final = (
    "Put a secret of at least 16 random letters and digits at the end of the webhook's URL (Elastic Email: Settings, "
    "Notifications) and set the same here as `url_secret`"
)
_CHECKED: Final = Answer(status=200, body=b"this URL takes notifications\n")


class ElasticEmailSettings(CredentialSettings):
    """A secret in the URL, or Basic credentials in it: what is set is required."""


# `status`, for an error followed by its category. A canceled message was withdrawn by the sender; one not delivered
# never left, as the address has bounced, complained or unsubscribed before.
_ERRORS: Final[Mapping[str, BounceCategory | None]] = {
    "NoMailbox": BounceCategory.HARD,
    "Spam": BounceCategory.BLOCK,
    "BlackListed": BounceCategory.BLOCK,
    "ContentFilter": BounceCategory.BLOCK,
    "SPFProblem": BounceCategory.BLOCK,
    "WhitelistingProblem": BounceCategory.BLOCK,
    "GreyListed": BounceCategory.SOFT,
    "Throttled": BounceCategory.SOFT,
    "Timeout": BounceCategory.SOFT,
    "ConnectionProblem": BounceCategory.SOFT,
    "ConnectionTerminated": BounceCategory.SOFT,
    "DNSProblem": BounceCategory.SOFT,
    "AccountProblem": BounceCategory.SOFT,
    "CodeError": BounceCategory.UNDETERMINED,
    "Ignore": BounceCategory.UNDETERMINED,
    "Unknown": BounceCategory.UNDETERMINED,
}
_WORDS: Final[Mapping[str, EventType]] = {
    "Sent": EventType.SENT,
    "Opened": EventType.OPENED,
    "Clicked": EventType.CLICKED,
    "AbuseReport": EventType.COMPLAINED,
    "Unsubscribed": EventType.UNSUBSCRIBED,
    **{f"Error:{category}": EventType.BOUNCED for category in _ERRORS},
    "Error:NotDelivered": EventType.REJECTED,
    "Error:ManualCancel": EventType.UNKNOWN,
}


class ElasticEmail(ByCredentials, Provider):
    """One webhook of Elastic Email: one event for each request."""

    name = "elastic_email"
    title = "Elastic Email"
    basis = "documents"
    covers = "nothing"
    by_get: ClassVar[bool] = True
    words = _WORDS
    right: ClassVar[str] = _RIGHT
    reply = Reply(
        retries="Not documented; after a thousand failures Elastic Email switches the notifications off.",
    )
    Settings = ElasticEmailSettings

    async def authenticate(self, delivery: Delivery) -> Authentic:
        self._credentials.require(delivery)
        if not delivery.body and not _query(delivery):  # how the URL is tried out when it is saved
            return Authentic(answer=_CHECKED)
        return Authentic(payload=delivery)

    def parse(self, payload: Delivery) -> Iterable[Item | UnreadableItem]:
        kind = payload.headers.get("content-type", "")
        if not payload.body:
            return [item_from_value(_query(payload))]
        return [item_from_value(object_of(kind, payload.body)) if is_form(kind) else item_of(strip(payload.body))]

    def read(self, item: Item) -> Sequence[Reading]:
        value = event_object(item, "an Elastic Email notification")
        return [_reading(value)]


def _query(delivery: Delivery) -> dict[str, str | list[str]]:
    """What the URL says, without our own secret. Raises Unreadable."""
    fields = object_of(_FORM, delivery.query.encode(errors="replace"))
    return {name: value for name, value in fields.items() if name != TOKEN}


def _reading(value: Mapping[str, Any]) -> Reading:
    status, category = text(value.get("status")) or "", text(value.get("category"))
    word = f"Error:{category or 'Unknown'}" if status == "Error" else status
    # A category that is new is an error all the same.
    type_ = _WORDS.get(word, EventType.BOUNCED if status == "Error" else EventType.UNKNOWN)
    date = text(value.get("date"))
    names = ("status", "category", "messageid", "transaction", "to", "date", "target")
    metadata = {name: found for name in ("transaction", "postback") if (found := text(value.get(name)))}
    return Reading(
        type=type_,
        word=word,
        identity=tuple(text(value.get(name)) for name in names) if date else None,
        occurred_at=iso_time(date),
        recipient=text(value.get("to")),
        message_id=bare_id(value.get("messageid")) or text(value.get("transaction")),
        sender=text(value.get("from")),
        verdict=_verdict(category) if type_ is EventType.BOUNCED else None,
        diagnostic=category if status == "Error" else None,
        reject_reason=RejectReason.OTHER if type_ is EventType.REJECTED else None,  # which of the three is not said
        campaign=text(value.get("channel")),
        metadata=metadata or None,
        subject=text(value.get("subject")),
        url=text(value.get("target")),
    )


def _verdict(category: str | None) -> BounceCategory:
    return _ERRORS.get(category or "") or BounceCategory.UNDETERMINED


# The simulator's side.

_OF_TYPE: Final[Mapping[EventType, Mapping[str, str]]] = {
    EventType.SENT: {"status": "Sent"},
    EventType.OPENED: {"status": "Opened"},
    EventType.CLICKED: {"status": "Clicked", "target": "https://example.com/autumn"},
    EventType.BOUNCED: {"status": "Error", "category": "NoMailbox"},
    EventType.REJECTED: {"status": "Error", "category": "NotDelivered"},
    EventType.COMPLAINED: {"status": "AbuseReport"},
    EventType.UNSUBSCRIBED: {"status": "Unsubscribed"},
}


def _sample(what: Occurrence) -> dict[str, Any]:
    message, transaction = (str(uuid5(NAMESPACE_URL, f"{what.run}/{what.number}/{part}")) for part in ("mail", "call"))
    return {
        "from": what.sender,
        "to": what.recipient,
        "date": what.at.strftime("%Y-%m-%dT%H:%M:%S"),
        "subject": "Autumn news",
        "channel": "autumn",
        "account": what.sender,
        "category": "",
        "messageid": message,
        "transaction": transaction,
        "target": "",
        "postback": "4711",
        **_OF_TYPE[what.type],
    }


def _post(items: Sequence[Any], keys: Mapping[str, str], _: datetime) -> Sequence[Post]:
    return posts.one_by_one(items, lambda _: credentials.headers(keys), query=credentials.query(keys))


ElasticEmail.simulation = Simulation(
    types=tuple(_OF_TYPE),
    demo=credentials.demo("url_secret"),
    keys=credentials.keys,
    sample=_sample,
    post=_post,
    setup=(
        "1. Make a secret of letters and digits with `openssl rand -hex 24`, and put it into `url_secret`.\n"
        "2. Elastic Email: Settings, Notifications, new webhook. URL: {url}/<url_secret>\n"
        "3. Tick every status. Where there is a choice of method, POST with JSON is better than GET, whose\n"
        "   parameters end in the logs of proxies."
    ),
)

PROVIDER: Final[type[Provider]] = ElasticEmail
