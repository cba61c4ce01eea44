"""The JSON form of an event: CloudEvents 1.0 in structured mode, for programs that are not in Python.

`event.schema.json`, beside this file, describes it; docs/event-json.md explains it. The version in `type` and
`dataschema` changes only when a field changes its meaning or goes: new fields may come at any time.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md and .../formats/json-format.md, seen 2026-11.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import resources
from typing import Any, Final
from urllib.parse import quote

import msgspec

from receiver.event import Event

CONTENT_TYPE: Final = "application/cloudevents+json"
BATCH_CONTENT_TYPE: Final = "application/cloudevents-batch+json"
DATA_SCHEMA: Final = "urn:email-event-receiver:event:v1"
_VERSION: Final = "v1"
_INTERNAL: Final = frozenset({"shard", "gen", "txid", "position", "raw"})
_FIELDS: Final = tuple(name for name in Event.__struct_fields__ if name not in _INTERNAL)
# What CloudEvents forbids in a string: control characters, and code points that are no characters.
_NO_CHARACTERS: Final = "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
_FORBIDDEN: Final = re.compile(f"[\\x00-\\x1f\\x7f-\\x9f\\ufdd0-\\ufdef{_NO_CHARACTERS}]")

_encode: Final = msgspec.json.Encoder().encode


def to_cloudevent(event: Event, *, raw: bool = False) -> dict[str, Any]:
    """The event's JSON form, for msgspec to encode; with `raw`, the provider's own object is in it too."""
    subject = _FORBIDDEN.sub("", event.message_id or "")
    return {
        "specversion": "1.0",
        "id": str(event.id),
        "source": f"/providers/{quote(event.provider, safe='')}/{quote(event.source, safe='')}",
        "type": f"email.{event.type}.{_VERSION}",
        **({"subject": subject} if subject else {}),
        "time": event.occurred_at,
        "datacontenttype": "application/json",
        "dataschema": DATA_SCHEMA,
        "data": _data(event, raw=raw),
    }


def encode_event(event: Event, *, raw: bool = False) -> bytes:
    """JSON text of CONTENT_TYPE."""
    return _encode(to_cloudevent(event, raw=raw))


def encode_batch(events: Iterable[Event], *, raw: bool = False) -> bytes:
    """JSON text of BATCH_CONTENT_TYPE."""
    return _encode([to_cloudevent(event, raw=raw) for event in events])


def json_schema() -> str:
    """The text of the JSON Schema for an event in this form."""
    return (resources.files("receiver") / "event.schema.json").read_text(encoding="utf-8")


def _data(event: Event, *, raw: bool) -> dict[str, Any]:
    """The columns of `events` that have a value, without those that concern our log."""
    data = {name: value for name in _FIELDS if (value := getattr(event, name)) is not None}
    if raw and event.raw != "null":
        data["raw"] = msgspec.Raw(event.raw.encode())
    return data
