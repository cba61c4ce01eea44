"""The fields of a form body, urlencoded or multipart, with bounds on their number.

What is read here is not proven yet in most cases: the signature of such providers is itself a field.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl

MAX_FIELDS: Final = 200
MAX_PART_HEADER: Final = 4096

_BOUNDARY: Final = re.compile(r'boundary="?([^";,\r\n]{1,70})"?', re.IGNORECASE)
_NAME: Final = re.compile(r';\s*name="((?:[^"\\\r\n]|\\.)*)"', re.IGNORECASE)
_FILENAME: Final = re.compile(r';\s*filename="((?:[^"\\\r\n]|\\.)*)"', re.IGNORECASE)


def is_form(content_type: str) -> bool:
    """Whether the content type is one that `fields_of` reads."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind in {"application/x-www-form-urlencoded", "multipart/form-data"}


def fields_of(content_type: str, body: bytes, *, limit: int = MAX_FIELDS) -> list[tuple[str, str]]:
    """(name, value) of every field, in the order sent; a file's value is its name. Raises ValueError.

    Bytes that are no UTF-8 become the replacement character.
    """
    if content_type.strip().lower().startswith("multipart/"):
        return _multipart(content_type, body, limit)
    return parse_qsl(body.decode(errors="replace"), keep_blank_values=True, max_num_fields=limit)


def _multipart(content_type: str, body: bytes, limit: int) -> list[tuple[str, str]]:
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise ValueError("the multipart form names no boundary")
    delimiter = b"\r\n--" + found.group(1).strip().encode()
    parts = (b"\r\n" + body).split(delimiter, limit + 2)[1:]
    if len(parts) > limit + 1:
        raise ValueError(f"the form has more than {limit} parts")
    return [field for part in parts if not part.startswith(b"--") and (field := _part(part))]


def _part(part: bytes) -> tuple[str, str] | None:
    head, blank, content = part.partition(b"\r\n\r\n")
    if not blank or len(head) > MAX_PART_HEADER:
        raise ValueError("a part of the form has no proper header")
    text = head.decode(errors="replace")
    name, file = _NAME.search(text), _FILENAME.search(text)
    if name is None:
        return None
    return _unquote(name.group(1)), _unquote(file.group(1)) if file else content.decode(errors="replace")


def _unquote(value: str) -> str:
    return value.replace('\\"', '"').replace("%22", '"')
