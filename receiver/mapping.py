"""A sender's format told by settings: where its events are, which fields are which columns, what its words mean.

There is no language of expressions here, only paths. `a.b` is the member `b` of the member `a`; a number is a place in
a list; a name that meets a list is looked for in each of its objects. A path that is itself a key of the event is that
key, however many dots it has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from urllib.parse import parse_qsl

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from receiver.contract import Delivery, Item, UnreadableItem
from receiver.errors import Unreadable
from receiver.event import Actor, BounceCategory, EventType, RejectReason
from receiver.faults import did_you_mean
from receiver.forms import object_of
from receiver.payload import (
    Reader,
    boolean,
    integer,
    iso_time,
    item_from_value,
    item_of,
    items_of,
    mapping,
    strip,
    text,
    texts,
    unix_time,
)

_ENHANCED: Final = re.compile(r"\b[245]\.\d{1,3}\.\d{1,3}\b")
_MAX_QUERY: Final = 8192
_LONGEST_INDEX: Final = 4  # digits of a place in a list
_SECRETS: Final = frozenset({"query.token", "header.authorization", "header.cookie"})
_ECHO: Final = "echo"  # the word repeats what another event has said already
_DETAILS: Final[Mapping[EventType, type[BounceCategory | RejectReason | Actor]]] = {
    EventType.BOUNCED: BounceCategory,
    EventType.DEFERRED: BounceCategory,
    EventType.REJECTED: RejectReason,
    EventType.FAILED: RejectReason,
    EventType.OPENED: Actor,
    EventType.CLICKED: Actor,
}


def _text(value: Any) -> str | None:
    """The text; of a list, its first."""
    return next(iter(texts(value)), None) if isinstance(value, list) else text(value)


def _word(value: Any) -> str | None:
    """A word; a truth value is one too."""
    return str(value).lower() if isinstance(value, bool) else _text(value)


def _smtp_code(value: Any) -> int | None:
    return integer(value, low=200, high=599)


def _enhanced_code(value: Any) -> str | None:
    """The code itself, where words stand around it."""
    found = _ENHANCED.search((_text(value) or "")[:200])
    return found[0] if found else None


def _is_true(value: Any) -> bool:
    return boolean(value) is True


def _object(value: Any) -> Mapping[str, Any] | None:
    return mapping(value) or None


_TEXTS: Final = (
    *("provider_event_id", "message_id", "internet_message_id", "sender", "diagnostic", "sending_ip", "ip_pool"),
    *("remote_mta", "stream", "topic", "campaign", "template_id", "subject", "url", "user_agent", "client_ip"),
    "country",
)
_READERS: Final[Mapping[str, Reader]] = {
    **dict.fromkeys(_TEXTS, _text),
    "smtp_code": _smtp_code,
    "enhanced_code": _enhanced_code,
    "attempt": integer,
    "tags": texts,
    "metadata": _object,
    "is_test": _is_true,
}
FIELDS: Final = frozenset({"type", "subtype", "recipient", "occurred_at", *_READERS})


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _check_paths(paths: list[str]) -> list[str]:
    if not paths or not all(path.strip() for path in paths):
        raise ValueError("is an empty path")
    return paths


def _check_fields(fields: dict[str, list[str]]) -> dict[str, list[str]]:
    for name in fields:
        if name not in FIELDS:
            raise ValueError(f"has `{name}`, which is no field of an event here{did_you_mean(name, sorted(FIELDS))}")
    return fields


def _check_words(words: dict[str, str]) -> dict[str, str]:
    for word, meaning in words.items():
        try:
            meaning_of(meaning)
        except ValueError as error:
            raise ValueError(f"gives `{word}` a meaning that {error}") from None
    return words


def _check_add(add: dict[str, str]) -> dict[str, str]:
    for name, place in add.items():
        root, _, rest = place.partition(".")
        if root not in ("body", "query", "header") or not rest:
            raise ValueError(f"takes `{name}` from a place that is none of body.<path>, query.<name>, header.<name>")
        if place.lower() in _SECRETS:
            raise ValueError(f"takes `{name}` from where a secret stands, which would be stored with every event")
    return add


Paths = Annotated[list[str], BeforeValidator(_one_or_many), AfterValidator(_check_paths)]


class MappingSettings(BaseModel):
    """A sender's format, as `[sources.<name>]` of the provider `generic` has it, and the files of recipes."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    format: Literal["json", "lines", "form"] = Field(
        "json", description="of the body: json, lines (one JSON value on each), or form", examples=["json"]
    )
    events: str = Field(
        "",
        description="path of the list of events in the body; without it the body is the list, or the one event",
        examples=["data.events"],
    )
    add: Annotated[dict[str, str], AfterValidator(_check_add)] = Field(
        {},
        description="what stands beside the events and is added to each under a name: from body.<path>, query.<name>, "
        "header.<name>",
        examples=[{"event": "query.event"}],
    )
    fields: Annotated[dict[str, Paths], AfterValidator(_check_fields)] = Field(
        {},
        description="where an event's fields are: a path each, or several of which the first that is there counts",
        examples=[{"type": "event", "recipient": ["data.email.to", "email"], "occurred_at": "at"}],
    )
    time_unit: Literal["seconds", "milliseconds"] = Field(
        "seconds", description="of times that are numbers since 1970; texts are ISO 8601", examples=["seconds"]
    )
    words: Annotated[dict[str, str], AfterValidator(_check_words)] = Field(
        {},
        description="the sender's words and what they mean here: an event type, after a colon a bounce category, a "
        "reject reason, who opened or clicked, or `echo`; `type/subtype` counts before `type` alone",
        examples=[
            {"delivered": "delivered", "hard_bounce": "bounced:hard", "drop/unsubscribe": "rejected:unsubscribed"}
        ],
    )


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a sender's word says in our words."""

    type: EventType
    verdict: BounceCategory | None = None
    reject_reason: RejectReason | None = None
    actor: Actor | None = None
    echo: bool = False


