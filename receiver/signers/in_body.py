"""Signatures that lie inside the body they sign for.

Mailgun, "Securing webhooks", https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/securing-webhooks
(seen 2026-11): HMAC-SHA256, as hexadecimal text, over the timestamp followed by the token.
"""

from __future__ import annotations

from secrets import token_hex

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC


def mailgun(key: str, timestamp: int, token: str | None = None) -> dict[str, str]:
    """The fields `timestamp`, `token` and `signature`; without a token, one of 50 characters is made."""
    token = token_hex(25) if token is None else token
    signed = HMAC(key.encode(), SHA256())
    signed.update(f"{timestamp}{token}".encode())
    return {"timestamp": str(timestamp), "token": token, "signature": signed.finalize().hex()}
