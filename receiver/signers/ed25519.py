"""Signs with Ed25519 over the bare content; keys and signatures are base64 of their bytes (RFC 8032)."""

from __future__ import annotations

from base64 import b64decode, b64encode

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def new_key_pair() -> tuple[str, str]:
    """A fresh pair: (private, public)."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return b64encode(key.private_bytes_raw()).decode(), b64encode(public).decode()


def sign(private_key: str, content: bytes) -> str:
    """The signature as base64 text. Raises ValueError when the key is none."""
    return b64encode(Ed25519PrivateKey.from_private_bytes(b64decode(private_key)).sign(content)).decode()
