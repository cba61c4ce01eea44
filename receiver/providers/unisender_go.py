"""Unisender Go: events of sent mail, several in one post.

Rests on (seen 2026-11)
- "webhook/set" and "Callback format" of the Web API, https://godocs.unisender.ru/web-api-ref: structure, sample,
  `auth`, the GET that must be answered when a webhook is switched on; in copies and in the texts of client authors
- what clients know of statuses and error codes (django-anymail, "Unisender Go")

What the proof covers: every byte of the body, by an MD5: the body's `auth` is the MD5 of the same body with the API key
in its place, so the bytes count as they came (order of keys, escapes). MD5 is weak. Nobody finds the key that way, but
whoever has one authentic body can compute the MD5 of that body with bytes of his own behind it. Those bytes always
begin with NUL characters, which JSON cannot hold, so a body with one is refused. No time is covered: an old request is
accepted whenever it comes; its events are stored once. A Basic password in the webhook's URL is good advice.

Status codes: not documented beyond 200 being success; what a sender of this kind repeats is assumed.

Identity: there is no event id, and the header `ID` differs for each post. Hashed are status, job, recipient, time,
link, address and user agent as written. Without a time: the whole item.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from hashlib import md5, sha256
from itertools import islice
from typing import Any, Final

import msgspec
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
from receiver.credentials import Credentials, CredentialSettings, credential_problems
from receiver.errors import Problem, Reason, Refused, Unreadable
from receiver.event import BounceCategory, EventType, Reading, RejectReason
from receiver.payload import event_object, iso_time, item_of, items_in, mapping, strip, text
from receiver.signatures import same, wrong_key
from receiver.signers import credentials, hmacs, in_body, posts

STATUS: Final = "transactional_email_status"
SPAM_BLOCK: Final = "transactional_spam_block"
MAX_CANDIDATES: Final = 8  # fields called `auth` that are tried: a mail's metadata may have one too

_AUTH: Final = re.compile(rb'"auth"\s*:\s*"([0-9a-f]{32})"')
_RIGHT: Final = "Unisender Go: Settings, API key of the user, or of the project whose webhook this is"


class UnisenderGoSettings(CredentialSettings):
    """`api_key`: of the user or project that the webhook belongs to, or several; credentials may come on top."""

    api_key: Secrets = Field([], description="API key(s) of the user or project that the webhook belongs to")


WORDS: Final[Mapping[str, EventType]] = {
    "sent": EventType.SENT,
    "delivered": EventType.DELIVERED,
    "soft_bounced": EventType.DEFERRED,  # it tries again, and says `hard_bounced` when it gives up
    "hard_bounced": EventType.BOUNCED,
    "opened": EventType.OPENED,
    "clicked": EventType.CLICKED,
    "unsubscribed": EventType.UNSUBSCRIBED,
    "subscribed": EventType.SUBSCRIBED,
    "spam": EventType.COMPLAINED,
    SPAM_BLOCK: EventType.UNKNOWN,  # a receiving domain blocks a sending server: about no message
}
# Of `delivery_info.delivery_status`; what is not here says nothing certain about the address.
_VERDICTS: Final[Mapping[str | None, BounceCategory]] = {
    None: BounceCategory.HARD,
    "err_user_unknown": BounceCategory.HARD,
    "err_user_inactive": BounceCategory.HARD,
    "err_mailbox_discarded": BounceCategory.HARD,
    "err_domain_inactive": BounceCategory.HARD,
    "err_mailbox_full": BounceCategory.SOFT,
    "err_too_large": BounceCategory.SOFT,
    "err_unreachable": BounceCategory.SOFT,
    "err_spam_rejected": BounceCategory.BLOCK,
    "err_blacklisted": BounceCategory.BLOCK,
}
# Bounces that never left.
_HELD_BACK: Final[Mapping[str | None, RejectReason]] = {
    "err_unsubscribed": RejectReason.UNSUBSCRIBED,
    "err_spam_skipped": RejectReason.CONTENT,
    "err_skip_letter": RejectReason.OTHER,
}


class UnisenderGo(Provider):
    """One source of Unisender Go."""

    name = "unisender_go"
    title = "Unisender Go"
    basis = "documents"
    covers = "body"
    words = WORDS
    reply = Reply(
        retries="Not documented; taken to be repeated after all but 2xx, as Unisender's other product does for a day.",
        timeout=3.0,
        max_body=4 << 20,
    )
    Settings = UnisenderGoSettings

    def __init__(self, settings: UnisenderGoSettings, world: World) -> None:  # noqa: ARG002 - the contract's
        self._keys = secret_bytes(settings.api_key)
        self._credentials = Credentials(settings)

    @staticmethod
    def problems(settings: UnisenderGoSettings, key: str) -> Sequence[Problem]:
        found = secret_problems(settings.api_key, f"{key}.api_key", _RIGHT)
        return found + credential_problems(settings, key, required=False)

    async def authenticate(self, delivery: Delivery) -> Authentic:
        self._credentials.check(delivery)
        _check_auth(delivery.body, self._keys)
        return Authentic(payload=delivery.body)

    def parse(self, payload: bytes) -> Iterable[Item | UnreadableItem]:
        try:
            users = items_in(payload, "events_by_user")
        except Unreadable:
            single = item_of(strip(payload))
            if isinstance(single, Item) and "event_name" in mapping(single.value):  # posted one by one
                return (single,)
            raise
        return [item for user in users for item in _events_of(user)]

    def read(self, item: Item) -> Sequence[Reading]:
        return [_event(event_object(item, "a Unisender Go event"))]


def _check_auth(body: bytes, keys: Sequence[bytes]) -> None:
    """Refuse unless the body's `auth` is the MD5 of the body with one of the keys in its place."""
    if b"\0" in body:
        raise Refused(Reason.BODY_CHANGED, "the body holds NUL characters, which JSON cannot: something was added")
    candidates = list(islice(_AUTH.finditer(body), MAX_CANDIDATES))
    if not candidates:
        raise Refused(Reason.MISSING_FIELD, "the field auth is missing or no MD5")
    matched = False
    for found in candidates:
        before, after = body[: found.start(1)], body[found.end(1) :]
        for key in keys:
            digest = md5(before + key + after).hexdigest()  # noqa: S324 - the provider's scheme
            matched |= same(digest.encode(), found.group(1))
    if not matched:
        raise wrong_key("API keys")


