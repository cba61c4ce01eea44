"""Mailgun's two body formats, JSON and form, as one claim and one shape of event.

What is read before the signature is verified is as little as it needs: of JSON the block `signature`, with the event
left as text; of a form the fields, which cannot be told apart otherwise. The documents are named in
`receiver/providers/mailgun.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from receiver.contract import Delivery
from receiver.errors import Reason, Refused, Unreadable
from receiver.forms import fields_of, is_form
from receiver.payload import decode, sequence, split_array, strip


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
    """What a request says of itself, not proven yet. `event`: JSON text, or the fields of a form."""

    timestamp: str
    token: str
    signatures: tuple[str, ...]
    event: bytes | dict[str, Any]
    status: bytes = b""


def claim_of(delivery: Delivery) -> Claim:
    """Raises Refused where the request carries no signature."""
    content_type = delivery.headers.get("content-type", "")
    try:
        if is_form(content_type):
            return _form_claim(fields_of(content_type, delivery.body))
        return _json_claim(strip(delivery.body))
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:  # no form, no JSON, no text
        raise Refused(Reason.MISSING_FIELD, f"the body has no readable signature: {error}") from error


def _json_claim(body: bytes) -> Claim:
    try:
        parsed = _decode_body(body)
    except (msgspec.MsgspecError, RecursionError):  # such as NaN, or far too deep: quarantine, if signed
        parsed = _decode_member_by_member(body)
    block = parsed.signature
    given = (_plain(block.signature), _plain(block.parent_signature))
    return Claim(_plain(block.timestamp), _plain(block.token), given, bytes(parsed.event), bytes(parsed.status))


_decode_body: Final = msgspec.json.Decoder(_Body).decode
_decode_signature: Final = msgspec.json.Decoder(_Signature).decode
_decode_text: Final = msgspec.json.Decoder(str).decode


def _decode_member_by_member(body: bytes) -> _Body:
    """The same for a body that is JSON only in part: cut at its brackets and strings, whatever the event holds."""
    members = {}
    for member in split_array(body.decode(errors="surrogateescape")):
        key, _, value = member.partition(":")
        members[key.strip()] = value.strip().encode(errors="surrogateescape")
    signature = _decode_signature(members.get('"signature"', b"{}"))
    return _Body(signature, msgspec.Raw(members.get('"event-data"', b"")))


def _plain(raw: msgspec.Raw) -> str:
    """The text of a string; a number as it is written. Raises ValueError for broken escapes."""
    found = bytes(raw)
    return _decode_text(found) if found.startswith(b'"') else found.decode()


def _form_claim(fields: Sequence[tuple[str, str]]) -> Claim:
    """A form's signature fields are its last of that name (users' variables come before), its own the first."""
    values: dict[str, list[str]] = {}
    for name, value in fields:
        values.setdefault(name, []).append(value)
    timestamp = values.get("timestamp", [""])[-1]
    token = _take_last(values, "token")
    signature = _take_last(values, "signature")
    event = {name: found[0] if len(found) == 1 else found for name, found in values.items()}
    return Claim(timestamp, token, (signature,), event)


def _take_last(values: dict[str, list[str]], name: str) -> str:
    found = values.get(name, [])
    last = found.pop() if found else ""
    if not found:
        values.pop(name, None)
    return last


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
    try:
        pairs = decode(value.encode())
    except Unreadable:
        return {}
    found = {}
    for pair in sequence(pairs):
        if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str):
            found[pair[0].lower()] = pair[1]
    return found