UNKNOWN: Final = Meaning(EventType.UNKNOWN)


def meaning_of(written: str) -> Meaning:
    """The meaning of `type` or `type:detail`. Raises ValueError."""
    word, colon, detail = written.partition(":")
    if word not in list(EventType):
        raise ValueError(f"is no event type{did_you_mean(word, EventType)}: {', '.join(EventType)}")
    type_ = EventType(word)
    if not colon:
        return Meaning(type_, reject_reason=RejectReason.OTHER if type_ is EventType.REJECTED else None)
    if detail == _ECHO:
        return Meaning(type_, echo=True)
    kind = _DETAILS.get(type_)
    if kind is None:
        raise ValueError(f"says more than {type_} can: it has no detail")
    if detail not in list(kind):
        raise ValueError(f"{type_} has no such detail{did_you_mean(detail, kind)}: {', '.join(kind)}")
    found = kind(detail)
    return Meaning(
        type_,
        verdict=found if isinstance(found, BounceCategory) else None,
        reject_reason=found if isinstance(found, RejectReason) else None,
        actor=found if isinstance(found, Actor) else None,
    )


class Path:
    """A way to a value inside an event."""

    __slots__ = ("parts", "text")

    def __init__(self, written: str) -> None:
        self.text = written
        self.parts = tuple(written.split("."))

    def find(self, value: Any) -> Any:
        """What is there, or None."""
        if isinstance(value, dict) and self.text in value:
            return value[self.text]
        return _walk(value, self.parts)


def _walk(value: Any, parts: Sequence[str]) -> Any:
    for number, part in enumerate(parts):
        if isinstance(value, dict):
            value = value.get(part)
        elif not isinstance(value, list):
            return None
        elif part.isdecimal() and len(part) <= _LONGEST_INDEX:
            value = value[int(part)] if int(part) < len(value) else None
        else:
            found = (_walk(member, parts[number:]) for member in value if isinstance(member, dict))
            return [one for one in found if one is not None]
    return value


