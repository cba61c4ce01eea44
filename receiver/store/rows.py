"""From rows of `events` to `Event`: the list of columns, and the conversion of one record.

Every event that any handler sees passes here, so this is written for speed: one positional call per event,
about a quarter of what 54 keywords cost.
"""

from __future__ import annotations

import json
from typing import Any, Final

import asyncpg
import msgspec

from receiver.event import Actor, BounceCategory, Event, EventType, RejectReason

_INET: Final = frozenset({"sending_ip", "client_ip"})
FIELDS: Final = Event.__struct_fields__


def select_list(table: str) -> str:
    """The columns of `Event`, in its order, of `table` (an alias, or an expression of the row's type)."""
    return ", ".join(f"host({table}.{name})" if name in _INET else f"{table}.{name}" for name in FIELDS)


# The same struct with a constructor that takes its fields in order. The garbage collector need not look at the fields
# of thousands of them: nothing that an event is made with leads back to it.
_Row: Final[Any] = msgspec.defstruct(
    "Event", [(name, Any) for name in FIELDS], bases=(Event,), frozen=True, gc=False, module=Event.__module__
)
_TYPE: Final = FIELDS.index("type")
_BOUNCE: Final = FIELDS.index("bounce_category")
_REJECT: Final = FIELDS.index("reject_reason")
_ACTOR: Final = FIELDS.index("actor")
_METADATA: Final = FIELDS.index("metadata")
_RAW: Final = FIELDS.index("raw")

_TYPES: Final = {str(word): word for word in EventType}
_UNKNOWN: Final = EventType.UNKNOWN  # before Python 3.12 looking up a member costs more than all five words
_BOUNCES: Final = {None: None} | {str(word): word for word in BounceCategory}
_REASONS: Final = {None: None} | {str(word): word for word in RejectReason}
_ACTORS: Final = {None: None} | {str(word): word for word in Actor}

_decode: Final = msgspec.json.Decoder().decode


def to_event(record: asyncpg.Record) -> Event:
    """The event of a record whose columns are `select_list`."""
    return event_of(list(record))


def event_of(values: list[Any]) -> Event:
    """The event of a record's values, which are changed. A word of a newer release reads as unknown or None."""
    values[_TYPE] = _TYPES.get(values[_TYPE], _UNKNOWN)
    values[_BOUNCE] = _BOUNCES.get(values[_BOUNCE])
    values[_REJECT] = _REASONS.get(values[_REJECT])
    values[_ACTOR] = _ACTORS.get(values[_ACTOR])
    values[_METADATA] = {} if values[_METADATA] == "{}" else _metadata(values[_METADATA])
    if values[_RAW] is None:
        values[_RAW] = "null"
    event: Event = _Row(*values)
    return event


def _metadata(text: str) -> Any:
    try:
        return _decode(text)
    except msgspec.MsgspecError:  # jsonb holds numbers of any size, msgspec refuses some
        return json.loads(text, parse_int=_integer)


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 19 else float(digits)
