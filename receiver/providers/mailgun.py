"""Mailgun (Sinch): JSON webhooks, and the older form posts (legacy webhooks, forwarded messages).

Rests on (all seen 2026-11)
- "Securing webhooks" and "Webhook payloads",
  https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/webhook-payloads
- "Automatic retries", same place under webhook-retries: 200 is kept, 406 is final, anything else is tried
  again for 8 hours ("other than the delivery notification", which is not)
- "Event structure" and "Event types", https://documentation.mailgun.com/docs/mailgun/user-manual/events/events
- the form fields: https://github.com/mailgun/documentation, source/user_manual.rst, the sections "Tracking ..."

What the signature covers: HMAC-SHA256 over `timestamp` followed by `token`, both in the body, nothing else. The
event is not covered. Whoever gets hold of one signature can, within the window of 9 hours (a retry is posted
with its first timestamp and token), put any event beside it. So the identity is what was signed, alone: one
signature brings one event, whatever else it carries and however often it comes. What is left to a thief: to be
faster than Mailgun (the true event is then taken for a repetition), and to use it once at every other source
that has the same signing key. Basic credentials on top (`username`, `passwords`, in the webhook's URL) close
both; TLS must hold in any case.

Timestamp and token are signed without a separator, so the border between them can be moved and the signature
still fits. Therefore the identity is the joined text, the id's time is read from the start of the joined text,
and a timestamp that is not a plain number of seconds is never taken as fresh.

The price: `event-data.id` (unique only within a day) is not hashed, so an event that is posted to two webhooks
of one source, the domain's and the account's, has two tokens and is stored twice. Where the token is not at
hand (only the event is stored, without its signature): id, word, recipient and time.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Any, ClassVar, Final

import msgspec
from pydantic import Field

from receiver import payload as read_json
from receiver.contract import (
    Authentic,
    Covers,
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
    secret_problems,
)
from receiver.errors import Problem, Reason, Refused, Unreadable
from receiver.event import Actor, BounceCategory, EventType, Reading, RejectReason
from receiver.forms import fields_of, is_form
from receiver.payload import first_text, integer, mapping, sequence, text, texts, unix_time
from receiver.signatures import any_hmac, check_basic, check_time, wrong_key
from receiver.signers import in_body
from receiver.signers.credentials import basic

WINDOW: Final = 9 * 3600.0
SECONDS: Final = 10  # digits of a timestamp until the year 2286

_RIGHT_KEY: Final = (
    "It is the HTTP webhook signing key, not an API key: Mailgun's console, Send > Webhooks, or your account "
    "menu > API security; 32 hexadecimal digits"
)
_PUBLISHED: Final = ("key-3ax6xnjp29jd6fds4gc373sgvjxteol0", "YOUR_WEBHOOK_SIGNING_KEY", "YOUR_API_KEY")


class MailgunSettings(SourceSettings):
    """`signing_key`: also a parent account's, for webhooks of its subaccounts."""

    signing_key: Secrets = Field(default=[], description="HTTP webhook signing key(s)")
    username: str = Field("mailgun", description="user of additional Basic credentials in the webhook's URL")
    passwords: Secrets = Field(default=[], description="password(s) of additional Basic credentials")


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


class _Signature(msgspec.Struct):
    """Kept as JSON text: a number or a list must not end as another exception than Refused."""

    timestamp: msgspec.Raw = msgspec.Raw(b"")
    token: msgspec.Raw = msgspec.Raw(b"")
    signature: msgspec.Raw = msgspec.Raw(b"")
    parent_signature: msgspec.Raw = msgspec.field(name="parent-signature", default=msgspec.Raw(b""))


class _Body(msgspec.Struct):
    signature: _Signature = msgspec.field(default_factory=_Signature)
    event: msgspec.Raw = msgspec.field(name="event-data", default=msgspec.Raw(b""))
    status: msgspec.Raw = msgspec.field(name="delivery-status", default=msgspec.Raw(b""))


class _Claim(msgspec.Struct, frozen=True):
    """What a request says of itself, not proven yet. `event`: JSON text, or the fields of a form."""

    timestamp: str
    token: str
    signatures: tuple[str, ...]
    event: bytes | dict[str, Any]
    status: bytes = b""


