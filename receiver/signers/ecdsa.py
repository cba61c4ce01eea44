"""Signs with ECDSA on P-256 over SHA-256, as SendGrid's Signed Event Webhook does.

Keys are base64 of DER without PEM armour: the private one PKCS 8, the public one SubjectPublicKeyInfo.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

_SCHEME: Final = ec.ECDSA(SHA256())


def new_key_pair() -> tuple[str, str]:
    """A fresh pair: (private, public)."""
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return b64encode(private).decode(), b64encode(public).decode()


def sign(private_key: str, content: bytes) -> str:
    """Base64 of the DER signature. Raises ValueError when the key is none on an elliptic curve."""
    key = load_der_private_key(b64decode(private_key), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not a private key on an elliptic curve")  # noqa: TRY004  # the value is wrong, its type is not
    return b64encode(key.sign(content, _SCHEME)).decode()
