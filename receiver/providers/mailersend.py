"""MailerSend: activity of sent mail, in both versions of its payload.

Rests on (seen 2026-11, in the texts of client authors who cite it)
- "Webhooks", https://developers.mailersend.com/api/v1/account/webhooks.html: events, signature, the ping and its
  secret, the payload of version 2 with a sample; 2xx within 3 seconds, 4xx other than 429 never repeated
- version 1, which ends on 2026-12-01: what clients read of it

What the proof covers: every byte of the body, by an HMAC-SHA256 (hexadecimal) with the webhook's signing secret. It
covers no time, so an old request is accepted whenever it comes; its events are stored once. MailerSend puts a backslash
before each `/`, so that a body which was decoded and encoded again no longer fits.
The ping that MailerSend sends before it saves a webhook is signed with a secret that everybody can read in its
documentation. That secret proves the ping and nothing else: the ping is answered, and nothing of it is kept.

Status codes: 2xx is kept, 429 and 5xx are tried again for about three days, any other 4xx is final. So 503 stands for
a wrong signature, which is nearly always our own mistake, and for what a next attempt may bring whole.

Identity: `data.id` and the rest as written: word, message id, recipient, time, link, address, user agent. Of an open
or a click MailerSend sends a second event for the first one (`activity.opened_unique`), and it is the same open: so
there the word is taken without `_unique` and the id, of which no document says whether both share it, is left out. Not
hashed: what the message carries (subject, tags). Without a time or any id: the whole item.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, Final

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
    SourceSettings,
    UnreadableItem,
)
from receiver.credentials import BySecret
from receiver.errors import Refused, Unreadable
from receiver.event import BounceCategory, EventType, Reading, RejectReason
from receiver.payload import decode, event_object, first_text, integer, iso_time, item_of, mapping, strip, text, texts
from receiver.signatures import check_hex
from receiver.signers import hmacs as signer
from receiver.signers import posts

TEST_SECRET: Final = "test_Am3L1GuOIc4blLUuHqAPxxwkZaJyEk8G"  # noqa: S105  # published, for the ping alone
PING: Final = "webhook.test"
MAX_PING: Final = 4096  # bytes; the documented one has 130

_RIGHT: Final = "MailerSend: Domains, your domain, Webhooks, the webhook, Signing secret; each webhook has its own"


class MailerSendSettings(SourceSettings):
    """`signing_secret`: the webhook's, or several."""

    signing_secret: Secrets = Field([], description="signing secret(s), from the webhook's page")


# The top-level `type`: `data.type` is the mail's status, which is the same for an open and the first open.
WORDS: Final[Mapping[str, EventType]] = {
    "activity.sent": EventType.SENT,
    "activity.delivered": EventType.DELIVERED,
    "activity.soft_bounced": EventType.BOUNCED,
    "activity.hard_bounced": EventType.BOUNCED,
    "activity.deferred": EventType.DEFERRED,
    "activity.opened": EventType.OPENED,
    "activity.opened_unique": EventType.OPENED,
    "activity.clicked": EventType.CLICKED,
    "activity.clicked_unique": EventType.CLICKED,
    "activity.unsubscribed": EventType.UNSUBSCRIBED,
    "activity.spam_complaint": EventType.COMPLAINED,
    "activity.suppressed": EventType.REJECTED,
    "activity.survey_opened": EventType.UNKNOWN,
    "activity.survey_submitted": EventType.UNKNOWN,
    "sender_identity.verified": EventType.UNKNOWN,
    "maintenance.start": EventType.UNKNOWN,
    "maintenance.end": EventType.UNKNOWN,
    "inbound_forward.failed": EventType.UNKNOWN,
    "inbound_message.rejected": EventType.UNKNOWN,
    "email_single.verified": EventType.UNKNOWN,
    "email_list.verified": EventType.UNKNOWN,
    "bulk_email.completed": EventType.UNKNOWN,
    "recipient.on_hold_added": EventType.UNKNOWN,
    "recipient.on_hold_removed": EventType.UNKNOWN,
}
_VERDICTS: Final = {"activity.soft_bounced": BounceCategory.SOFT, "activity.hard_bounced": BounceCategory.HARD}
# The lists that hold an address back; what the event calls them is not documented, so a part of the name tells. After
# soft bounces an address is on hold for some days, and not dead.
_REJECTS: Final = {
    "soft": RejectReason.OTHER,
    "bounce": RejectReason.BOUNCED,
    "complaint": RejectReason.COMPLAINED,
    "unsubscribe": RejectReason.UNSUBSCRIBED,
}
_REASONS: Final = ("bounce_reason", "reject_reason", "suppression_reason", "unsubscribe_reason", "readable_reason")


class MailerSend(BySecret, Provider):
    """One source of MailerSend."""

    name = "mailersend"
    title = "MailerSend"
    basis = "verified"
    covers = "body"
    words = WORDS
    reply = Reply(
        repeated=lambda code: code == 429 or code >= 500,
        retries="429, 5xx and silence are repeated for about 3 days, then the webhook is paused; other 4xx are final.",
        refused=503,
        slow=503,
        too_large=503,
        bad_encoding=503,
        timeout=3.0,
    )
    Settings = MailerSendSettings
    right = _RIGHT
    published = (TEST_SECRET,)

    async def authenticate(self, delivery: Delivery) -> Authentic:
        if self._keys and _is_ping(delivery):
            return Authentic(answer=Answer(status=200))
        check_hex(delivery.headers, "signature", self._keys, delivery.body)
        return Authentic(payload=delivery.body)

    def parse(self, payload: bytes) -> Iterable[Item | UnreadableItem]:
        return (item_of(strip(payload)),)

    def read(self, item: Item) -> Sequence[Reading]:
        return [_event(event_object(item, "a MailerSend event"))]


