"""The fields of a form body, urlencoded or multipart, with bounds on their number.

What is read here is not proven yet in most cases: the signature of such providers is itself a field. So it can be
found alone, by `last_fields`, which costs the body's length once and decodes nothing else.
"""

from __future__ import annotations

import re
from binascii import a2b_qp
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote_plus

from receiver.errors import Unreadable

MAX_FIELDS: Final = 1000  # a forwarded message has one for each of its headers and attachments
MAX_PART_HEADER: Final = 4096
MAX_KEYS: Final = 8  # of a name such as `data[merges][EMAIL]`
MAX_SHORT: Final = 1024  # bytes a value may have that `last_fields` decodes
_DIGITS: Final = bytes.maketrans(b"123456789ABCDEFabcdef", b"0" * 21)  # all as one

_BOUNDARY: Final = re.compile(r'boundary="?([^";,\r\n]{1,70})"?', re.IGNORECASE)
# Possessive (`++`, `*+`), so that nothing is tried twice in a header that only looks like one.
_NAME: Final = re.compile(rb';\s*+name="((?:[^"\\\r\n]++|\\.)*+)"', re.IGNORECASE)
_BRACKETS: Final = re.compile(r"[^][]++(?:\[[^][]*+\])++")
_FILENAME: Final = re.compile(rb';\s*+filename="((?:[^"\\\r\n]++|\\.)*+)"', re.IGNORECASE)


def is_form(content_type: str) -> bool:
    """Whether the content type is one that `fields_of` reads."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind in {"application/x-www-form-urlencoded", "multipart/form-data"}


def fields_of(content_type: str, body: bytes) -> list[tuple[str, str]]:
    """(name, value) of every field, in the order sent; a file's value is its name. Raises ValueError.

    Bytes that are no UTF-8 become the replacement character.
    """
    fields, decode = _fields(content_type, body)
    return [(decode(name), decode(value)) for name, value in fields]


def object_of(content_type: str, body: bytes) -> dict[str, str | list[str]]:
    """The fields by name; of a repeated one a list. Raises Unreadable."""
    try:
        fields = fields_of(content_type, body)
    except ValueError as error:
        raise Unreadable(str(error)) from error
    found: dict[str, list[str]] = {}
    for name, value in fields:
        found.setdefault(name, []).append(value)
    return {name: values if len(values) > 1 else values[0] for name, values in found.items()}


def nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What `object_of` gives, where a name such as `data[merges][EMAIL]` tells the place, and `x[]` is `x`.

    Where two names contradict each other the later one stays. A name of another form is a key as it is.
    """
    found: dict[str, Any] = {}
    for name, value in fields.items():
        *way, last = _keys(name)
        place = found
        for key in way:
            inner = place.get(key)
            if not isinstance(inner, dict):
                inner = place[key] = {}
            place = inner
        place[last] = value
    return found


def _keys(name: str) -> list[str]:
    if not _BRACKETS.fullmatch(name) or name.count("[") > MAX_KEYS:
        return [name]
    return name.removesuffix("[]").replace("]", "").split("[")


def last_fields(content_type: str, body: bytes, names: Collection[str]) -> dict[str, str]:
    """The last field of each of the names; none whose value is longer than `MAX_SHORT`. Raises ValueError."""
    fields, decode = _fields(content_type, body)
    longest = 3 * max(map(len, names))  # each letter may be written as %XX
    last = {decode(name): value for name, value in fields if len(name) <= longest}
    return {name: decode(value) for name, value in last.items() if name in names and len(value) <= MAX_SHORT}


def bytes_of(body: bytes) -> list[tuple[bytes, bytes]]:
    """(name, value) of every field of an urlencoded body, as the bytes that a sender may have signed.

    Raises ValueError.
    """
    return [(unescaped(name), unescaped(value)) for name, value in _urlencoded(body)]


def unescaped(value: bytes) -> bytes:
    """A name or value without its escapes. Raises ValueError where a percent sign begins none, which nobody signs.

    An escape is rewritten as one of quoted-printable, whose decoder is ten times as fast: this is work for strangers.
    """
    if value.count(b"%") > value.translate(_DIGITS).count(b"%00"):
        raise ValueError("a percent sign without two digits behind it")
    return a2b_qp(value.replace(b"+", b" ").replace(b"=", b"=3D").replace(b"%", b"="))


def _fields(content_type: str, body: bytes) -> tuple[Iterator[tuple[bytes, bytes]], Callable[[bytes], str]]:
    """The fields as they are written, and what decodes their names and values."""
    if content_type.strip().lower().startswith("multipart/"):
        return _multipart(content_type, body), _text
    return _urlencoded(body), _unquote


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _unquote(value: bytes) -> str:
    return unquote_plus(value.decode(errors="replace"))


def _urlencoded(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    pairs = body.split(b"&", MAX_FIELDS)
    if len(pairs) > MAX_FIELDS:
        raise ValueError(f"the form has more than {MAX_FIELDS} fields")
    for pair in pairs:
        name, _, value = pair.partition(b"=")
        if pair:
            yield name, value


def _multipart(content_type: str, body: bytes) -> Iterator[tuple[bytes, bytes]]:
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise ValueError("the multipart form names no boundary")
    delimiter = b"\r\n--" + found.group(1).strip().encode()
    parts = (b"\r\n" + body).split(delimiter, MAX_FIELDS + 2)[1:]
    if len(parts) > MAX_FIELDS + 1:
        raise ValueError(f"the form has more than {MAX_FIELDS} parts")
    for part in parts:
        if not part.startswith(b"--"):
            yield from _part(part)


def _part(part: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The field of one part; none if it has no name."""
    end = part.find(b"\r\n\r\n", 0, MAX_PART_HEADER + 4)
    if end < 0:
        raise ValueError("a part of the form has no proper header")
    head = part[:end]
    name, file = _NAME.search(head), _FILENAME.search(head)
    if name is not None:
        yield _unescape(name.group(1)), _unescape(file.group(1)) if file else part[end + 4 :]


def _unescape(value: bytes) -> bytes:
    return value.replace(b'\\"', b'"').replace(b"%22", b'"')
