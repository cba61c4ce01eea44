"""Posts as a sender makes them whose format and signature are told by settings.

Written from what the settings mean, and apart from what reads them.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import msgspec

from receiver.contract import Post
from receiver.signers import credentials, hmacs, standard_webhooks


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """`batch`: events in one request; more than one makes a list. The others: as in the settings."""

    format: str = "json"
    events: str = ""
    batch: int = 1
    add: Mapping[str, str] = field(default_factory=dict)
    signature: Mapping[str, str | None] = field(default_factory=dict)


def posts(shape: Shape, items: Sequence[Any], keys: Mapping[str, str], now: datetime) -> list[Post]:
    """The requests that carry the items. `keys`: credentials, and `signing_secret` where the sender signs."""
    batches = [items[start : start + shape.batch] for start in range(0, len(items), shape.batch)]
    return [_post(shape, batch, keys, int(now.timestamp())) for batch in batches]


def _post(shape: Shape, batch: Sequence[Any], keys: Mapping[str, str], now: int) -> Post:
    added = _added(shape, batch)
    body, content_type = _body(shape, [_without(item, shape.add) for item in batch], added)
    signed = _signature(shape.signature, keys["signing_secret"], now, body) if "signing_secret" in keys else {}
    extra = {place.partition(".")[2]: value for place, value in added.items() if place.startswith("header.")}
    asked = {place.partition(".")[2]: value for place, value in added.items() if place.startswith("query.")}
    return Post(
        headers={"content-type": content_type, **extra, **credentials.headers(keys), **signed},
        body=body,
        query="&".join(filter(None, (credentials.query(keys), urlencode(asked)))),
    )


def _added(shape: Shape, batch: Sequence[Any]) -> dict[str, Any]:
    """What stands beside the events, by place; all events of a request share it."""
    first = batch[0] if isinstance(batch[0], dict) else {}
    return {place: first[name] for name, place in shape.add.items() if name in first}


def _without(item: Any, names: Mapping[str, str]) -> Any:
    return {key: value for key, value in item.items() if key not in names} if isinstance(item, dict) else item


def _body(shape: Shape, items: list[Any], added: Mapping[str, Any]) -> tuple[bytes, str]:
    if shape.format == "form":
        (item,) = items
        pairs = item if isinstance(item, dict) else {"": item}
        text = urlencode(pairs, doseq=True, errors="replace")
        return text.encode(), "application/x-www-form-urlencoded"
    if shape.format == "lines":
        return b"\n".join(map(msgspec.json.encode, items)), "application/x-ndjson"
    value: Any = items if shape.batch > 1 else items[0]
    if shape.events:
        value = _nested({}, shape.events, value)
    for place, beside in added.items():
        if place.startswith("body."):
            value = _nested(value, place.removeprefix("body."), beside)
    return msgspec.json.encode(value), "application/json"


def _nested(outer: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    name, dot, rest = path.partition(".")
    return outer | {name: _nested(outer.get(name, {}), rest, value) if dot else value}


def _signature(scheme: Mapping[str, str | None], secret: str, now: int, body: bytes) -> dict[str, str]:
    header = scheme.get("header") or ""
    if scheme.get("scheme") == "standard_webhooks":
        message_id = "msg_" + hashlib.sha256(body).hexdigest()[:27]
        return standard_webhooks.signed_headers((secret,), message_id, now, body)
    if scheme.get("scheme") == "timed":
        return {header: hmacs.timed(secret, now, body)}
    stamp = str(now * 1000 if scheme.get("timestamp_unit") == "milliseconds" else now)
    before, _, after = (scheme.get("signed") or "{body}").replace("{timestamp}", stamp).partition("{body}")
    digest = hmac.digest(
        _key(scheme, secret), before.encode() + body + after.encode(), scheme.get("algorithm") or "sha256"
    )
    text = digest.hex() if scheme.get("encoding") != "base64" else b64encode(digest).decode()
    times = {time_header: stamp} if (time_header := scheme.get("timestamp_header")) else {}
    return {header: f"{scheme.get('prefix') or ''}{text}", **times}


def _key(scheme: Mapping[str, str | None], secret: str) -> bytes:
    if scheme.get("key") == "base64":
        return b64decode(secret)
    return bytes.fromhex(secret) if scheme.get("key") == "hex" else secret.encode()