def _is_ping(delivery: Delivery) -> bool:
    """Whether it is a ping, signed with the secret that everybody knows."""
    if len(delivery.body) > MAX_PING or PING.encode() not in delivery.body:
        return False
    try:
        check_hex(delivery.headers, "signature", [TEST_SECRET.encode()], delivery.body)
        value = decode(delivery.body)
    except (Refused, Unreadable):
        return False
    return isinstance(value, dict) and value.get("type") == PING


def _event(value: Mapping[str, Any]) -> Reading:
    word = text(value.get("type")) or ""
    kind = WORDS.get(word, EventType.UNKNOWN)
    data = mapping(value.get("data"))
    mail = mapping(data.get("email")) or data  # version 1 puts the mail into an object of its own
    details = mapping(data.get("meta")) or mapping(data.get("morph"))
    time = text(data.get("created_at")) or text(value.get("created_at"))
    recipient = text(mapping(mail.get("recipient")).get("email")) or first_text(mail, "recipient", "email")
    message_id = text(mapping(mail.get("message")).get("id")) or text(mail.get("message_id"))
    reason = first_text(details, *_REASONS) or text(details.get("reason"))
    engaged = kind in {EventType.OPENED, EventType.CLICKED}
    visit = [text(details.get(name)) for name in ("url", "ip", "user_agent")]
    activity = text(data.get("id"))
    identity = (
        word.removesuffix("_unique"),
        None if engaged else activity,
        message_id,
        recipient,
        time,
        *visit,
    )
    return Reading(
        type=kind,
        word=word,
        identity=identity if time and (activity or message_id) else None,
        occurred_at=iso_time(time),
        provider_event_id=activity,
        recipient=recipient,
        message_id=message_id,
        sender=text(mail.get("from")),
        verdict=_VERDICTS.get(word),
        smtp_code=integer(details.get("bounce_code"), low=200, high=599),
        diagnostic=reason,
        reject_reason=_reject_reason(reason or "") if kind is EventType.REJECTED else None,
        template_id=text(data.get("template_id")),
        tags=texts(mail.get("tags")),
        subject=text(mail.get("subject")),
        url=visit[0],
        client_ip=visit[1],
        user_agent=visit[2],
    )


def _reject_reason(reason: str) -> RejectReason:
    return next((meant for part, meant in _REJECTS.items() if part in reason.lower()), RejectReason.OTHER)


# The simulator's side: version 2.

_VISIT: Final = {"ip": "203.0.113.42", "user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Firefox/144.0"}
_OF_TYPE: Final[Mapping[EventType, tuple[str, Mapping[str, Any]]]] = {
    EventType.DELIVERED: ("delivered", {}),
    EventType.SENT: ("sent", {}),
    EventType.BOUNCED: ("hard_bounced", {"bounce_reason": "550 5.1.1 No such user here", "bounce_code": 550}),
    EventType.DEFERRED: ("deferred", {"bounce_reason": "451 4.7.1 Please try again later"}),
    EventType.OPENED: ("opened", _VISIT),
    EventType.CLICKED: ("clicked", {**_VISIT, "url": "https://example.com/welcome"}),
    EventType.UNSUBSCRIBED: ("unsubscribed", {}),
    EventType.COMPLAINED: ("spam_complaint", {}),
    EventType.REJECTED: ("suppressed", {"suppression_reason": "hard_bounce"}),
}


def _sample(what: Occurrence) -> dict[str, Any]:
    digest = sha256(f"{what.run}/{what.number}".encode()).hexdigest()
    word, meta = _OF_TYPE[what.type]
    return {
        "type": f"activity.{word}",
        "created_at": what.at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "data": {
            "id": digest[:24],
            "domain_id": "yv69oxl5kl785kw2",
            "message_id": digest[24:48],
            "email_id": digest[40:64],
            "type": word,
            "subject": "Welcome",
            "recipient": what.recipient,
            "tags": ["welcome"],
            "meta": dict(meta) or [],
        },
    }


def _post(items: Sequence[Any], keys: Mapping[str, str], _: datetime) -> Sequence[Post]:
    secret = keys["signing_secret"]
    return posts.one_by_one(items, lambda body: {"signature": signer.hexadecimal(secret, body)})


MailerSend.simulation = Simulation(
    types=tuple(_OF_TYPE),
    demo=signer.demo(),
    keys=signer.keys(),
    sample=_sample,
    post=_post,
    setup=(
        "1. MailerSend shows a webhook's signing secret only once the webhook is saved, and saves it only if its ping\n"
        "   is answered. So start with a value of your own in `signing_secret` (`openssl rand -hex 24`).\n"
        "2. MailerSend: Domains, your domain, Webhooks, Create webhook. URL: {url}. Version 2, all activity events.\n"
        "3. Put the Signing secret that is shown now into `signing_secret`, and restart the receiver."
    ),
)

PROVIDER: Final[type[Provider]] = MailerSend
