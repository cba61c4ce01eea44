"""Addresses as lookup keys: one form for what providers write in many."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final

import idna

MAX_ADDRESS: Final = 320  # 64 for the local part, "@", 255 for the domain
MAX_TEXT: Final = 2048  # a display name may stand before the address

# Nearly every address; what matches needs lower case and nothing else. `@` is in neither class: linear time.
_PLAIN = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+@[\w-]+(?:\.[\w-]+)+", re.ASCII)
_PAIR = re.compile(r"\\(.)")
_TO_ESCAPE = re.compile(r'(["\\])')
_ESCAPE: Final = r"\\\1"
_NOT_IN_LOCAL: Final = frozenset('@<>()[]\\,;:"')
_NOT_IN_DOMAIN: Final = frozenset('@<>()\\,;"')


def normalize_address(text: str) -> str | None:
    """The form under which an address is stored and looked up, or None where the text has no usable address.

    Takes `a@b`, `<a@b>` and `Name <a@b>`. Both sides lower case, the domain in ASCII (IDNA 2008) where that
    is possible, the rest in NFC. Dots and `+tags` stay: two mailboxes may differ in them alone. Never raises.
    """
    if len(text) <= MAX_ADDRESS and _PLAIN.fullmatch(text):
        return text.lower()
    if len(text) > MAX_TEXT:
        return None
    local, at, domain = _bare(text).rpartition("@")
    local, domain = _local_key(local), _ascii_domain(domain)
    address = f"{local}@{domain}"
    return address if at and local and domain and len(address) <= MAX_ADDRESS else None


def domain_of(address: str) -> str:
    """What stands behind the last `@`; empty where there is none."""
    return address.rpartition("@")[2] if "@" in address else ""


def _bare(text: str) -> str:
    text = text.strip()
    if text.endswith(">") and "<" in text:
        return text[text.rindex("<") + 1 : -1].strip()
    return text


def _local_key(local: str) -> str:
    """Lower case and NFC, quoted only where it must be; empty where it is not one word."""
    if " " in local or not local.isprintable():
        return ""
    if len(local) > 2 and local[0] == local[-1] == '"':
        return _folded(_unquoted(_PAIR.sub(r"\1", local[1:-1])))
    return _folded(local) if _NOT_IN_LOCAL.isdisjoint(local) else ""


def _unquoted(text: str) -> str:
    """The local part that says this: RFC 5321, 4.1.2, has quotes and backslashes mean nothing by themselves."""
    if _NOT_IN_LOCAL.isdisjoint(text) and all(text.split(".")):
        return text
    return f'"{_TO_ESCAPE.sub(_ESCAPE, text)}"'


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower())


@lru_cache(maxsize=4096)
def _ascii_domain(domain: str) -> str:
    """Lower case, without the root's dot, as A-labels where IDNA allows; empty where it is no domain."""
    if len(domain) > MAX_ADDRESS or " " in domain or not domain.isprintable():
        return ""
    if not _NOT_IN_DOMAIN.isdisjoint(domain):
        return ""
    if not domain.isascii():
        try:
            domain = idna.encode(domain.rstrip("."), uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            # A domain that no registry would accept: still the same recipient every time it is seen.
            domain = _folded(domain)
    return domain.lower().rstrip(".")
