"""Mailgun (Sinch): JSON webhooks, and the older form posts (legacy webhooks, forwarded messages).

Rests on (all seen 2026-11)
- "Securing webhooks" and "Webhook payloads",
  https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/webhook-payloads
- "Automatic retries", same place under webhook-retries: 200 is kept, 406 is final, anything else is tried
  again for 8 hours ("other than the delivery notification", which is not): see "Status codes"
- "Event structure" and "Event types", https://documentation.mailgun.com/docs/mailgun/user-manual/events/events
- the form fields: https://github.com/mailgun/documentation, source/user_manual.rst, the sections "Tracking ..."

What the signature covers: HMAC-SHA256 over `timestamp` followed by `token`, both in the body, nothing else. The
event is not covered. Whoever gets hold of one signature can, within the window of 9 hours (a retry is posted
with its first timestamp and token), put any event beside it. So the identity is what was signed, alone: one
signature brings one event, whatever else it carries and however often it comes. What is left to a thief: to be
faster than Mailgun (the true event is then taken for a repetition), and to use it once at every other source
that has the same signing key. Basic credentials on top (`username`, `password`, in the webhook's URL) close
both; TLS must hold in any case.

Timestamp and token are signed without a separator, so the border between them can be moved and the signature
still fits. Therefore the identity is the joined text, the id's time is read from the start of the joined text,
and a timestamp that is not a plain number of seconds is never taken as fresh.

Status codes: 200 is kept; 406 is final, and so never ours; every other code, 4xx as well, is tried again. A refusal
is 401, tried again, because a wrong key is mostly our own mistake.

The price of an identity from the token: `event-data.id` (unique only within a day) is not hashed, so an event
that is posted to two webhooks of one source, the domain's and the account's, has two tokens and is stored twice.
Where the token is not at hand (only the event is stored, without its signature): id, word, recipient and time.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
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
from receiver.credentials import Credentials, CredentialSettings, credential_problems
from receiver.errors import Problem, Reason, Refused, Unreadable
from receiver.event import Actor, BounceCategory, EventType, Reading, RejectReason
from receiver.mailgun_bodies import Claim, claim_of, event_of, from_form, is_form_event
from receiver.payload import bare_id, first_text, integer, mapping, sequence, text, texts, unix_time
from receiver.signatures import any_hmac, check_time, wrong_key
from receiver.signers import credentials, in_body, posts

WINDOW: Final = 9 * 3600.0
SECONDS: Final = 10  # digits of a timestamp until the year 2286

_RIGHT_KEY: Final = (
    "It is the HTTP webhook signing key, not an API key: Mailgun's console, Send > Webhooks, or your account "
    "menu > API security; 32 hexadecimal digits"
)
_PUBLISHED: Final = ("key-3ax6xnjp29jd6fds4gc373sgvjxteol0", "YOUR_WEBHOOK_SIGNING_KEY", "YOUR_API_KEY")


class MailgunSettings(CredentialSettings):
    """`signing_key`: also a parent account's, for webhooks of its subaccounts."""

    signing_key: Secrets = Field(default=[], description="HTTP webhook signing key(s)")
    username: str = Field("mailgun", description="user of additional Basic credentials in the webhook's URL")


# The event's name, for `failed` followed by its severity. `bounced` and `dropped` are the form posts' words.
_WORDS: Final[Mapping[str, EventType]] = {
    "accepted": EventType.QUEUED,
    "rejected": EventType.REJECTED,
    "delivered": EventType.DELIVERED,
    "failed:temporary": EventType.DEFERRED,
    "failed:permanent": EventType.BOUNCED,
    "bounced": EventType.BOUNCED,
    "dropped": EventType.BOUNCED,
    "opened": EventType.OPENED,
    "clicked": EventType.CLICKED,
    "unsubscribed": EventType.UNSUBSCRIBED,
    "complained": EventType.COMPLAINED,
    "stored": EventType.INBOUND,
    "inbound": EventType.INBOUND,  # ours, for a forwarded message, which has no `event`
    "list_member_uploaded": EventType.UNKNOWN,
    "list_member_upload_error": EventType.UNKNOWN,
    "list_uploaded": EventType.UNKNOWN,
}
# A permanent failure that Mailgun never tried, by reason and by its own codes, which are no SMTP codes.
_HELD_REASONS: Final[Mapping[str, RejectReason]] = {
    "suppress-bounce": RejectReason.BOUNCED,
    "suppress-complaint": RejectReason.COMPLAINED,
    "suppress-unsubscribe": RejectReason.UNSUBSCRIBED,
}
_HELD_CODES: Final[Mapping[int, RejectReason]] = {
    605: RejectReason.BOUNCED,
    606: RejectReason.UNSUBSCRIBED,
    607: RejectReason.COMPLAINED,
    625: RejectReason.POLICY,
}
# `old`: tried until it was too old. `generic`: Mailgun could not tell.
_VERDICTS: Final[Mapping[str, BounceCategory]] = {
    "bounce": BounceCategory.HARD,
    "hardfail": BounceCategory.HARD,
    "old": BounceCategory.SOFT,
    "greylisted": BounceCategory.SOFT,
    "espblock": BounceCategory.BLOCK,
    "blacklisted": BounceCategory.BLOCK,
}
_PEOPLE: Final = frozenset({"opened", "clicked", "unsubscribed", "complained"})


