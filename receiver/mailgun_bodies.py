"""Mailgun's two body formats, JSON and form, as one claim and one shape of event.

What is read before the signature is verified is as little as it needs, and costs the body's length once: of JSON the
block `signature`, with the event left as text; of a form the three signature fields. A body that is JSON only in part
is searched in Python, so only so far. As the signature covers nothing of the body, that holds for what is read
after it too: whoever has one signature can put it on anything. The documents are named in
`receiver/providers/mailgun.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from receiver.contract import Delivery, Item, UnreadableItem
from receiver.errors import Reason, Refused, Unreadable
from receiver.forms import MAX_SHORT, fields_of, is_form, last_fields
from receiver.payload import item_from_value, item_of, sequence, split_array, strip

MAX_ODD: Final = 64 * 1024  # bytes of a body or an event that are read though they are not JSON by the letter


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


class Claim(msgspec.Struct, frozen=True):
    """What a request says of itself, not proven yet.

    `form`: the content type of a form, whose event is its `body`. `event`, `status`: JSON text; the event is None
    where a JSON body cannot be taken apart.
    """

    timestamp: str
    token: str
    signatures: tuple[str, ...]
    body: bytes
    form: str = ""
    event: bytes | None = None
    status: bytes = b""

    @property
    def signed(self) -> str:
        """What the signature covers."""
        return self.timestamp + self.token


def claim_of(delivery: Delivery) -> Claim:
    """Raises Refused where the request carries no signature."""
    content_type = delivery.headers.get("content-type", "")
    try:
        if is_form(content_type):
            return _form_claim(content_type, delivery.body)
        return _json_claim(strip(delivery.body))
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:  # no form, no JSON, no text
        raise Refused(Reason.MISSING_FIELD, f"the body has no readable signature: {error}") from error


def event_of(claim: Claim) -> Item | UnreadableItem:
    """The one item of a proven claim. Raises Unreadable where it has no event."""
    if claim.form:
        return item_from_value(_form_event(fields_of(claim.form, claim.body)), event_id=claim.signed)
    if claim.event is None:
        return UnreadableItem(body=claim.body, why=f"not JSON, and more than {MAX_ODD} bytes")
    if not claim.event:
        raise Unreadable("the body has no event-data")
    return _with_status(item_of(claim.event, event_id=claim.signed, repair=MAX_ODD), claim.status)


def _with_status(item: Item | UnreadableItem, status: bytes) -> Item | UnreadableItem:
    """The item; a `delivery-status` that stood beside the event is put where it belongs."""
    if not status.startswith(b"{") or isinstance(item, UnreadableItem) or not isinstance(item.value, dict):
        return item
    if isinstance(item.value.get("delivery-status"), dict) or not item.value:
        return item
    spliced = item.text.rstrip()[:-1].encode() + b',"delivery-status":' + status + b"}"
    return item_of(spliced, event_id=item.event_id, repair=MAX_ODD)


def _json_claim(body: bytes) -> Claim:
    try:
        parsed = _decode_body(body)
    except (msgspec.MsgspecError, RecursionError):  # such as NaN, or far too deep: quarantine, if signed
        return _odd_claim(body)
    return _claim(parsed.signature, body, bytes(parsed.event), bytes(parsed.status))


_decode_body: Final = msgspec.json.Decoder(_Body).decode
_decode_signature: Final = msgspec.json.Decoder(_Signature).decode
_decode_text: Final = msgspec.json.Decoder(str).decode


def _odd_claim(body: bytes) -> Claim:
    """The same for a body that is JSON only in part: cut at its brackets and strings, whatever the event holds."""
    members = {}
    for member in split_array(body[:MAX_ODD].decode(errors="surrogateescape")):
        key, _, value = member.partition(":")
        members[key.strip()] = value.strip().encode(errors="surrogateescape")
    whole = len(body) <= MAX_ODD
    event = members.get('"event-data"', b"") if whole else None
    return _claim(_decode_signature(members.get('"signature"', b"{}")), body, event)


def _claim(block: _Signature, body: bytes, event: bytes | None, status: bytes = b"") -> Claim:
    given = (_plain(block.signature), _plain(block.parent_signature))
    return Claim(_plain(block.timestamp), _plain(block.token), given, body, event=event, status=status)


def _plain(raw: msgspec.Raw) -> str:
    """The text of a string; a number as it is written. Raises ValueError for broken escapes."""
    found = bytes(raw)
    if len(found) > MAX_SHORT:
        raise ValueError(f"a field of the signature has more than {MAX_SHORT} bytes")
    return _decode_text(found) if found.startswith(b'"') else found.decode()


_SIGNATURE_FIELDS: Final = ("timestamp", "token", "signature")


def _form_claim(content_type: str, body: bytes) -> Claim:
    """A form's signature fields are its last of that name: users' variables come before."""
    last = last_fields(content_type, body, _SIGNATURE_FIELDS)
    timestamp, token, signature = (last.get(name, "") for name in _SIGNATURE_FIELDS)
    return Claim(timestamp, token, (signature,), body, form=content_type)


def _form_event(fields: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """All fields but the signature's own; those of a repeated name as a list."""
    values: dict[str, list[str]] = {}
    for name, value in fields:
        values.setdefault(name, []).append(value)
    for name in ("token", "signature"):
        if len(values.get(name, ())) > 1:
            values[name].pop()
        else:
            values.pop(name, None)
    return {name: found[0] if len(found) == 1 else found for name, found in values.items()}


# The events of form posts.

_DOCUMENTED: Final = """
event recipient domain message-headers Message-Id message-id timestamp token signature code error reason
description notification severity campaign-id campaign-name tag mailing-list ip country region city user-agent
device-type client-type client-name client-os bot url sender from subject body-plain body-html stripped-text
stripped-html stripped-signature content-id-map attachment-count attachments message-url body-mime
X-Mailgun-Sid X-Mailgun-Tag X-Mailgun-Variables
"""
_FORM_FIELDS: Final = frozenset(_DOCUMENTED.split())


def is_form_event(value: Mapping[str, Any]) -> bool:
    """In JSON the message is an object, and the time a number."""
    return isinstance(value.get("timestamp"), (str, list)) and not isinstance(value.get("message"), dict)


def from_form(fields: Mapping[str, Any]) -> dict[str, Any]:
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
    item = item_of(value.encode(errors="replace"), repair=MAX_ODD)
    if isinstance(item, UnreadableItem):
        return {}
    found = {}
    for pair in sequence(item.value):
        if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str):
            found[pair[0].lower()] = pair[1]
    return found