def _events_of(user: Item | UnreadableItem) -> Iterator[Item | UnreadableItem]:
    """The events of one member of `events_by_user`, also where a neighbour's text is broken."""
    body = user.body if isinstance(user, UnreadableItem) else user.text.encode()
    try:
        for item in items_in(body, "events"):
            repaired = isinstance(user, Item) and user.altered and isinstance(item, Item)
            yield msgspec.structs.replace(item, altered=True) if repaired else item
    except Unreadable as error:
        yield UnreadableItem(body=body, why=str(error))


def _event(value: Mapping[str, Any]) -> Reading:
    name = text(value.get("event_name")) or ""
    data = mapping(value.get("event_data"))
    info = mapping(data.get("delivery_info"))
    word = (text(data.get("status")) or "") if name == STATUS else name
    time = text(data.get("event_time")) or text(data.get("block_time"))
    status = text(info.get("delivery_status"))
    kind, verdict, reject_reason = _meaning(word, status)
    visit = (text(data.get("url")), text(info.get("ip")), text(info.get("user_agent")))
    recipient, job = text(data.get("email")), text(data.get("job_id"))
    return Reading(
        type=kind,
        word=word,
        identity=(word, job, recipient, time, *visit) if time and (job or recipient) else None,
        occurred_at=iso_time(time),
        recipient=recipient,
        message_id=job,
        verdict=verdict,
        diagnostic=text(info.get("destination_response")) or text(data.get("comment")) or _error(status),
        reject_reason=reject_reason,
        metadata=mapping(data.get("metadata")) or None,
        url=visit[0],
        client_ip=visit[1],
        user_agent=visit[2],
    )