class Mailgun(Provider):
    """One source of Mailgun."""

    name = "mailgun"
    title = "Mailgun"
    basis = "verified"
    covers = "token"
    words = _WORDS
    reply = Reply(
        repeated=lambda code: code not in {200, 406},
        retries="Any answer but 200 and 406 is repeated for 8 hours; a `delivered` event is posted once.",
        stored=200,
        refused=401,
        again=503,
        max_body=4 << 20,
    )
    Settings = MailgunSettings

    def __init__(self, settings: MailgunSettings, world: World) -> None:
        self._keys = secret_bytes(settings.signing_key)
        self._credentials = Credentials(settings)
        self._tolerance = settings.tolerance or WINDOW
        self._now = world.now

    @staticmethod
    def problems(settings: MailgunSettings, key: str) -> Sequence[Problem]:
        where = f"{key}.signing_key"
        found = secret_problems(settings.signing_key, where, _RIGHT_KEY, published=_PUBLISHED)
        right = "At least 16 random characters, the same as in the webhook's URL"
        return [*found, *credential_problems(settings, key, right, required=False)]

    async def authenticate(self, delivery: Delivery) -> Authentic:
        self._credentials.check(delivery)
        claim = claim_of(delivery)
        proof = claim.signed.encode(errors="surrogatepass")
        if not any_hmac(self._keys, proof, _hexadecimal(claim.signatures)):
            raise wrong_key("signing keys")
        check_time(_seconds(claim.timestamp, proof), self._now(), past=self._tolerance, proof=proof)
        return Authentic(payload=claim, proof=proof)

    def parse(self, payload: Claim) -> Iterable[Item | UnreadableItem]:
        return [event_of(payload)]

    def read(self, item: Item) -> Sequence[Reading]:
        if not isinstance(item.value, dict):
            raise Unreadable("event-data is no JSON object")
        value = from_form(item.value) if is_form_event(item.value) else item.value
        return [_reading(value, item.event_id)]


def _seconds(timestamp: str, proof: bytes) -> int:
    """Raises Refused, as authentic: the signature was right."""
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= SECONDS + 2):
        raise Refused(Reason.STALE, "the signed time is no number, so its age is unknown", authentic=True, proof=proof)
    return int(timestamp)


def _hexadecimal(signatures: Iterable[str]) -> list[bytes]:
    """The bytes of each signature that is hexadecimal text. Raises Refused when none is."""
    found = [value for signature in signatures if (value := _from_hex(signature))]
    if not found:
        raise Refused(Reason.MISSING_FIELD, "the body has no signature, or one that is not hexadecimal")
    return found


def _from_hex(value: str) -> bytes | None:
    try:
        return bytes.fromhex(value)
    except ValueError:
        return None


