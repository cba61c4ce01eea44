"""How most providers post: JSON, one event for each request or an array of several; some a form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import msgspec

from receiver.contract import Post


def one_by_one(items: Iterable[Any], headers: Callable[[bytes], Mapping[str, str]], *, query: str = "") -> list[Post]:
    """One request for each item. `headers(body)`: what goes with it, such as the signature, beside the content type."""
    return [_post(msgspec.json.encode(item), headers, query) for item in items]


def in_batches(
    items: Sequence[Any],
    size: int,
    headers: Callable[[bytes], Mapping[str, str]],
    *,
    query: str = "",
    wrap: Callable[[Sequence[Any]], Any] = list,
) -> list[Post]:
    """One request for each `size` items: an array of them, or what `wrap` makes of them."""
    batches = (items[start : start + size] for start in range(0, len(items), size))
    return [_post(msgspec.json.encode(wrap(batch)), headers, query) for batch in batches]


def as_forms(items: Iterable[Any], headers: Callable[[bytes], Mapping[str, str]], *, query: str = "") -> list[Post]:
    """One urlencoded request for each item; what lies in objects is named `data[merges][EMAIL]`."""
    bodies = (urlencode(list(_fields(item, "")), errors="replace").encode() for item in items)
    form = {"content-type": "application/x-www-form-urlencoded"}
    return [Post(headers={**form, **headers(body)}, body=body, query=query) for body in bodies]


def _fields(value: Any, name: str) -> Iterator[tuple[str, str]]:
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if members is None:
        yield name, "" if value is None else str(value)
        return
    for key, member in members:
        yield from _fields(member, f"{name}[{key}]" if name else str(key))


def _post(body: bytes, headers: Callable[[bytes], Mapping[str, str]], query: str) -> Post:
    return Post(headers={"content-type": "application/json", **headers(body)}, body=body, query=query)
