"""Keys derived from the one `secret_key`: encryption of what is kept for people, hashes of addresses, signed links."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from receiver.errors import ReceiverError
from receiver.settings import Settings

_VERSION: Final = b"\x01"
_NONCE_BYTES: Final = 12


class WrongSecretKey(ReceiverError):
    """The data was encrypted under another `secret_key`, or was damaged."""


class Vault:
    """Encryption at rest (AES-256-GCM), address hashes and signatures (HMAC-SHA256), each under a key of its purpose.

    `previous`: former secret keys, which still decrypt and verify, but make nothing new. `address_key`: what address
    hashes are made with, where that is not `secret_key`: it stays for ever (see `store.address_keys`).
    """

    def __init__(self, secret_key: str, *, previous: Sequence[str] = (), address_key: str | None = None) -> None:
        self._keys = (secret_key, *previous)
        self._ciphers = [AESGCM(_derive(key, b"encryption at rest")) for key in self._keys]
        self._address_key = _derive(address_key or secret_key, b"address hash")
        self.address_fingerprint = _fingerprint(address_key or secret_key)
        self.fingerprint = _fingerprint(secret_key)

    def __repr__(self) -> str:
        return f"Vault({self.fingerprint})"

    def encrypt(self, plain: bytes, *, context: str) -> bytes:
        """Ciphertext: version, nonce, AES-GCM. `context` (such as the table's name) is bound to it, not stored."""
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._ciphers[0].encrypt(nonce, plain, context.encode())

    def decrypt(self, sealed: bytes, *, context: str) -> bytes:
        """The plain bytes. Raises WrongSecretKey."""
        if sealed[:1] != _VERSION:
            raise WrongSecretKey("the data has an unknown encryption version")
        nonce, body = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        for cipher in self._ciphers:
            with contextlib.suppress(InvalidTag):
                return cipher.decrypt(nonce, body, context.encode())
        raise WrongSecretKey("the data was encrypted under another secret_key, or was damaged")

    def address_hash(self, address: str) -> bytes:
        """The keyed hash (32 bytes) of a normalized address."""
        return hmac.digest(self._address_key, address.encode(), hashlib.sha256)

    def sign(self, message: bytes, *, purpose: str) -> bytes:
        """A signature (32 bytes) that is good for this purpose alone."""
        return _signature(self._keys[0], message, purpose)

    def verify(self, message: bytes, signature: bytes, *, purpose: str) -> bool:
        """Whether this or a former secret key made the signature; in constant time."""
        found = False
        for key in self._keys:
            found |= hmac.compare_digest(_signature(key, message, purpose), signature)
        return found


def vault_of(settings: Settings) -> Vault:
    """The vault of this configuration, which must have a secret key."""
    assert settings.secret_key is not None
    previous = [key.get_secret_value() for key in settings.previous_secret_keys]
    address_key = settings.address_key.get_secret_value() if settings.address_key else None
    return Vault(settings.secret_key.get_secret_value(), previous=previous, address_key=address_key)


def _signature(secret_key: str, message: bytes, purpose: str) -> bytes:
    return hmac.digest(_derive(secret_key, b"signature: " + purpose.encode()), message, hashlib.sha256)


def _fingerprint(secret_key: str) -> str:
    return hashlib.sha256(_derive(secret_key, b"fingerprint")).hexdigest()[:16]


@lru_cache(maxsize=64)  # each takes some microseconds, and the same few are asked for again and again
def _derive(secret_key: str, purpose: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt=b"email-event-receiver", info=purpose).derive(secret_key.encode())