def _reading(value: Mapping[str, Any], signed: str | None) -> Reading:
    get = value.get
    event = text(get("event"))
    word = _word(event, value)
    status = _status(value)
    reject_reason = _reject_reason(word, value, status)
    type_ = EventType.REJECTED if reject_reason else _WORDS.get(word, EventType.UNKNOWN)
    headers = mapping(mapping(get("message")).get("headers"))
    client = mapping(get("client-info"))
    envelope = mapping(get("envelope"))
    message_id = bare_id(headers.get("message-id"))
    people = event in _PEOPLE
    return Reading(
        type=type_,
        word=word,
        identity=_identity(value, word, signed),
        identity_time=_signed_time(signed),
        occurred_at=unix_time(get("timestamp")),
        provider_event_id=text(get("id")),
        recipient=text(get("recipient")) or text(mapping(get("member")).get("address")),
        message_id=message_id,
        internet_message_id=message_id,
        sender=text(envelope.get("sender")),
        verdict=_verdict(value, status) if type_ is EventType.BOUNCED else None,
        smtp_code=integer(status.get("code"), low=200, high=599),
        enhanced_code=first_text(status, "enhanced-code", "bounce-code"),
        diagnostic=first_text(status, "message", "description") or text(mapping(get("reject")).get("reason")),
        reject_reason=reject_reason,
        actor=_actor(client),
        sending_ip=text(envelope.get("sending-ip")),
        ip_pool=text(envelope.get("i-ip-pool-id")),
        remote_mta=text(status.get("mx-host")),
        topic=text(mapping(get("mailing-list")).get("address")),
        campaign=_campaign(get("campaigns")),
        template_id=text(mapping(get("template")).get("name")),
        attempt=integer(status.get("attempt-no")),
        tags=texts(get("tags")),
        metadata=mapping(get("user-variables")) or None,
        subject=text(headers.get("subject")),
        url=text(get("url")),
        user_agent=text(client.get("user-agent")),
        client_ip=text(get("ip")) if people else None,
        country=_country(mapping(get("geolocation")).get("country")),
        is_test=mapping(get("flags")).get("is-test-mode") is True,
    )


def _word(event: str | None, value: Mapping[str, Any]) -> str:
    if event == "failed":
        return f"failed:{text(value.get('severity')) or 'permanent'}"
    return event or ("inbound" if "body-plain" in value or "message-url" in value else "")


def _status(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """`delivery-status`; it can be null, and its fields were seen beside it."""
    status = value.get("delivery-status")
    return status if isinstance(status, dict) else value


def _reject_reason(word: str, value: Mapping[str, Any], status: Mapping[str, Any]) -> RejectReason | None:
    if word == "rejected":
        return RejectReason.OTHER
    if _WORDS.get(word) is not EventType.BOUNCED:
        return None
    held = _HELD_REASONS.get(text(value.get("reason")) or "")
    return held or _HELD_CODES.get(integer(status.get("code")) or 0)


def _verdict(value: Mapping[str, Any], status: Mapping[str, Any]) -> BounceCategory:
    found = _VERDICTS.get(text(value.get("reason")) or "")
    if found is None:
        hard = value.get("event") == "bounced" or status.get("bounce-type") == "hard"
        found = BounceCategory.HARD if hard else BounceCategory.UNDETERMINED
    return found


def _identity(value: Mapping[str, Any], word: str, signed: str | None) -> Sequence[str | None] | None:
    if signed is not None:
        return ("signed", signed)
    time = text(value.get("timestamp"))
    return (text(value.get("id")), word, text(value.get("recipient")), time) if time else None


def _signed_time(signed: str | None) -> datetime | None:
    """The time of the joined text, wherever somebody has put the border between timestamp and token."""
    start = signed[:SECONDS] if signed else ""
    return datetime.fromtimestamp(int(start), UTC) if start.isascii() and start.isdigit() else None


def _actor(client: Mapping[str, Any]) -> Actor | None:
    """`bot` is "apple", "gmail", "generic" or empty; a new word would be a new kind of machine."""
    bot = client.get("bot")
    return Actor.MACHINE if isinstance(bot, str) and bot else None


def _country(value: object) -> str | None:
    found = text(value)
    return None if found is None or found.lower() == "unknown" else found


def _campaign(value: object) -> str | None:
    return first_text(mapping(next(iter(sequence(value)), None)), "id", "name")


# The simulator's side.

_BROWSER: Final = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"
)
_OF_TYPE: Final[Mapping[EventType, str]] = {
    EventType.QUEUED: "accepted",
    EventType.DELIVERED: "delivered",
    EventType.DEFERRED: "failed",
    EventType.BOUNCED: "failed",
    EventType.REJECTED: "failed",
    EventType.OPENED: "opened",
    EventType.CLICKED: "clicked",
    EventType.COMPLAINED: "complained",
    EventType.UNSUBSCRIBED: "unsubscribed",
    EventType.INBOUND: "stored",
}
# (severity, reason, code, enhanced code, text)
_FAILURES: Final[Mapping[EventType, tuple[str, str, int, str, str]]] = {
    EventType.BOUNCED: ("permanent", "bounce", 550, "5.1.1", "5.1.1 The email account does not exist"),
    EventType.DEFERRED: ("temporary", "generic", 451, "4.7.1", "4.7.1 Greylisted, please try again later"),
    EventType.REJECTED: ("permanent", "suppress-bounce", 605, "", "Not delivering to previously bounced address"),
}


