"""A request's content encoding: one at most, and no decompression bombs."""

from __future__ import annotations

import zlib
from typing import Final

from receiver.errors import Reason, Refused

_WINDOW: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}


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
        raise Refused(Reason.TOO_LARGE, f"the body has more than the allowed {limit} bytes")
    if inflater.unused_data:
        raise Refused(Reason.BAD_ENCODING, f"something follows the {name} body")
    if not inflater.eof:
        raise Refused(Reason.BAD_ENCODING, f"the {name} body is cut off")
    return plain
