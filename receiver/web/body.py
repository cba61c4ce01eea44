"""Reading a request's body: a limit in bytes, one content encoding at most, and no decompression bombs."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from receiver.errors import Reason, Refused

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

_WINDOW: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}


class Disconnected(Exception):
    """The client went away before its body was whole; there is nobody to answer."""


async def read_body(receive: Receive, limit: int) -> bytes:
    """The whole body as received. Raises Refused (too large), Disconnected."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise too_large(limit)
        return body
    chunks: list[bytes] = []
    size = 0
    while True:
        if message["type"] != "http.request":
            raise Disconnected
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)
        message = await receive()


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """The body without its content encoding. Raises Refused for an unknown or second encoding, and for a bomb."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    window = _WINDOW.get(name)
    if window is None:
        raise Refused(Reason.BAD_ENCODING, "the content encoding must be gzip, deflate or none, and only one")
    inflater = zlib.decompressobj(window)
    try:
        plain = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise Refused(Reason.BAD_ENCODING, f"the body is not {name}") from error
    if len(plain) > limit:
        raise too_large(limit)
    if not inflater.eof:
        raise Refused(Reason.BAD_ENCODING, f"the {name} body is cut off")
    return plain


def too_large(limit: int) -> Refused:
    """The refusal of a body over the limit."""
    return Refused(Reason.TOO_LARGE, f"the body has more than the allowed {limit} bytes")
