"""From a request's bytes to JSON items, and from items to plain values.

Two rules shape this module. What a provider sent is kept as its own text (`Item.text`), not decoded and encoded again.
And one bad item must not cost its neighbours, so that the fast decoder is only tried first: where it fails, the text is
split and each part is decoded, repaired or set aside alone.

The readers (`text`, `integer`, `unix_time`, ...) never raise: a missing or ill-typed value is `None`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import msgspec

from receiver.contract import Item, UnreadableItem
from receiver.errors import Unreadable

MAX_DEPTH: Final = 200
MAX_DIGITS: Final = 1000
BOM: Final = b"\xef\xbb\xbf"
REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


def _real(digits: str) -> float:
    """A number with a fraction or an exponent. Raises ValueError where Postgres's `numeric` might not hold it."""
    number = float(digits)
    _, _, exponent = digits.lower().partition("e")
    if math.isinf(number) or (len(exponent.lstrip("+-")) > 2 and not _is_modest(digits)):
        raise ValueError("beyond what numeric holds")
    return number


_decode: Final = msgspec.json.Decoder(float_hook=_real).decode
_decode_items: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

# What the fast decoder accepts and Postgres's jsonb does not: a NUL character, a number of too many digits.
_NUL: Final = b"\\u0000"
_BACKSLASH: Final = ord("\\")
_ALL_ZEROS: Final = bytes.maketrans(b"123456789", b"000000000")
_MANY_DIGITS: Final = b"0" * 300
_LONG: Final = 10_000  # bytes; a shorter text has no number with too many digits
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"?|[][{},]', re.DOTALL)
_COLON: Final = re.compile(r"\s*:")
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}
_LONE: Final = re.compile("[\ud800-\udfff\x00]")


