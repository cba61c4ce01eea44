"""MailPace: events of sent mail, each signed with the sending domain's Ed25519 key.

Rests on (all seen 2026-11)
- "Webhooks", https://docs.mailpace.com/guide/webhooks: events, fields, signature, and what disables a webhook
- "Send", https://docs.mailpace.com/reference/send: `to` is one address or a list with commas, up to 50

What the proof covers: every byte of the body, and no time, so an old request is accepted whenever it comes; its
events are stored once. Each domain has a key of its own. Inbound mail is posted by another feature and not signed: it
is refused here.

Status codes: no code asks for a repetition. Any HTTP error disables the webhook until somebody switches it on in the
console, and what happens meanwhile is not sent; only silence (a timeout) and broken TLS are repeated, up to ten times.
So nothing authentic is turned away: what cannot be read is kept and answered 200, a body may have 32 MB (it carries
the mail's text), and while the database is away a request is held for 58 seconds, which is answered 200 as soon as
it can be stored, or is the silence that MailPace repeats after (its own patience is not documented). A wrong signature
is answered 401: from MailPace it means a wrong key here, and the disabled webhook in the console is how that shows.
The refused request is released with the right key (`receiver refused release`).

Identity: there is no event id. Hashed are the word, the email's number, the recipient and `updated_at`, the time of
the change that is reported, all as written. Without a time: the recipient and the whole payload.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from receiver import payload as read_json
from receiver.contract import (
    Authentic,
    Delivery,
    Item,
    Occurrence,
    Post,
    Provider,
    PublicKeys,
    Reply,
    Simulation,
    SourceSettings,
    UnreadableItem,
    World,
    never,
)
from receiver.errors import Problem, Unreadable
from receiver.event import BounceCategory, EventType, Reading, RejectReason
from receiver.payload import bare_id, iso_time, mapping, stable_text, text, texts
from receiver.signatures import check_ed25519, ed25519_key
from receiver.signers import ed25519 as signer
from receiver.signers import posts

_SIGNATURE: Final = "x-mailpace-signature"
_PART: Final = re.compile(r'(?:"[^"]*"|[^,"])+')  # of a list with commas, which may stand in a quoted name too
_IN_BRACKETS: Final = re.compile(r"<([^<>]+)>$")
_RIGHT: Final = (
    "It is the base64 text (44 characters) under app.mailpace.com, your domain, Webhooks, Public Key Verification; "
    "each domain has its own"
)


class MailPaceSettings(SourceSettings):
    """`public_key`: the domain's public key, or several (one source may serve several domains)."""

    public_key: PublicKeys = Field(default=[], description="the domain's public key: base64 of 32 bytes")


# `email.bounced` is their word for a hard bounce. `email.spam` is their own filter's verdict before any delivery.
_WORDS: Final[Mapping[str, EventType]] = {
    "email.queued": EventType.QUEUED,
    "email.delivered": EventType.DELIVERED,
    "email.deferred": EventType.DEFERRED,
    "email.bounced": EventType.BOUNCED,
    "email.spam": EventType.REJECTED,
}
# Of an email to several, they concern all of them; the others may be one recipient's alone, and none is named.
_OF_ALL: Final = frozenset({EventType.QUEUED, EventType.REJECTED})


class MailPace(Provider):
    """One sending domain of MailPace, or several."""

    name = "mailpace"
    title = "MailPace"
    basis = "documents"
    covers = "body"
    words = _WORDS
    reply = Reply(
        repeated=never,
        retries=(
            "Silence and broken TLS are repeated up to ten times; any HTTP error disables the webhook until it is "
            "switched on again in the console."
        ),
        timeout=60.0,
        max_body=32 << 20,
    )
    Settings = MailPaceSettings

    def __init__(self, settings: MailPaceSettings, world: World) -> None:  # noqa: ARG002 - the contract's
        self._keys = [ed25519_key(key.strip()) for key in settings.public_key]

    @staticmethod
    def problems(settings: MailPaceSettings, key: str) -> Sequence[Problem]:
        key = f"{key}.public_key"
        if not settings.public_key:
            return [Problem(key, "is missing, so nothing would prove the sender", _RIGHT)]
        wrong = [number for number, value in enumerate(settings.public_key, 1) if not _is_key(value)]
        return [Problem(f"{key} (number {number})", "is no base64 of an Ed25519 key", _RIGHT) for number in wrong]

    async def authenticate(self, delivery: Delivery) -> Authentic:
        check_ed25519(delivery.headers, _SIGNATURE, self._keys, delivery.body)
        return Authentic(payload=delivery.body)

    def parse(self, payload: bytes) -> Iterable[Item | UnreadableItem]:
        return [read_json.item_of(read_json.strip(payload))]

    def read(self, item: Item) -> Sequence[Reading]:
        word = text(mapping(item.value).get("event"))
        if word is None:
            raise Unreadable("a MailPace event must be a JSON object with the member `event`")
        email = mapping(item.value.get("payload"))
        recipients = _recipients(email)
        return [_reading(word, email, recipient, len(recipients)) for recipient in recipients]


