"""Keys derived from the one `secret_key`: encryption of what is kept for people, and keyed hashes of addresses."""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from receiver.errors import ReceiverError

_VERSION: Final = b"\x01"
_NONCE_BYTES: Final = 12


class WrongSecretKey(ReceiverError):
    """The data was encrypted under another `secret_key`, or was damaged."""


class Vault:
    """Encryption at rest (AES-256-GCM) and address hashes (HMAC-SHA256), each under a key of its own purpose."""

    def __init__(self, secret_key: str) -> None:
        self._cipher = AESGCM(_derive(secret_key, b"encryption at rest"))
        self._address_key = _derive(secret_key, b"address hash")
        self.fingerprint = hashlib.sha256(_derive(secret_key, b"fingerprint")).hexdigest()[:16]

    def __repr__(self) -> str:
        return f"Vault({self.fingerprint})"

    def encrypt(self, plain: bytes, *, context: str) -> bytes:
        """Ciphertext: version, nonce, AES-GCM. `context` (such as the table's name) is bound to it, not stored."""
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._cipher.encrypt(nonce, plain, context.encode())

    def decrypt(self, sealed: bytes, *, context: str) -> bytes:
        """The plain bytes. Raises WrongSecretKey."""
        if sealed[:1] != _VERSION:
            raise WrongSecretKey("the data has an unknown encryption version")
        nonce, body = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            return self._cipher.decrypt(nonce, body, context.encode())
        except InvalidTag as error:
            raise WrongSecretKey("the data was encrypted under another secret_key, or was damaged") from error

    def address_hash(self, address: str) -> bytes:
        """The keyed hash (32 bytes) of a normalized address."""
        return hmac.digest(self._address_key, address.encode(), hashlib.sha256)


def _derive(secret_key: str, purpose: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt=b"email-event-receiver", info=purpose).derive(secret_key.encode())
