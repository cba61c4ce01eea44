"""Signatures that lie inside the body they sign for.

Mailgun, "Securing webhooks", https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/securing-webhooks
(seen 2026-11): HMAC-SHA256, as hexadecimal text, over the timestamp followed by the token.

Unisender Go, "webhook/set", https://godocs.unisender.ru/web-api-ref (seen 2026-11): the body's own MD5.
"""

from __future__ import annotations

from hashlib import md5
from secrets import token_hex

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC


def mailgun(key: str, timestamp: int, token: str | None = None) -> dict[str, str]:
    """The fields `timestamp`, `token` and `signature`; without a token, one of 50 characters is made."""
    token = token_hex(25) if token is None else token
    signed = HMAC(key.encode(), SHA256())
    signed.update(f"{timestamp}{token}".encode())
    return {"timestamp": str(timestamp), "token": token, "signature": signed.finalize().hex()}


def unisender_go(key: str, unsigned: bytes) -> bytes:
    """The body with its empty `"auth":""` filled: the MD5 of the body that has the API key there."""
    before, _, after = unsigned.partition(b'"auth":""')
    digest = md5(before + b'"auth":"%s"' % key.encode() + after).hexdigest()  # noqa: S324 - the provider's scheme
    return before + b'"auth":"%s"' % digest.encode() + after