def _error(status: str | None) -> str | None:
    return status if status and status.startswith("err_") else None  # not `ok_sent`


def _meaning(word: str, status: str | None) -> tuple[EventType, BounceCategory | None, RejectReason | None]:
    kind = WORDS.get(word, EventType.UNKNOWN)
    if kind is not EventType.BOUNCED:
        return kind, None, None
    if status in _HELD_BACK:
        return EventType.REJECTED, None, _HELD_BACK[status]
    return kind, _VERDICTS.get(status, BounceCategory.UNDETERMINED), None


# The simulator's side.

MAX_BATCH: Final = 100
_VISITOR: Final = {"ip": "203.0.113.42", "user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Firefox/144.0"}
_OF_TYPE: Final[Mapping[EventType, tuple[str, Mapping[str, str]]]] = {
    EventType.DELIVERED: ("delivered", {"delivery_status": "ok_delivered", "destination_response": "250 OK"}),
    EventType.SENT: ("sent", {"delivery_status": "ok_sent"}),
    EventType.DEFERRED: (
        "soft_bounced",
        {"delivery_status": "err_will_retry", "destination_response": "451 4.7.1 Please try again later"},
    ),
    EventType.BOUNCED: (
        "hard_bounced",
        {"delivery_status": "err_user_unknown", "destination_response": "550 5.1.1 No such user here"},
    ),
    EventType.REJECTED: ("hard_bounced", {"delivery_status": "err_unsubscribed"}),
    EventType.OPENED: ("opened", _VISITOR),
    EventType.CLICKED: ("clicked", _VISITOR),
    EventType.UNSUBSCRIBED: ("unsubscribed", {}),
    EventType.SUBSCRIBED: ("subscribed", {}),
    EventType.COMPLAINED: ("spam", {}),
}


def _sample(what: Occurrence) -> dict[str, Any]:
    digest = sha256(f"{what.run}/{what.number}".encode()).hexdigest()
    status, info = _OF_TYPE[what.type]
    link = {"url": "https://example.com/welcome"} if what.type is EventType.CLICKED else {}
    return {
        "event_name": STATUS,
        "event_data": {
            "job_id": f"{digest[:6]}-{digest[6:12]}-{digest[12:14]}",
            "metadata": {"run": what.run},
            "email": what.recipient,
            "status": status,
            "event_time": what.at.strftime("%Y-%m-%d %H:%M:%S"),
            **link,
            "delivery_info": dict(info),
        },
    }


def _post(items: Sequence[Any], keys: Mapping[str, str], _: datetime) -> Sequence[Post]:
    headers = credentials.headers(keys)
    unsigned = posts.in_batches(items, MAX_BATCH, lambda _: headers, query=credentials.query(keys), wrap=_wrapped)
    return [
        Post(headers=post.headers, body=in_body.unisender_go(keys["api_key"], post.body), query=post.query)
        for post in unsigned
    ]


def _wrapped(items: Sequence[Any]) -> dict[str, Any]:
    user = {"user_id": 456, "project_id": "6432890213745872", "project_name": "MyProject", "events": list(items)}
    return {"auth": "", "events_by_user": [user]}


def _keys(settings: UnisenderGoSettings) -> Mapping[str, str] | None:
    found = hmacs.keys("api_key")(settings)
    return found and {**found, **credentials.keys(settings)}


UnisenderGo.simulation = Simulation(
    types=tuple(_OF_TYPE),
    demo=hmacs.demo("api_key"),
    keys=_keys,
    sample=_sample,
    post=_post,
    setup=(
        "1. The API key of the user (or of the project, where the webhook is the project's) goes into `api_key`.\n"
        "2. Unisender Go: Settings, Webhooks, add (or the method webhook/set). URL: {url}, format json_post,\n"
        "   several events in one call, delivery_info on, all statuses of email_status."
    ),
)

PROVIDER: Final[type[Provider]] = UnisenderGo
