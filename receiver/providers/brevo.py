"""Brevo (Sendinblue): transactional and marketing webhooks.

Rests on (all seen 2026-11)
- "Transactional webhooks", https://developers.brevo.com/docs/transactional-webhooks, and "Marketing webhooks",
  https://developers.brevo.com/docs/marketing-webhooks: a sample of each event
- "Secured webhooks", https://developers.brevo.com/docs/secured-webhooks: token, headers, user and password in the URL
- "Batch webhooks", https://developers.brevo.com/docs/batch-webhooks: up to 500 events of five minutes in an array
- "Retry mechanism", https://developers.brevo.com/docs/retry-mechanism

What the proof covers: nothing of the body. Brevo signs nothing; whoever knows the credentials can say anything.

Status codes: 2xx is kept. Only 429 and silence are tried again, after 10 minutes, 1, 2 and 8 hours. Any other 4xx, and
any 5xx, discards the event. So everything that may succeed later, a wrong secret too, is answered 429.

Identity: there is no event id. Hashed are word, `message-id`, recipient, `ts_epoch`, `ts_event`, link, campaign, list
and user agent. Events about a contact have no reliable time: the whole item, but for `id`, which is the webhook's.

Time: `ts_epoch`, milliseconds UTC (the documents' samples show seconds); without it `ts_event`, seconds UTC.
`date` and `ts` are in the account's time zone, which nothing in the event names, so they are not used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, ClassVar, Final

from receiver.contract import Item, Occurrence, Post, Provider, Reply, Simulation, UnreadableItem
from receiver.credentials import ByCredentials, CredentialSettings
from receiver.event import Actor, BounceCategory, EventType, Reading, RejectReason
from receiver.payload import (
    bare_id,
    embedded,
    event_object,
    first_text,
    integer,
    items_of,
    own_data,
    stable_text,
    text,
    texts,
    unix_time,
)
from receiver.signers import credentials as signer
from receiver.signers import posts

_RIGHT: Final = (
    "Give the webhook a token (`auth`) or a header (`headers`) by Brevo's API, or user and password in its URL, and "
    "set the same here: at least 16 random characters"
)

WORDS: Final[Mapping[str, EventType]] = {
    "request": EventType.QUEUED,
    "sent": EventType.QUEUED,
    "delivered": EventType.DELIVERED,
    "deferred": EventType.DEFERRED,
    "soft_bounce": EventType.BOUNCED,
    "hard_bounce": EventType.BOUNCED,
    "invalid_email": EventType.BOUNCED,
    "blocked": EventType.REJECTED,
    "error": EventType.FAILED,
    "opened": EventType.OPENED,
    "unique_opened": EventType.OPENED,
    "proxy_open": EventType.OPENED,
    "unique_proxy_open": EventType.OPENED,
    "click": EventType.CLICKED,
    "spam": EventType.COMPLAINED,
    "complaint": EventType.COMPLAINED,
    "unsubscribe": EventType.UNSUBSCRIBED,
    "unsubscribed": EventType.UNSUBSCRIBED,
    "list_addition": EventType.SUBSCRIBED,
    "contact_updated": EventType.UNKNOWN,
    "contact_deleted": EventType.UNKNOWN,
}
_VERDICTS: Final[Mapping[str, BounceCategory]] = {
    "soft_bounce": BounceCategory.SOFT,
    "hard_bounce": BounceCategory.HARD,
    "invalid_email": BounceCategory.HARD,
}
_BY_MACHINES: Final = frozenset({"proxy_open", "unique_proxy_open"})
_TIMES: Final = ("ts_epoch", "ts_event")
_IDENTITY: Final = ("event", "message-id", *_TIMES, "link", "URL", "camp_id", "user_agent")
_MILLISECONDS: Final = 10**11  # what is larger: as seconds it would be the year 5138


class Brevo(ByCredentials, Provider):
    """One source of Brevo."""

    name = "brevo"
    title = "Brevo"
    basis = "verified"
    covers = "nothing"
    words = WORDS
    right: ClassVar[str] = _RIGHT
    reply = Reply(
        repeated=lambda code: code == 429,
        retries="Only 429 and silence are repeated, after 10 minutes, 1, 2 and 8 hours; other 4xx and any 5xx discard.",
        refused=429,
        again=429,
        slow=429,
        too_large=429,
        bad_encoding=429,
        max_body=4 << 20,
    )
    Settings = CredentialSettings

    def parse(self, payload: bytes) -> Iterable[Item | UnreadableItem]:
        return items_of(payload)  # one object, or an array where the webhook is `batched`

    def read(self, item: Item) -> Sequence[Reading]:
        value = event_object(item, "a Brevo event")
        recipients = texts(value.get("email")) or (None,)  # contacts' events may name several
        lists = texts(value.get("list_id")) if value.get("event") == "list_addition" else ()
        return [_event(value, recipient, topic) for recipient in recipients for topic in lists or (None,)]


def _event(value: Mapping[str, Any], recipient: str | None, topic: str | None) -> Reading:
    get = value.get
    word = text(get("event")) or ""
    type_ = WORDS.get(word, EventType.UNKNOWN)
    message_id = bare_id(get("message-id"))
    return Reading(
        type=type_,
        word=word,
        identity=_identity(value, recipient, topic),
        occurred_at=_time(value),
        recipient=recipient,
        message_id=message_id,
        internet_message_id=message_id,
        sender=text(get("sender_email")),
        verdict=_VERDICTS.get(word),
        diagnostic=text(get("reason")),
        reject_reason=RejectReason.OTHER if type_ is EventType.REJECTED else None,
        actor=Actor.MACHINE if word in _BY_MACHINES else None,
        sending_ip=text(get("sending_ip")),
        topic=topic,
        campaign=text(get("camp_id")),
        template_id=text(get("template_id") or None),
        tags=_tags(value),
        metadata=own_data(get("X-Mailin-custom"), "X-Mailin-custom") or None,
        subject=text(get("subject")),
        url=first_text(value, "link", "URL"),  # the second in marketing webhooks
        user_agent=text(get("user_agent")),
    )


def _identity(value: Mapping[str, Any], recipient: str | None, topic: str | None) -> Sequence[str | None]:
    if first_text(value, *_TIMES) is None:
        return "raw", recipient, topic, stable_text(value, without=("id",))
    return recipient, topic, *(text(value.get(name)) for name in _IDENTITY)


def _time(value: Mapping[str, Any]) -> datetime | None:
    epoch = integer(value.get("ts_epoch"), high=2**63)
    if epoch is None:
        return unix_time(value.get("ts_event"))
    return unix_time(epoch, per_second=1000 if epoch > _MILLISECONDS else 1)


def _tags(value: Mapping[str, Any]) -> list[str]:
    """`tags`; else `tag`: a list, the JSON text of one, or a name."""
    tag = value.get("tag")
    members = embedded(tag)
    return texts(value.get("tags")) or texts(members if isinstance(members, list) else tag)


# Simulation

_OF_TYPE: Final[Mapping[EventType, Mapping[str, Any]]] = {
    EventType.QUEUED: {"event": "request"},
    EventType.DELIVERED: {"event": "delivered"},
    EventType.DEFERRED: {"event": "deferred", "reason": "451 4.7.1 Please try again later"},
    EventType.BOUNCED: {"event": "hard_bounce", "reason": "550 5.1.1 The email account does not exist"},
    EventType.REJECTED: {"event": "blocked", "reason": "blocked : due to blacklist user"},
    EventType.FAILED: {"event": "error", "reason": "the template has no such attribute"},
    EventType.OPENED: {"event": "unique_opened"},
    EventType.CLICKED: {"event": "click", "link": "https://shop.example.com/autumn"},
    EventType.COMPLAINED: {"event": "spam"},
    EventType.UNSUBSCRIBED: {"event": "unsubscribed"},
}


def _sample(what: Occurrence) -> dict[str, Any]:
    number = int.from_bytes(sha256(f"{what.run} {what.number}".encode()).digest()[:6], "big")
    seconds = int(what.at.timestamp())
    return {
        "id": 524127,
        "email": what.recipient,
        "message-id": f"<{what.at:%Y%m%d%H%M}.{number}@smtp-relay.mailin.fr>",
        "date": f"{what.at:%Y-%m-%d %H:%M:%S}",
        "ts": seconds,
        "ts_event": seconds,
        "ts_epoch": int(what.at.timestamp() * 1000),
        "subject": "Autumn news",
        "sender_email": what.sender,
        "template_id": 22,
        "X-Mailin-custom": '{"run": "' + what.run + '"}',
        "tag": '["letter"]',
        "tags": ["letter"],
        "sending_ip": "192.0.2.10",
        **_OF_TYPE[what.type],
    }


def _post(items: Sequence[Any], keys: Mapping[str, str], _: datetime) -> Sequence[Post]:
    def wrap(batch: Sequence[Any]) -> Any:
        return batch[0] if len(batch) == 1 else list(batch)

    return posts.in_batches(items, 500, lambda _: signer.headers(keys), query=signer.query(keys), wrap=wrap)


Brevo.simulation = Simulation(
    types=tuple(_OF_TYPE),
    demo=signer.demo("bearer_token"),
    keys=signer.keys,
    sample=_sample,
    post=_post,
    setup=(
        "1. Make a password of letters and digits with `openssl rand -hex 24`, and put it with a user into\n"
        "   `username` and `password`.\n"
        "2. Brevo: Transactional, Settings, Webhook, Add a new webhook (for marketing: Contacts or Campaigns,\n"
        "   Settings, Webhooks). URL: {url}, with user and password in it: https://user:password@...\n"
        "3. Tick all events.\n"
        "\n"
        'Instead, a webhook made by the API can have `"auth": {"type": "bearer", "token": "..."}`, and the same\n'
        "token here as `bearer_token`."
    ),
)

PROVIDER: Final[type[Provider]] = Brevo