def _is_key(value: str) -> bool:
    try:
        ed25519_key(value.strip())
    except ValueError:
        return False
    return True


def _reading(word: str, email: Mapping[str, Any], recipient: str | None, of: int) -> Reading:
    kind = _WORDS.get(word, EventType.UNKNOWN)
    changed = text(email.get("updated_at"))
    identity = (word, text(email.get("id")), recipient, changed)
    return Reading(
        type=kind,
        word=word,
        identity=identity if changed else ("raw", word, recipient, stable_text(email)),
        occurred_at=iso_time(changed),
        recipient=recipient,
        attribution="ambiguous" if of > 1 and kind not in _OF_ALL else None,
        message_id=text(email.get("id")),
        internet_message_id=bare_id(email.get("message_id")),
        sender=text(email.get("from")),
        verdict=BounceCategory.HARD if kind is EventType.BOUNCED else None,
        reject_reason=RejectReason.CONTENT if kind is EventType.REJECTED else None,
        tags=texts(email.get("tags")),
        subject=text(email.get("subject")),
    )


def _recipients(email: Mapping[str, Any]) -> Sequence[str | None]:
    """Each address of `to`, `cc` and `bcc` once, without names; one None where there is none."""
    written = [text(email.get(name)) or "" for name in ("to", "cc", "bcc")]
    parts = [part.strip() for value in written for part in _PART.findall(value)]
    bare = [found[1] if (found := _IN_BRACKETS.search(part)) else part for part in parts if part]
    return list(dict.fromkeys(bare)) or [None]


# Simulation


def _demo(_: Path) -> tuple[dict[str, Any], dict[str, str]]:
    private, public = signer.new_key_pair()
    return {"public_key": [public]}, {"private_key": private}


def _sample(what: Occurrence) -> dict[str, Any]:
    number = int.from_bytes(sha256(f"{what.run}/{what.number}".encode()).digest()[:4], "big")
    word = next(word for word, kind in _WORDS.items() if kind is what.type)
    at = what.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    email = {
        "status": word.removeprefix("email."),
        "id": number,
        "domain_id": 1,
        "created_at": at,
        "updated_at": at,
        "from": what.sender,
        "to": what.recipient,
        "htmlbody": "<p>Autumn news</p>",
        "textbody": "Autumn news",
        "cc": None,
        "bcc": None,
        "subject": "Autumn news",
        "replyto": None,
        "message_id": f"<{number:08x}@mailer.mailpace.com>",
        "list_unsubscribe": None,
        "tags": ["newsletter"],
    }
    return {"event": word, "payload": email}


def _post(items: Sequence[Any], keys: Mapping[str, str], now: datetime) -> Sequence[Post]:  # noqa: ARG001 - no time
    return posts.one_by_one(items, lambda body: {_SIGNATURE: signer.sign(keys["private_key"], body)})


MailPace.simulation = Simulation(
    types=tuple(_WORDS.values()),
    demo=_demo,
    keys=lambda _: None,
    sample=_sample,
    post=_post,
    setup=(
        "app.mailpace.com: your domain > Webhooks. Add the endpoint {url} for the events queued, delivered, deferred, "
        "bounced and spam, and copy the key under Public Key Verification into `public_key`."
    ),
    unsignable=(
        "Only MailPace can sign with its key. Try `receiver simulate` on a source of its own with the key it makes, or "
        "list a second public key of your own: public_key = [MailPace's, yours]."
    ),
)

PROVIDER: Final[type[Provider]] = MailPace
