"""A filter as a sentence, for people who look at a segment."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final, assert_never

from receiver.contacts.filters import (
    AllOf,
    AnyOf,
    Attribute,
    Compared,
    Condition,
    Happened,
    Not,
    OfField,
    Sendable,
    Subscribed,
    Suppressed,
    Tagged,
)
from receiver.durations import read_duration

_SAYS: Final = {
    "equals": "is {}",
    "in": "is one of {}",
    "has": "has {}",
    "starts_with": "begins with {}",
    "ends_with": "ends with {}",
    "contains": "contains {}",
    "at_least": "is at least {}",
    "at_most": "is at most {}",
    "above": "is above {}",
    "below": "is below {}",
}
_ABOUT: Final = ("topic", "campaign", "template", "source", "stream", "brand", "bounce_class")


def describe(condition: Condition) -> str:  # noqa: C901, PLR0911 - a kind each
    """Such as: subscribed to newsletter, and not (opened in the last 90d)."""
    match condition:
        case AllOf():
            return ", and ".join(map(_inner, condition.all))
        case AnyOf():
            return ", or ".join(map(_inner, condition.any))
        case Not():
            return f"not ({describe(condition.not_)})"
        case Happened():
            return _happened(condition)
        case Sendable():
            return f"may be sent {condition.sendable} ({condition.stream})"
        case Suppressed():
            return f"suppressed for {_or(condition.suppressed)}" if condition.suppressed else "suppressed"
        case Subscribed():
            states = ["nothing said" if state == "none" else state for state in condition.state]
            return f"{_or(states)} {'about' if 'none' in condition.state else 'to'} {condition.topic}{_when(condition)}"
        case Tagged():
            return f"tagged {_or(condition.tag)}"
        case Attribute():
            return f"{'.'.join(condition.attribute)} {_said(condition)}"
        case OfField():
            return f"{condition.field} {_said(condition)}"
    assert_never(condition)


def _inner(condition: Condition) -> str:
    text = describe(condition)
    return f"({text})" if isinstance(condition, (AllOf, AnyOf)) else text


def _said(condition: Compared) -> str:
    return " and ".join(_says(name, value) for name, value in condition.said.items())


def _says(name: str, value: object) -> str:
    if name == "exists":
        return "is known" if value else "is not known"
    if name in ("since", "until"):
        return f"is {_time(name, str(value))}"
    return _SAYS[name].format(_or(value) if isinstance(value, tuple) else _literal(value))


def _happened(one: Happened) -> str:
    parts = [_or(one.event)]
    parts += [f"link with {_literal(one.url)}"] if one.url is not None else []
    parts += [f"tagged {_or(one.tag)}"] if one.tag is not None else []
    parts += [f"of {name} {value}" for name in _ABOUT if (value := getattr(one, name)) is not None]
    parts += [f"with {json.dumps(one.metadata, ensure_ascii=False)}"] if one.metadata is not None else []
    parts += [f"in at least {one.at_least} messages"] if one.at_least > 1 else []
    return " ".join(parts) + _when(one) + (" (machines count too)" if one.machines else "")


def _when(one: Happened | Subscribed) -> str:
    return "".join(f" {_time(name, text)}" for name in ("since", "until") if (text := getattr(one, name)) is not None)


def _time(name: str, text: str) -> str:
    try:
        read_duration(text)
    except ValueError:
        return f"{'since' if name == 'since' else 'before'} {text}"
    return f"in the last {text}" if name == "since" else f"more than {text} ago"


def _or(values: Iterable[object]) -> str:
    return " or ".join(value if isinstance(value, str) else _literal(value) for value in values)


def _literal(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