def items_of(body: bytes, *, event_id: str | None = None) -> Iterator[Item | UnreadableItem]:
    """The items of a body that is a JSON array (or one bare object, which counts as an array of one).

    Raises Unreadable when the body is neither.
    """
    body = strip(body)
    try:
        raws = _decode_items(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _items_one_by_one(body, event_id)
    return (item_of(bytes(raw), event_id=event_id) for raw in raws)


def items_in(body: bytes, name: str, *, event_id: str | None = None) -> Iterator[Item | UnreadableItem]:
    """The items of an array inside a JSON object, such as `{"results": [...]}`; what stands beside it is left out.

    Raises Unreadable when there is no such member, or it is neither an array nor an object.
    """
    body = strip(body)
    try:
        members = _decode_members(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return items_of(_from_member(body.decode(errors="replace"), name).encode(errors="replace"), event_id=event_id)
    if name not in members:
        raise Unreadable(f"the body has no member {name!r}")
    return items_of(bytes(members[name]), event_id=event_id)


def items_of_lines(body: bytes) -> Iterator[Item | UnreadableItem]:
    """The items of JSON Lines: one JSON value for each line; a broken line is set aside alone."""
    return (item_of(line) for line in map(strip, body.removeprefix(BOM).split(b"\n")) if line)


def item_of(body: bytes, *, event_id: str | None = None, repair: int | None = None) -> Item | UnreadableItem:
    """One JSON value as an item; repaired where Postgres could not hold it, set aside where it is no JSON.

    `repair`: bytes up to which that is tried, where what wrote them is not proven: it is slow work.
    """
    # `find` and a number are looked for at once; of `bytes in bytes` Python asks first whether it is a number.
    nul = _BACKSLASH in body and body.find(_NUL) >= 0
    if not (nul or (len(body) > _LONG and body.translate(_ALL_ZEROS).find(_MANY_DIGITS) >= 0)):
        try:
            return Item(value=_decode(body), text=body.decode(), event_id=event_id)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass
    if repair is not None and len(body) > repair:
        return UnreadableItem(body=body, why=f"not JSON that can be kept as it is, and more than {repair} bytes")
    try:
        value, altered = _repair(body)
    except Unreadable as error:
        return UnreadableItem(body=body, why=str(error))
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")) if altered else body.decode()
    return Item(value=value, text=text, altered=altered, event_id=event_id)


def event_object(item: Item, what: str) -> dict[str, Any]:
    """The item's value, which must be an object if it is to be `what` ("a Brevo event"). Raises Unreadable."""
    if not isinstance(item.value, dict):
        raise Unreadable(f"{what} must be a JSON object")
    return item.value


def decode(body: bytes) -> Any:
    """The JSON value of a whole body. Raises Unreadable; values that Postgres cannot hold are replaced."""
    item = item_of(strip(body))
    if isinstance(item, UnreadableItem):
        raise Unreadable(item.why)
    return item.value


def item_from_value(value: Any, *, event_id: str | None = None) -> Item:
    """An item from a value that came in another form than JSON, such as form fields; Postgres can hold the result."""
    cleaned = _clean(value)
    text = json.dumps(cleaned, ensure_ascii=False, separators=(",", ":"))
    return Item(value=cleaned, text=text, altered=cleaned != value, event_id=event_id)


def strip(body: bytes) -> bytes:
    """The body without a byte order mark and surrounding blanks."""
    return body.removeprefix(BOM).strip(b" \t\r\n")


def _items_one_by_one(body: bytes, event_id: str | None) -> Iterator[Item | UnreadableItem]:
    text = body.decode(errors="replace")
    if text.startswith("{"):
        return iter((item_of(body, event_id=event_id),))
    if not text.startswith("["):
        raise Unreadable("the body is neither a JSON array nor a JSON object")
    return (item_of(part.encode(errors="replace"), event_id=event_id) for part in split_array(text))


def split_array(text: str) -> Iterator[str]:
    """The top-level members of a JSON array's text, found by brackets and strings alone, whatever stands in them."""
    depth, start = 0, 1
    for token in _TOKEN.finditer(text):
        mark = token.group()
        if mark in "[{":
            depth += 1
        elif mark in "]}":
            depth -= 1
            if depth == 0:
                yield from _member(text[start : token.start()])
                return
        elif mark == "," and depth == 1:
            yield from _member(text[start : token.start()])
            start = token.end()
    yield from _member(text[start:])


def _from_member(text: str, name: str) -> str:
    """The text of a JSON object from a member's value on, found by brackets and strings alone. Raises Unreadable."""
    depth = 0
    for token in _TOKEN.finditer(text):
        mark = token.group()
        if mark in "[{":
            depth += 1
        elif mark in "]}":
            depth -= 1
        elif depth == 1 and mark == f'"{name}"' and (colon := _COLON.match(text, token.end())):
            return text[colon.end() :]
    raise Unreadable(f"the body is no JSON object with a member {name!r}")


def _member(part: str) -> Iterator[str]:
    part = part.strip()
    if part:
        yield part


def _repair(body: bytes) -> tuple[Any, bool]:
    """(value, altered) of JSON that the fast decoder refuses or Postgres would. Raises Unreadable."""
    decoded = body.decode(errors="replace")
    _check_depth(decoded)
    altered = REPLACEMENT in decoded and REPLACEMENT.encode() not in body

    def odd(_: str) -> None:
        nonlocal altered
        altered = True

    def whole(digits: str) -> Any:
        return int(digits) if len(digits) <= MAX_DIGITS else odd(digits)

    def real(digits: str) -> Any:
        return float(digits) if _is_modest(digits) else odd(digits)

    try:
        value = json.loads(decoded, strict=False, parse_constant=odd, parse_int=whole, parse_float=real)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"not JSON: {type(error).__name__}") from error
    cleaned = _clean(value)
    return cleaned, altered or cleaned != value or not _standard(body)


def _is_modest(digits: str) -> bool:
    """Whether Postgres's `numeric` surely holds a number with a fraction or exponent, however it is written."""
    if len(digits) > MAX_DIGITS:
        return False
    number = float(digits)
    if number == 0:
        mantissa, _, exponent = digits.lower().partition("e")
        return not mantissa.strip("-0.") and len(exponent.lstrip("+-0")) <= 3
    return math.isfinite(number) and abs(number) > 1e-300


def _standard(body: bytes) -> bool:
    """Whether the bytes are JSON by the letter, so that they can be kept as they are."""
    try:
        _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _check_depth(text: str) -> None:
    depth = 0
    for token in _TOKEN.finditer(text):
        mark = token.group()
        if mark in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise Unreadable(f"nested more than {MAX_DEPTH} levels deep")
        elif mark in "]}":
            depth -= 1


def _clean(value: Any) -> Any:
    """The value with NUL characters and lone surrogates replaced, in keys too. Depth is bounded before."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {clean_text(key): _clean(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_clean(member) for member in value]
    return value


def clean_text(value: str) -> str:
    """The text without what Postgres cannot hold (NUL characters, lone surrogates)."""
    return _LONE.sub(REPLACEMENT, value)


# Readers: plain values out of untrusted JSON. A wrong type is None, never an exception.


def text(value: Any) -> str | None:
    """A non-empty string, or a number as text."""
    if value is None:  # most documented fields are missing from most events
        return None
    if isinstance(value, str):
        return value or None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number_text(value)
    return None


def texts_by(source: Mapping[str, Any], fields: Mapping[str, str]) -> dict[str, Any]:
    """The texts of some fields of an object, by names of ours: `fields` says under which; those not there are left out.

    What `text` does for one field, at a fraction of its cost for several.
    """
    found: dict[str, Any] = {}
    for field, name in fields.items():
        value = source.get(field)
        if value is not None:
            found[name] = (value or None) if type(value) is str else text(value)
    return found


def number_text(value: float) -> str | None:
    """A number as the text that JSON would show; None for an integer of more than 300 digits."""
    if isinstance(value, int) and value.bit_length() > 1000:
        return None
    return str(value)


def mapping(value: Any) -> Mapping[str, Any]:
    """The object, or an empty one."""
    return value if isinstance(value, dict) else {}


def sequence(value: Any) -> Sequence[Any]:
    """The array, or an empty one."""
    return value if isinstance(value, list) else ()


def embedded(value: Any) -> Any:
    """The JSON value that a text holds, as some providers put users' own data; None where it is no JSON."""
    if not isinstance(value, str):
        return None
    try:
        return decode(value.encode(errors="replace"))
    except Unreadable:
        return None


def objects(value: Any) -> list[Mapping[str, Any]]:
    """The objects of an array, or the one object; one empty object where there is none."""
    return [mapping(member) for member in sequence(value)] or [mapping(value)]


def texts(value: Any) -> list[str]:
    """A list of strings, from a list (members that are no text are left out) or from one string."""
    if isinstance(value, list):
        return [found for member in value if (found := member if type(member) is str else text(member))]
    return [value] if isinstance(value, str) and value else []


def integer(value: Any, *, low: int = -(2**31), high: int = 2**31 - 1) -> int | None:
    """A whole number within bounds, also written as text."""
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, str):
        value = _integer_text(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and low <= value <= high else None


def _integer_text(value: str) -> int | None:
    value = value.strip()
    return int(value) if len(value) <= 20 and value.isascii() and value.removeprefix("-").isdigit() else None


def boolean(value: Any) -> bool | None:
    """True or false, also as text ("true", "1") or number."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return bool(value) if value in (0, 1) else None
    return _BOOLEANS.get(value.lower()) if isinstance(value, str) else None


def unix_time(value: Any, *, per_second: int = 1) -> datetime | None:
    """A time from seconds (or `per_second` parts of one) since 1970, number or text."""
    if isinstance(value, str):
        value = _float_text(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return _moment(value, per_second)


@lru_cache(maxsize=1024)  # the events of a batch share few seconds
def _moment(value: float, per_second: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(value if per_second == 1 else value / per_second, UTC)
    except (ValueError, OverflowError, OSError):  # NaN, infinity, beyond the years 1 to 9999
        return None


def _float_text(value: str) -> float | None:
    try:
        return float(value) if len(value) <= 40 else None
    except ValueError:
        return None


def iso_time(value: Any) -> datetime | None:
    """A time from ISO 8601 text; without a zone it is taken as UTC."""
    if not isinstance(value, str) or len(value) > 64:
        return None
    try:
        moment = datetime.fromisoformat(value.strip())
        if moment.tzinfo is UTC:
            return moment
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def stable_text(value: Any, *, without: Sequence[str] = ()) -> str:
    """A canonical text of an item without its volatile fields, for identities where the provider gives no time."""
    if isinstance(value, dict) and without:
        value = {key: member for key, member in value.items() if key not in without}
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def first_text(source: Mapping[str, Any], *keys: str) -> str | None:
    """The first of the keys that holds text."""
    for key in keys:
        found = text(source.get(key))
        if found is not None:
            return found
    return None


def bare_id(value: Any) -> str | None:
    """A message id without angle brackets."""
    found = text(value)
    return found.strip("<> ") or None if found else None


def own_data(value: Any, name: str) -> Mapping[str, Any]:
    """What a sender may put in one field: an object, the JSON text of one, or another text, then kept under `name`."""
    members = embedded(value) if isinstance(value, str) else value
    if isinstance(members, dict):
        return members
    return {name: value} if text(value) else {}


Reader = Callable[[Any], Any]