def _sample(what: Occurrence) -> dict[str, Any]:
    digest = sha256(f"{what.run}/{what.number}".encode()).digest()
    domain = what.recipient.rpartition("@")[2]
    headers = {
        "message-id": f"{what.at:%Y%m%d%H%M%S}.{digest[:8].hex()}@{what.sender.rpartition('@')[2]}",
        "from": what.sender,
        "to": what.recipient,
        "subject": "Welcome",
    }
    return {
        "event": _OF_TYPE[what.type],
        "id": urlsafe_b64encode(digest[8:24]).decode().rstrip("="),
        "timestamp": what.at.timestamp(),
        "log-level": {EventType.DEFERRED: "warn", EventType.BOUNCED: "error"}.get(what.type, "info"),
        "account": {"id": "1234567890303a4bd1f33898"},
        "domain": {"name": what.sender.rpartition("@")[2]},
        "recipient": what.recipient,
        "recipient-domain": domain,
        "message": {"headers": headers, "size": 1024, "attachments": []},
        "flags": {"is-test-mode": False, "is-routed": False, "is-authenticated": True, "is-system-test": False},
        "tags": ["welcome"],
        "campaigns": [],
        "user-variables": {"run": what.run, "number": what.number},
    } | _particulars(what)


def _particulars(what: Occurrence) -> dict[str, Any]:
    """The fields that only this kind of event has."""
    if what.type in _FAILURES:
        severity, reason, code, enhanced, words = _FAILURES[what.type]
        return {"severity": severity, "reason": reason} | _attempt_sample(what, code, enhanced, words)
    if what.type is EventType.DELIVERED:
        return _attempt_sample(what, 250, "", "OK")
    if what.type is EventType.INBOUND:
        return {"storage": {"key": "AwABB", "url": "https://storage.example.net/v3/messages/AwABB"}}
    if what.type is EventType.QUEUED:
        return {"method": "HTTP", "envelope": {"sender": what.sender, "transport": "smtp"}}
    client = {"client-type": "browser", "client-os": "Linux", "client-name": "Chrome", "bot": ""}
    link = {"url": "https://example.com/welcome"} if what.type is EventType.CLICKED else {}
    return link | {
        "ip": "203.0.113.42",
        "geolocation": {"country": "DE", "region": "BE", "city": "Berlin"},
        "client-info": client | {"device-type": "desktop", "user-agent": _BROWSER},
    }


def _attempt_sample(what: Occurrence, code: int, enhanced: str, words: str) -> dict[str, Any]:
    envelope = {"sender": what.sender, "targets": what.recipient, "transport": "smtp", "sending-ip": "192.0.2.25"}
    status = {"code": code, "enhanced-code": enhanced, "message": words, "description": "", "attempt-no": 1}
    server = {"mx-host": f"mx.{what.recipient.rpartition('@')[2]}", "session-seconds": 0.4, "tls": True}
    return {"envelope": envelope, "delivery-status": status | server}


def _demo(_: Path) -> tuple[dict[str, Any], dict[str, str]]:
    key = token_hex(16)
    return {"signing_key": key}, {"signing_key": key}


def _keys(settings: MailgunSettings) -> Mapping[str, str]:
    return {"signing_key": settings.signing_key[0].get_secret_value(), **credentials.keys(settings)}


def _post(items: Sequence[Any], keys: Mapping[str, str], now: datetime) -> Sequence[Post]:
    headers = {"user-agent": "mailgun/treq-0.0.0", **credentials.headers(keys)}
    signed_at = int(now.timestamp())
    bodies = [{"signature": in_body.mailgun(keys["signing_key"], signed_at), "event-data": item} for item in items]
    return posts.one_by_one(bodies, lambda _: headers, query=credentials.query(keys))


Mailgun.simulation = Simulation(
    types=tuple(_OF_TYPE),
    demo=_demo,
    keys=_keys,
    sample=_sample,
    post=_post,
    setup=(
        "1. Mailgun console: Send > Webhooks (of the domain or the whole account, not both), Add webhook, once for\n"
        "   each event type. URL: {url}.\n"
        "2. Copy the HTTP webhook signing key shown there into `signing_key`."
    ),
)

PROVIDER: Final[type[Provider]] = Mailgun
