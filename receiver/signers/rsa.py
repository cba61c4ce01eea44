"""Signs with RSA (PKCS #1 v1.5) as Postal and SNS do. The private key is PEM text, the public one base64 of its DER."""

from __future__ import annotations

from base64 import b64encode
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)


def new_key_pair() -> tuple[str, str]:
    """A fresh pair: (private, public)."""
    key = generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), b64encode(public).decode()


def sign(private_key: str, content: bytes, *, sha1: bool = False) -> str:
    """The signature over the content's SHA-256 or SHA-1, as base64 text. Raises ValueError when the key is no RSA."""
    digest = SHA1() if sha1 else SHA256()  # noqa: S303 - what old servers and SNS's version 1 have
    return b64encode(_load(private_key).sign(content, PKCS1v15(), digest)).decode()


@lru_cache(maxsize=8)  # reading a key takes a hundred times as long as signing with it
def _load(private_key: str) -> RSAPrivateKey:
    key = load_pem_private_key(private_key.encode(), None)
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("not an RSA private key")  # noqa: TRY004 - the value is wrong, its type is not
    return key
