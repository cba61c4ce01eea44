"""Where a listing goes on: opaque to clients, signed by us, good for the same filters alone."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Final

import msgspec

from receiver.vault import Vault
from receiver.web.api.problems import Fault, Kind, Problem

_PURPOSE: Final = "api cursor"
_MAC: Final = 32  # bytes


def make_cursor(vault: Vault, listing: str, place: Sequence[str]) -> str:
    """`listing`: which one, with its filters. `place`: where its last item stood."""
    plain = msgspec.json.encode(place)
    return urlsafe_b64encode(_sign(vault, listing, plain) + plain).rstrip(b"=").decode()


def read_cursor(vault: Vault, listing: str, cursor: str) -> Sequence[str]:
    """The place. Raises Problem where it is none of ours, or of another listing."""
    try:
        sealed = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except ValueError:
        sealed = b""
    mac, plain = sealed[:_MAC], sealed[_MAC:]
    if not mac or not vault.verify(_message(listing, plain), mac, purpose=_PURPOSE):
        detail = "the cursor is not one of this listing with these filters: begin without one"
        raise Problem(Kind.INVALID, detail, errors=[Fault(detail=detail, parameter="cursor")])
    return msgspec.json.decode(plain, type=list[str])


def _sign(vault: Vault, listing: str, plain: bytes) -> bytes:
    return vault.sign(_message(listing, plain), purpose=_PURPOSE)


def _message(listing: str, plain: bytes) -> bytes:
    return hashlib.sha256(listing.encode()).digest() + plain