class Mailgun:
    """One source of Mailgun."""

    name: ClassVar[str] = "mailgun"
    title: ClassVar[str] = "Mailgun"
    covers: ClassVar[Covers] = "token"
    words: ClassVar[Mapping[str, EventType]] = _WORDS
    # 401 is tried again. Never 406 for a refusal: it is final, and a wrong key is mostly our own mistake.
    reply: ClassVar[Reply] = Reply(stored=200, refused=401, again=503, max_body=4 << 20)
    simulation: ClassVar[Simulation]
    Settings: ClassVar[type[SourceSettings]] = MailgunSettings

    def __init__(self, settings: MailgunSettings, world: World) -> None:
        self._keys = [secret.get_secret_value().encode() for secret in settings.signing_key]
        self._username = settings.username
        self._passwords = [secret.get_secret_value() for secret in settings.passwords]
        self._tolerance = settings.tolerance or WINDOW
        self._now = world.now

    @staticmethod
    def problems(settings: MailgunSettings, key: str) -> Sequence[Problem]:
        where = f"{key}.signing_key"
        found = secret_problems(settings.signing_key, where, _RIGHT_KEY, published=_PUBLISHED)
        if settings.passwords:
            right = "At least 16 random characters, the same as in the webhook's URL"
            found += secret_problems(settings.passwords, f"{key}.passwords", right)
        return found

    async def authenticate(self, delivery: Delivery) -> Authentic:
        if self._passwords:
            check_basic(delivery.headers, self._username, self._passwords)
        claim = _claim(delivery)
        joined = claim.timestamp + claim.token
        if not any_hmac(self._keys, joined.encode(errors="surrogatepass"), _hexadecimal(claim.signatures)):
            raise wrong_key("signing keys")
        check_time(_seconds(claim.timestamp), self._now(), past=self._tolerance)
        if not claim.event:
            raise Unreadable("the body has no event-data")
        return Authentic(payload=claim)

    def parse(self, payload: _Claim) -> Iterable[Item | UnreadableItem]:
        joined = payload.timestamp + payload.token
        if isinstance(payload.event, dict):
            return [read_json.item_from_value(payload.event, event_id=joined)]
        return [_with_status(read_json.item_of(payload.event, event_id=joined), payload.status)]

    def read(self, item: Item) -> Sequence[Reading]:
        if not isinstance(item.value, dict):
            raise Unreadable("event-data is no JSON object")
        value = _from_form(item.value) if _is_form_item(item.value) else item.value
        return [_reading(value, item.event_id)]


def _seconds(timestamp: str) -> int:
    """Raises Refused, as authentic: the signature was right."""
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= SECONDS + 2):
        raise Refused(Reason.STALE, "the signed time is no number, so its age is unknown", authentic=True)
    return int(timestamp)


def _claim(delivery: Delivery) -> _Claim:
    """Raises Refused where the request carries no signature."""
    content_type = delivery.headers.get("content-type", "")
    try:
        if is_form(content_type):
            return _form_claim(fields_of(content_type, delivery.body))
        return _json_claim(read_json.strip(delivery.body))
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:  # no form, no JSON, no text
        raise Refused(Reason.MISSING_FIELD, f"the body has no readable signature: {error}") from error


def _json_claim(body: bytes) -> _Claim:
    try:
        parsed = _decode_body(body)
    except (msgspec.MsgspecError, RecursionError):  # such as NaN, or far too deep: quarantine, if signed
        parsed = _decode_member_by_member(body)
    block = parsed.signature
    given = (_plain(block.signature), _plain(block.parent_signature))
    return _Claim(_plain(block.timestamp), _plain(block.token), given, bytes(parsed.event), bytes(parsed.status))


_decode_body: Final = msgspec.json.Decoder(_Body).decode
_decode_signature: Final = msgspec.json.Decoder(_Signature).decode
_decode_text: Final = msgspec.json.Decoder(str).decode


def _decode_member_by_member(body: bytes) -> _Body:
    """The same for a body that is JSON only in part: cut at its brackets and strings, whatever the event holds."""
    members = {}
    for member in read_json.split_array(body.decode(errors="surrogateescape")):
        key, _, value = member.partition(":")
        members[key.strip()] = value.strip().encode(errors="surrogateescape")
    signature = _decode_signature(members.get('"signature"', b"{}"))
    return _Body(signature, msgspec.Raw(members.get('"event-data"', b"")))


def _plain(raw: msgspec.Raw) -> str:
    """The text of a string; a number as it is written. Raises ValueError for broken escapes."""
    found = bytes(raw)
    return _decode_text(found) if found.startswith(b'"') else found.decode()


def _with_status(item: Item | UnreadableItem, status: bytes) -> Item | UnreadableItem:
    """The item; a `delivery-status` that stood beside the event is put where it belongs."""
    if not status.startswith(b"{") or isinstance(item, UnreadableItem) or not isinstance(item.value, dict):
        return item
    if isinstance(item.value.get("delivery-status"), dict) or not item.value:
        return item
    spliced = item.text.rstrip()[:-1].encode() + b',"delivery-status":' + status + b"}"
    return read_json.item_of(spliced, event_id=item.event_id)


