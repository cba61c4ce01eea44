"""How most providers post: JSON, one event for each request or an array of several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

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


def _post(body: bytes, headers: Callable[[bytes], Mapping[str, str]], query: str) -> Post:
    return Post(headers={"content-type": "application/json", **headers(body)}, body=body, query=query)
