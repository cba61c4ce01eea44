"""Signed links for mail: one that leaves a topic (RFC 8058), and those to pages that need a fresh mail.

A token holds no address and can do one thing, since each kind is signed for a purpose of its own. Unsubscribe tokens
never run out, and work under former secret keys; the others are ids of rows in `confirmations`, which do.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias
from urllib.parse import quote, urlsplit
from uuid import UUID

import msgspec

from receiver.classify.addresses import normalize_address
from receiver.contacts.addresses import WrongAddress, entered
from receiver.errors import ReceiverError
from receiver.vault import Vault

Kind: TypeAlias = Literal["preferences", "confirmation"]

PATHS: Final = {"unsubscribe": "/u/", "preferences": "/p/", "confirmation": "/c/"}
LONGEST: Final = 2048  # characters of a token that are looked at

_VERSION: Final = b"\x01"
_SIGNATURE: Final = 32  # bytes
_HASH: Final = 32
_ID: Final = 16


class NoPublicUrl(ReceiverError):
    """Links cannot be made, because people could not reach us by them; the message says what to set."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """What an unsubscribe token may do: leave the topic; without one, all marketing mail of the brand.

    An empty brand is every brand. `send`: the message that it was made for, for the log alone.
    """

    address_hash: bytes
    topic: str = ""
    brand: str = ""
    send: str = ""


def unsubscribe_token(vault: Vault, leaving: Leaving) -> str:
    about = msgspec.msgpack.encode((leaving.topic, leaving.brand, leaving.send))
    return _signed(vault, leaving.address_hash + about, "unsubscribe")


def read_unsubscribe(vault: Vault, token: str) -> Leaving | None:
    """None for what we have not signed, whatever is wrong with it."""
    content = _verified(vault, token, "unsubscribe")
    if content is None:
        return None
    topic, brand, send = msgspec.msgpack.decode(content[_HASH:], type=tuple[str, str, str])
    return Leaving(content[:_HASH], topic, brand, send)


def mailed_token(vault: Vault, kind: Kind, id_: UUID) -> str:
    """The token of a row in `confirmations`."""
    return _signed(vault, id_.bytes, kind)


def read_mailed(vault: Vault, kind: Kind, token: str) -> UUID | None:
    """None for what we have not signed for this purpose."""
    content = _verified(vault, token, kind)
    return None if content is None or len(content) != _ID else UUID(bytes=content)


def mailed_url(vault: Vault, public_url: str | None, kind: Kind, id_: UUID) -> str:
    """Raises NoPublicUrl."""
    return f"{_start(public_url)}{PATHS[kind]}{mailed_token(vault, kind, id_)}"


def unsubscribe_url(
    vault: Vault, public_url: str | None, address: str, *, topic: str = "", brand: str = "", send: str = ""
) -> str:
    """The link by which an address leaves a topic, or else all marketing mail of the brand.

    Raises NoPublicUrl, and WrongAddress for a text that is none.
    """
    key = normalize_address(address)
    if key is None:
        raise WrongAddress("not an e-mail address")
    leaving = Leaving(vault.address_hash(key), topic, brand, send)
    return f"{_start(public_url)}{PATHS['unsubscribe']}{unsubscribe_token(vault, leaving)}"


def list_unsubscribe_headers(url: str, *, mailto: str | None = None) -> dict[str, str]:
    """The headers of RFC 8058 for a message, both of which its DKIM signature has to cover.

    `url`: from `unsubscribe_url`. `mailto`: an address for mail clients that know nothing else, which somebody reads.
    Raises NoPublicUrl for a URL that is not https, which the RFC demands, and WrongAddress.
    """
    if urlsplit(url).scheme != "https":
        raise NoPublicUrl("one-click unsubscribing needs https: public_url must begin with https://")
    places = [f"<{url}>"]
    if mailto is not None:
        places.append(f"<mailto:{quote(entered(mailto).display, safe='@')}?subject=unsubscribe>")
    return {"List-Unsubscribe": ", ".join(places), "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}


def _start(public_url: str | None) -> str:
    if public_url is None:
        raise NoPublicUrl(
            "public_url is missing: it is how the links in your mail reach this service, such as "
            'public_url = "https://hooks.example.net"'
        )
    return public_url.rstrip("/")


def _signed(vault: Vault, content: bytes, purpose: str) -> str:
    message = _VERSION + content
    return urlsafe_b64encode(vault.sign(message, purpose=f"link: {purpose}") + message).rstrip(b"=").decode()


def _verified(vault: Vault, token: str, purpose: str) -> bytes | None:
    """The signed content. Only the one spelling that we have written is taken: Base64 has several for some bytes."""
    if len(token) > LONGEST:
        return None
    try:
        text = token.translate(_FROM_URL).encode("ascii")
        whole = a2b_base64(text + b"=" * (-len(text) % 4), strict_mode=True)
    except (Base64Error, ValueError):
        return None
    signature, message = whole[:_SIGNATURE], whole[_SIGNATURE:]
    if not vault.verify(message, signature, purpose=f"link: {purpose}") or message[:1] != _VERSION:
        return None
    return message[1:] if urlsafe_b64encode(whole).rstrip(b"=").decode() == token else None


_FROM_URL: Final = str.maketrans("-_", "+/")