def _form_claim(fields: Sequence[tuple[str, str]]) -> _Claim:
    """A form's signature fields are its last of that name (users' variables come before), its own the first."""
    values: dict[str, list[str]] = {}
    for name, value in fields:
        values.setdefault(name, []).append(value)
    timestamp = values.get("timestamp", [""])[-1]
    token = _take_last(values, "token")
    signature = _take_last(values, "signature")
    event = {name: found[0] if len(found) == 1 else found for name, found in values.items()}
    return _Claim(timestamp, token, (signature,), event)


def _take_last(values: dict[str, list[str]], name: str) -> str:
    found = values.get(name, [])
    last = found.pop() if found else ""
    if not found:
        values.pop(name, None)
    return last


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
    message_id = (text(headers.get("message-id")) or "").strip("<> ") or None
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


# The older form posts.

_DOCUMENTED: Final = """
event recipient domain message-headers Message-Id message-id timestamp token signature code error reason
description notification severity campaign-id campaign-name tag mailing-list ip country region city user-agent
device-type client-type client-name client-os bot url sender from subject body-plain body-html stripped-text
stripped-html stripped-signature content-id-map attachment-count attachments message-url body-mime
X-Mailgun-Sid X-Mailgun-Tag X-Mailgun-Variables
"""
_FORM_FIELDS: Final = frozenset(_DOCUMENTED.split())


def _is_form_item(value: Mapping[str, Any]) -> bool:
    """In JSON the message is an object, and the time a number."""
    return isinstance(value.get("timestamp"), (str, list)) and not isinstance(value.get("message"), dict)


def _from_form(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a form post in the shape of `event-data`; of a repeated field the first value is Mailgun's."""
    first = {name: found[0] if isinstance(found, list) and found else found for name, found in fields.items()}
    get = first.get
    headers = _form_headers(get("message-headers"))
    message_id = get("Message-Id") or get("message-id") or headers.get("message-id")
    campaign = {"id": get("campaign-id"), "name": get("campaign-name")}
    return {
        "event": get("event"),
        "severity": get("severity"),
        "reason": get("reason"),
        "timestamp": get("timestamp"),
        "recipient": get("recipient"),
        "ip": get("ip"),
        "url": get("url"),
        "tags": fields.get("tag") or fields.get("X-Mailgun-Tag"),
        "message": {"headers": headers | {"message-id": message_id}},
        "delivery-status": {"code": get("code"), "message": get("error"), "description": get("description")},
        "envelope": {"sender": get("sender") or headers.get("sender")},
        "client-info": {"user-agent": get("user-agent"), "bot": get("bot")},
        "geolocation": {"country": get("country")},
        "campaigns": [campaign],
        "mailing-list": {"address": get("mailing-list")},
        # A forwarded message has no variables; all its headers are fields.
        "user-variables": {name: first[name] for name in first if "event" in first and _is_variable(name)},
        **{name: first[name] for name in ("body-plain", "message-url") if name in first},
    }


def _is_variable(name: str) -> bool:
    return name not in _FORM_FIELDS and not name.startswith("attachment-")


def _form_headers(value: object) -> dict[str, Any]:
    """The message's headers, lower-case names, from JSON text `[[name, value], ...]`."""
    if not isinstance(value, str):
        return {}
    try:
        pairs = msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return {}
    found = {}
    for pair in sequence(pairs):
        if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str):
            found[pair[0].lower()] = pair[1]
    return found


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
    keys = {"signing_key": settings.signing_key[0].get_secret_value()}
    if settings.passwords:
        keys |= {"username": settings.username, "password": settings.passwords[0].get_secret_value()}
    return keys


def _post(items: Sequence[Any], keys: Mapping[str, str], now: datetime) -> Sequence[Post]:
    headers = {"Content-Type": "application/json", "User-Agent": "mailgun/treq-0.0.0"}
    if "password" in keys:
        headers["Authorization"] = basic(keys["username"], keys["password"])
    signed_at = int(now.timestamp())
    posts = []
    for item in items:
        body = {"signature": in_body.mailgun(keys["signing_key"], signed_at), "event-data": item}
        posts.append(Post(headers=headers, body=json.dumps(body).encode()))
    return posts


Mailgun.simulation = Simulation(
    types=tuple(_OF_TYPE),
    demo=_demo,
    keys=_keys,
    sample=_sample,
    post=_post,
    setup=(
        "Mailgun console: Send > Webhooks (of the domain or the whole account, not both), Add webhook, once for "
        "each event type. URL: {url}. Copy the HTTP webhook signing key shown there into `signing_key`."
    ),
)

PROVIDER: Final[type[Provider]] = Mailgun