class CompiledMapping:
    """The settings made ready: every path is split once."""

    def __init__(self, settings: MappingSettings) -> None:
        self._format = settings.format
        self._events = Path(settings.events) if settings.events else None
        self._add = [(name, *place.split(".", 1)) for name, place in settings.add.items()]
        self._fields = {name: [Path(path) for path in paths] for name, paths in settings.fields.items()}
        self._columns = [(name, _READERS[name]) for name in self._fields if name in _READERS]
        self._per_second = 1000 if settings.time_unit == "milliseconds" else 1
        self.words = {word: meaning_of(written) for word, written in settings.words.items()}

    def types(self) -> dict[str, EventType]:
        """The event type of each word."""
        return {word: meaning.type for word, meaning in self.words.items()}

    # From a request to items

    def items(self, delivery: Delivery) -> Iterable[Item | UnreadableItem]:
        """The events of a body. Raises Unreadable."""
        if self._format == "form":
            fields = object_of(delivery.headers.get("content-type", ""), delivery.body)
            return self._picked(delivery, item_from_value(fields))
        body = strip(delivery.body)
        if self._format == "lines":
            items: Iterable[Item | UnreadableItem] = (item_of(line) for line in map(strip, body.splitlines()) if line)
        elif self._events is None and not self._reads_body:
            items = items_of(body)
        else:
            return self._picked(delivery, _whole(body))
        return self._with_added(delivery, None, items)

    @property
    def _reads_body(self) -> bool:
        return any(root == "body" for _, root, _ in self._add)

    def _picked(self, delivery: Delivery, whole: Item) -> Iterable[Item | UnreadableItem]:
        """The events inside a body that was decoded as a whole."""
        found = whole.value if self._events is None else _decoded(self._events.find(whole.value))
        if not isinstance(found, (list, dict)):
            where = f"at {self._events.text}" if self._events else "in the body"
            raise Unreadable(f"there is no list of events {where}")
        members = found if isinstance(found, list) else [found]
        items = (item_from_value(member) for member in members)
        return self._with_added(delivery, whole.value, _altered(items) if whole.altered else items)

    def _with_added(
        self, delivery: Delivery, body: Any, items: Iterable[Item | UnreadableItem]
    ) -> Iterable[Item | UnreadableItem]:
        added = {name: value for name, value in self._added(delivery, body) if value is not None}
        if not added:
            return items
        return (_added_to(item, added) for item in items)

    def _added(self, delivery: Delivery, body: Any) -> Iterator[tuple[str, Any]]:
        query = dict(parse_qsl(delivery.query[:_MAX_QUERY], keep_blank_values=True))
        for name, root, rest in self._add:
            match root:
                case "body":
                    yield name, Path(rest).find(body)
                case "query":
                    yield name, query.get(rest)
                case _:
                    yield name, delivery.headers.get(rest.lower())

    # From an item to columns

    def word(self, value: Any) -> tuple[str, str, Meaning]:
        """(type and subtype as sent, the word of the table that counts for them, what it means)."""
        word, sub = _word(self._first("type", value)) or "", _word(self._first("subtype", value))
        sent = f"{word}/{sub}" if sub else word
        for known in (sent, word):
            if known in self.words:
                return sent, known, self.words[known]
        return sent, sent, UNKNOWN

    def recipients(self, value: Any) -> list[str]:
        """The addresses the event names."""
        return texts(self._first("recipient", value))

    def time(self, value: Any) -> tuple[str | None, datetime | None]:
        """(as the sender wrote it, the moment)."""
        written = self._first("occurred_at", value)
        return _text(written), _moment(written, self._per_second)

    def columns(self, value: Any) -> dict[str, Any]:
        """The other columns that the mapping names."""
        return {name: read(self._first(name, value)) for name, read in self._columns}

    def _first(self, name: str, value: Any) -> Any:
        for path in self._fields.get(name, ()):
            found = path.find(value)
            if found not in (None, "", [], {}):
                return found
        return None


def _moment(value: Any, per_second: int) -> datetime | None:
    if isinstance(value, str):  # also with a blank before the zone, as several senders write it
        found = iso_time(value) or iso_time(value.strip().replace(" +", "+").replace(" -", "-"))
        if found is not None:
            return found
    return unix_time(value, per_second=per_second)


def _whole(body: bytes) -> Item:
    item = item_of(body)
    if isinstance(item, UnreadableItem):
        raise Unreadable(item.why)
    return item


def _decoded(value: Any) -> Any:
    """JSON inside a text, as some send it in a field of a form."""
    return _whole(strip(value.encode(errors="replace"))).value if isinstance(value, str) else value


def _altered(items: Iterable[Item]) -> Iterator[Item]:
    for item in items:
        yield Item(value=item.value, text=item.text, altered=True)


def _added_to(item: Item | UnreadableItem, added: Mapping[str, Any]) -> Item | UnreadableItem:
    if isinstance(item, UnreadableItem) or not isinstance(item.value, dict):
        return item
    merged = item_from_value({**item.value, **added})
    return Item(value=merged.value, text=merged.text, altered=item.altered or merged.altered)
