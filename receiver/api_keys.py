"""Keys of the API: what one looks like, and what it may do.

A key is `rk_`, 256 random bits, and a checksum, by which anybody can tell a key that leaked into a repository or a log
from other texts, and we refuse what was made up without asking the database.
"""

from __future__ import annotations

import hashlib
import secrets
import zlib
from collections.abc import Iterable
from typing import Final

PREFIX: Final = "rk_"
START: Final = 9  # characters of a key that are shown later, to tell it from others
_RANDOM: Final = 43  # characters of base64url for 256 bits
_CHECK: Final = 8

AREAS: Final = ("broadcasts", "contacts", "events", "segments", "sendable", "sends", "suppressions", "topics")
READ: Final = tuple(f"{area}:read" for area in AREAS if area != "broadcasts")  # sends:read shows them
WRITE: Final = tuple(f"{area}:write" for area in AREAS if area not in ("events", "sendable"))
SCOPES: Final = tuple(sorted((*READ, *WRITE)))
_SETS: Final = {"read": READ, "all": SCOPES}


def make_key() -> str:
    """A new key."""
    random = secrets.token_urlsafe(32)
    return f"{PREFIX}{random}{_checksum(random)}"


def is_key(text: str) -> bool:
    """Whether the text has the form of a key, its checksum included."""
    random, check = text[len(PREFIX) : -_CHECK], text[-_CHECK:]
    return text.startswith(PREFIX) and len(random) == _RANDOM and text.isascii() and check == _checksum(random)


def digest(key: str) -> bytes:
    """What is stored of a key: 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(key.encode()).digest()


def scopes_of(names: Iterable[str]) -> list[str]:
    """The scopes that are meant by names of scopes, `read` or `all`, sorted. Raises ValueError for another name."""
    found: set[str] = set()
    for name in names:
        if name not in _SETS and name not in SCOPES:
            raise ValueError(f"no such scope; there are: all, read, {', '.join(SCOPES)}")
        found.update(_SETS.get(name, (name,)))
    return sorted(found)


def _checksum(random: str) -> str:
    return f"{zlib.crc32(random.encode()):08x}"
