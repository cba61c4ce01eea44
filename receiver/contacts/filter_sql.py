"""A filter as SQL: one condition on `contacts c`. Its text is made of constants alone; every value is a parameter.

Every `not` is carried down to the single conditions, each of which is written as "surely holds" or as "surely does not
hold": whoever of whom it is unknown is in neither. And only a NOT EXISTS that stands by itself becomes an anti-join.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, assert_never

from receiver.classify.addresses import normalize_address
from receiver.contacts.filters import (
    FIELDS,
    AllOf,
    AnyOf,
    Attribute,
    Condition,
    Happened,
    Not,
    OfField,
    Sendable,
    Subscribed,
    Suppressed,
    Tagged,
)
from receiver.durations import read_moment
from receiver.event import EventType


class Where(NamedTuple):
    """`text`: a condition on `contacts c`. `values`: of its parameters, of which the first is the given one."""

    text: str
    values: tuple[object, ...]


def where(condition: Condition, now: datetime, *, first: int = 1, few: bool = False) -> Where:
    """The filter as SQL, with `now` for what is told from now; the parameters begin with `$first`.

    `few`: only some contacts are asked about, so that each may look for its own events.
    """
    writer = _Writer(now, first, few=few)
    return Where(writer.condition(condition, holds=True), tuple(writer.values))


_COLUMNS: Final = {name: f"c.{name}" for name in FIELDS} | {"domain": "substring(c.address FROM '@([^@]*)$')"}

# An attribute's value as text, number or date; NULL where it is none. Nothing here can fail on what people stored.
_TEXT: Final = "(c.attributes #>> {path})"
_NUMBER: Final = "CASE WHEN jsonb_typeof(c.attributes #> {path}) = 'number' THEN c.attributes #> {path} END"
_DATE: Final = (
    "CASE WHEN c.attributes #>> {path} ~ '^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}([T ]|$)' "
    'THEN left(c.attributes #>> {path}, 10) COLLATE "C" END'
)
_MATCHES: Final = {
    "starts_with": "starts_with(lower({text}), lower({value}))",
    "ends_with": "right(lower({text}), length(lower({value}))) = lower({value})",
    "contains": "strpos(lower({text}), lower({value})) > 0",
}
_COMPARES: Final = {"at_least": ">=", "at_most": "<=", "above": ">", "below": "<"}
_TIMES: Final = {"since": ">=", "until": "<"}
# By whether they hold. After `prefetched_at` the mail client loads pictures by itself: there may be opens unseen.
_OPENED_SINCE: Final = {
    True: "c.last_opened_at >= {time}",
    False: "((c.last_opened_at IS NULL OR c.last_opened_at < {time}) "
    "AND (c.prefetched_at IS NULL OR c.prefetched_at < {time}))",
}
_OPENED_UNTIL: Final = {
    True: "(c.last_opened_at < {time} AND (c.prefetched_at IS NULL OR c.prefetched_at < {time}))",
    False: "(c.last_opened_at >= {time} OR c.last_opened_at IS NULL AND c.prefetched_at IS NULL)",
}
_OPENED: Final = {
    True: "c.last_opened_at IS NOT NULL",
    False: "(c.last_opened_at IS NULL AND c.prefetched_at IS NULL)",
}

_OWN: Final = "e.recipient = c.address"
_COUNTS: Final = "e.recipient IS NOT NULL AND NOT e.is_test AND NOT e.echo AND e.attribution IS NULL"
_MESSAGES: Final = "count(DISTINCT coalesce(e.message_id, e.internet_message_id, e.id::text))"
_OF_EVENT: Final[Mapping[str, tuple[str, str]]] = {
    "tag": ("e.tags && {}", "text[]"),
    "topic": ("e.topic = {}", "text"),
    "campaign": ("e.campaign = {}", "text"),
    "template": ("e.template_id = {}", "text"),
    "source": ("e.source = {}", "text"),
    "stream": ("e.stream = {}", "text"),
    "brand": ("e.brand = {}", "text"),
    "url": ("strpos(e.url, {}) > 0", "text"),
    "bounce_class": ("e.bounce_class = {}", "text"),
}
_SAID: Final = (
    "EXISTS (SELECT FROM subscriptions s WHERE s.address_hash = c.address_hash AND s.topic = {topic} "
    "AND s.state = ANY ({states}){when})"
)
_SAID_AT: Final = (
    "CASE s.state WHEN 'subscribed' THEN s.subscribed_at WHEN 'pending' THEN s.requested_at ELSE s.unsubscribed_at END"
)
# As sendable() has it: what rests on bad days of a mailbox provider counts until each of them lets it go.
_SUPPRESSED: Final = (
    "EXISTS (SELECT FROM suppressions s WHERE s.address_hash = c.address_hash AND s.active "
    "AND (s.expires_at IS NULL OR s.expires_at > now()) "
    "AND ((SELECT max(coalesce(i.release_at, 'infinity')) FROM bounce_incidents i WHERE s.reason = 'hard_bounce' "
    "AND i.mailbox_provider = s.mailbox_provider AND s.since >= i.began_at "
    "AND s.last_at <= coalesce(i.ended_at, 'infinity')) <= now()) IS NOT TRUE{reasons})"
)
_SENDABLE: Final = "(SELECT a.sendable FROM sendable(c.address_hash, {topic}, {stream}) AS a)"


class _Writer:
    """Writes conditions and gathers the values of their parameters."""

    def __init__(self, now: datetime, first: int, *, few: bool) -> None:
        self._now, self._first, self._few = now, first, few
        self.values: list[object] = []

    def condition(self, one: Condition, *, holds: bool) -> str:  # noqa: C901, PLR0911 - a kind each
        """That the condition holds, or that it does not."""
        match one:
            case AllOf():
                return _joined(" AND " if holds else " OR ", (self.condition(part, holds=holds) for part in one.all))
            case AnyOf():
                return _joined(" OR " if holds else " AND ", (self.condition(part, holds=holds) for part in one.any))
            case Not():
                return self.condition(one.not_, holds=not holds)
            case Happened():
                return self._happened(one, holds=holds)
            case Sendable():
                topic, stream = self._value(one.sendable, "text"), self._value(one.stream, "text")
                return _whether(_SENDABLE.format(topic=topic, stream=stream), holds=holds)
            case Suppressed():
                return _whether(self._suppressed(one), holds=holds)
            case Subscribed():
                return _whether(self._subscribed(one), holds=holds)
            case Tagged():
                return _whether(f"(c.tags && {self._value(list(one.tag), 'text[]')})", holds=holds)
            case Attribute():
                return _whether_known(_joined(" AND ", self._attribute(one)), holds=holds)
            case OfField() if one.field == "last_opened_at":
                return _joined(" AND " if holds else " OR ", self._last_opened(one, holds=holds))
            case OfField():
                return _whether_known(_joined(" AND ", self._compared(one)), holds=holds)
        assert_never(one)

    def _value(self, value: object, type_: str) -> str:
        self.values.append(value)
        return f"${self._first + len(self.values) - 1}::{type_}"

    def _time(self, text: str) -> str:
        return self._value(read_moment(text, self._now), "timestamptz")

    def _times(self, column: str, since: str | None, until: str | None) -> Iterator[str]:
        for operator, text in zip(_TIMES.values(), (since, until), strict=True):
            if text is not None:
                yield f"{column} {operator} {self._time(text)}"

    def _attribute(self, one: Attribute) -> Iterator[str]:
        said = one.said
        for name, values in (("equals", [one.equals]), ("in", one.in_ or ()), ("has", [[one.has]])):
            if said.pop(name, None) is not None:
                yield self._is_one_of(one.attribute, values)
        if said:
            path = self._value(list(one.attribute), "text[]")
            yield from (self._of_attribute(path, name, value) for name, value in said.items())

    def _is_one_of(self, path: Sequence[str], values: Iterable[object]) -> str:
        """That the attribute is one of these values, in the form that an index on the attributes can answer."""
        documents = []
        for value in values:
            document = value
            for name in reversed(path):
                document = {name: document}
            documents.append(json.dumps(document))
        return f"c.attributes @> ANY ({self._value(documents, 'jsonb[]')})"

    def _of_attribute(self, path: str, name: str, said: Any) -> str:
        if name == "exists":
            return f"(coalesce(jsonb_typeof(c.attributes #> {path}), 'null') <> 'null') = {self._bool(said)}"
        if name in _COMPARES:
            return f"{_NUMBER.format(path=path)} {_COMPARES[name]} {self._value(json.dumps(said), 'jsonb')}"
        if name in _TIMES:
            date = read_moment(said, self._now).date().isoformat()
            return f"{_DATE.format(path=path)} {_TIMES[name]} {self._value(date, 'text')}"
        return _MATCHES[name].format(text=_TEXT.format(path=path), value=self._value(said, "text"))

    def _bool(self, value: bool) -> str:  # noqa: FBT001 - the value itself
        return self._value(value, "boolean")

    def _last_opened(self, one: OfField, *, holds: bool) -> Iterator[str]:
        """Where the mail client loads pictures itself, there may have been a later open than the last that is known."""
        if one.since is not None:
            yield _OPENED_SINCE[holds].format(time=self._time(one.since))
        if one.until is not None:
            yield _OPENED_UNTIL[holds].format(time=self._time(one.until))
        if one.exists is not None:
            yield _OPENED[one.exists is holds]

    def _compared(self, one: OfField) -> Iterator[str]:
        column, kind = _COLUMNS[one.field], FIELDS[one.field]
        type_ = {"text": "text", "number": "numeric", "time": "timestamptz"}[kind]
        for name, said in one.said.items():
            match name:
                case "equals":
                    yield f"{column} = {self._value(_as_stored(one.field, said), type_)}"
                case "in":
                    values = [_as_stored(one.field, value) for value in said]
                    yield f"{column} = ANY ({self._value(values, f'{type_}[]')})"
                case "exists":
                    yield f"({column} IS NOT NULL) = {self._bool(said)}"
                case _ if name in _COMPARES:
                    yield f"{column} {_COMPARES[name]} {self._value(said, type_)}"
                case _ if name in _TIMES:
                    yield f"{column} {_TIMES[name]} {self._time(said)}"
                case _:
                    yield _MATCHES[name].format(text=column, value=self._value(said, "text"))

    def _suppressed(self, one: Suppressed) -> str:
        if not one.suppressed:
            return _SUPPRESSED.format(reasons="")
        return _SUPPRESSED.format(reasons=f" AND s.reason = ANY ({self._value(list(one.suppressed), 'text[]')})")

    def _subscribed(self, one: Subscribed) -> str:
        topic = self._value(one.topic, "text")
        found = []
        if states := [state for state in one.state if state != "none"]:
            given = self._value(states, "text[]")
            when = "".join(f" AND {part}" for part in self._times(_SAID_AT, one.since, one.until))
            found.append(_SAID.format(topic=topic, states=given, when=when))
        if "none" in one.state:
            every = self._value(["subscribed", "pending", "unsubscribed"], "text[]")
            found.append(f"NOT {_SAID.format(topic=topic, states=every, when='')}")
        return _joined(" OR ", found)

    def _happened(self, one: Happened, *, holds: bool) -> str:
        of = " AND ".join(self._of_event(one))
        least = "" if one.at_least == 1 else self._value(one.at_least, "bigint")
        if not least:
            text = f"EXISTS (SELECT FROM events e WHERE {_OWN} AND {of})"
        elif self._few:
            text = f"((SELECT {_MESSAGES} FROM events e WHERE {_OWN} AND {of}) >= {least})"
        else:
            grouped = f"SELECT e.recipient FROM events e WHERE {of} GROUP BY e.recipient HAVING {_MESSAGES} >= {least}"
            text = f"(c.address IN ({grouped}))"
        if holds or EventType.OPENED not in one.event or one.machines:
            return _whether(text, holds=holds)
        before = "" if one.since is None else f" OR c.prefetched_at < {self._time(one.since)}"
        return f"(NOT {text} AND (c.prefetched_at IS NULL{before}))"

    def _of_event(self, one: Happened) -> Iterator[str]:
        yield _COUNTS
        yield f"e.type = ANY ({self._value(list(one.event), 'text[]')})"
        yield from self._times("e.occurred_at", one.since, one.until)
        if one.since is not None:  # leaves out the partitions that are older
            yield f"e.received_at >= {self._time(one.since)} - interval '5 minutes'"
        if not one.machines:
            yield "e.actor IS DISTINCT FROM 'machine'"
        for name, (text, type_) in _OF_EVENT.items():
            if (said := getattr(one, name)) is not None:
                yield text.format(self._value(list(said) if isinstance(said, tuple) else said, type_))
        if one.metadata is not None:
            yield f"e.metadata @> {self._value(json.dumps(one.metadata), 'jsonb')}"


def _joined(operator: str, parts: Iterator[str] | Sequence[str]) -> str:
    found = list(parts)
    return found[0] if len(found) == 1 else f"({operator.join(found)})"


def _whether(text: str, *, holds: bool) -> str:
    return text if holds else f"NOT {text}"


def _whether_known(text: str, *, holds: bool) -> str:
    """For what is NULL where nothing is known: then it does not hold."""
    return text if holds else f"({text}) IS NOT TRUE"


def _as_stored(field: str, value: Any) -> Any:
    """Addresses and domains are stored in one form."""
    form: Callable[[str], str | None] | None = {"address": normalize_address, "domain": str.lower}.get(field)
    return value if form is None else form(value) or value
