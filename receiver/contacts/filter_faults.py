"""What is wrong with a filter, for people: in which place of the JSON, and what would be right."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from math import isfinite
from typing import Any, Final

import msgspec
from pydantic import ValidationError

from receiver.errors import ReceiverError
from receiver.faults import did_you_mean
from receiver.payload import clean_text

MAX_BYTES: Final = 64 * 1024
MAX_DEPTH: Final = 24  # lists and objects within each other: about eleven of `all`, `any` and `not`
MAX_VALUES: Final = 2500
MAX_TEXT: Final = 1000  # characters
MAX_WHOLE: Final = 2**63

_JOINED: Final = ("all", "any")


class WrongFilter(ReceiverError):
    """The filter cannot be used. `faults`: (place, such as `all[1].since`; what is wrong there), at least one."""

    def __init__(self, faults: Sequence[tuple[str, str]]) -> None:
        super().__init__("\n".join(f"{place or 'the filter'} {wrong}" for place, wrong in faults))
        self.faults = tuple(faults)


def decode(text: str | bytes) -> object:
    """The JSON value. Raises WrongFilter."""
    if len(text) > MAX_BYTES:
        raise WrongFilter([("", f"is longer than {MAX_BYTES // 1024} KiB")])
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise WrongFilter([("", f"is not JSON: {error}")]) from None


def check_values(value: object) -> None:
    """Raises WrongFilter where there are too many values or too deep, or one that Postgres cannot hold."""
    for count, (depth, place, one) in enumerate(_walk(value), start=1):
        if depth > MAX_DEPTH:
            raise WrongFilter([(place, f"lies deeper than {MAX_DEPTH} lists and objects within each other")])
        if count > MAX_VALUES:
            raise WrongFilter([("", f"has more than {MAX_VALUES} values")])
        if wrong := _unfit(one):
            raise WrongFilter([(place, wrong)])


def faults_of(error: ValidationError, value: object, kinds: Mapping[str, Collection[str]]) -> list[tuple[str, str]]:
    """What pydantic found in `value`, each place once. `kinds`: a condition's word -> its members."""
    found: dict[str, str] = {}
    for fault in error.errors(include_url=False):
        path = tuple(_there(_members(fault["loc"]), value))
        wrong = _no_condition(fault["input"], kinds) if fault["type"].startswith("union_tag") else _wrong(fault, kinds)
        found.setdefault(_shown(path), wrong)
    # Where an element is wrong, pydantic also finds its list too short.
    return [(one, wrong) for one, wrong in found.items() if not any(other.startswith(f"{one}[") for other in found)]


def _walk(value: object) -> Iterator[tuple[int, str, object]]:
    """(depth, place, value) of every value and key, without recursion: the depth is a stranger's choice."""
    left: list[tuple[int, tuple[int | str, ...], object]] = [(0, (), value)]
    while left:
        depth, path, one = left.pop()
        yield depth, _shown(path), one
        if depth > MAX_DEPTH:
            continue
        if isinstance(one, dict):
            for key, member in one.items():
                yield depth, _shown(path), key
                left.append((depth + 1, (*path, str(key)), member))
        elif isinstance(one, (list, tuple)):
            left += [(depth + 1, (*path, number), member) for number, member in enumerate(one)]


def _unfit(value: object) -> str | None:
    match value:
        case str() if len(value) > MAX_TEXT:
            return f"has a text of more than {MAX_TEXT} characters"
        case str() if clean_text(value) != value:
            return "has a character that Postgres cannot hold"
        case int() if not -MAX_WHOLE <= value < MAX_WHOLE:
            return "is a number of more than 64 bits"
        case float() if not isfinite(value):
            return "is not a number"
    return None


def _members(loc: tuple[int | str, ...]) -> Iterator[int | str]:
    """Without what pydantic says about its own choices: the kind of each condition, the branch of a value's type."""
    parts = iter(loc)
    for kind in parts:
        member = next(parts, None)
        if member is None:
            return
        yield member
        if kind == "not" and member == "not":
            continue
        number = next(parts, None)
        if isinstance(number, int):
            yield number
        if kind not in _JOINED:
            return


def _there(path: Iterable[int | str], value: Any) -> Iterator[int | str]:
    """Without the number of an only value, which was given without a list."""
    for part in path:
        if isinstance(part, int) and not isinstance(value, (list, tuple)):
            return
        yield part
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            value = None


def _shown(path: Sequence[int | str]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _no_condition(value: Any, kinds: Collection[str]) -> str:
    if not isinstance(value, dict):
        return 'is no condition: it should be an object such as {"tag": "customer"}'
    close = next((hint for key in value if (hint := did_you_mean(str(key), kinds))), "")
    return f"is a condition of no known kind{close}: it has one of {', '.join(kinds)}"


def _wrong(fault: Mapping[str, Any], kinds: Mapping[str, Collection[str]]) -> str:
    match fault["type"]:
        case "value_error":
            return str(fault["msg"]).removeprefix("Value error, ")
        case "extra_forbidden":
            kind, name = str(fault["loc"][-2]), str(fault["loc"][-1])
            known = kinds[kind]
            return f"is not known in a condition on {kind}{did_you_mean(name, known)}: it may have {', '.join(known)}"
        case "too_short" | "string_too_short":
            return "is empty"
        case "tuple_type":
            return "should be a list"
    return f"is wrong: {fault['msg'][:1].lower()}{fault['msg'][1:]}"
