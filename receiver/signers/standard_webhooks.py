"""Signs as Standard Webhooks senders do (Svix too): over `id.timestamp.body`, anew for every attempt.

Standard Webhooks specification, "Signature scheme",
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md, seen 2026-11.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from receiver.contract import Post
from receiver.signers import posts

SEED: Final = 32  # bytes; `whsk_` keys are the seed alone, or (Svix) the seed with the public key behind it


def new_secret() -> str:
    """A fresh HMAC secret, `whsec_...`, of 32 random bytes."""
    return "whsec_" + b64encode(secrets.token_bytes(32)).decode()


def new_key_pair() -> tuple[str, str]:
    """A fresh Ed25519 pair: (`whsk_...` to sign with, `whpk_...` to verify with)."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return "whsk_" + b64encode(key.private_bytes_raw() + public).decode(), "whpk_" + b64encode(public).decode()


def signed_headers(
    keys: Sequence[str], message_id: str, timestamp: int, body: bytes, *, prefix: str = "webhook", raw: bool = False
) -> dict[str, str]:
    """The three headers of one attempt, with one signature for each key. `timestamp`: seconds since 1970."""
    signatures = " ".join(sign(key, message_id, timestamp, body, raw=raw) for key in keys)
    return {
        f"{prefix}-id": message_id,
        f"{prefix}-timestamp": str(timestamp),
        f"{prefix}-signature": signatures,
    }


def sign(key: str, message_id: str, timestamp: int, body: bytes, *, raw: bool = False) -> str:
    """`v1,<base64>` with a `whsec_` secret, `v1a,<base64>` with a `whsk_` private key.

    `raw`: the secret's text is the key as it stands, not base64 of one.
    """
    content = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
    if key.startswith("whsk_"):
        seed = b64decode(key.removeprefix("whsk_"))[:SEED]
        return "v1a," + b64encode(Ed25519PrivateKey.from_private_bytes(seed).sign(content)).decode()
    secret = key.encode() if raw else b64decode(key.removeprefix("whsec_") + "==")  # surplus padding is ignored
    return "v1," + b64encode(hmac.new(secret, content, hashlib.sha256).digest()).decode()


def message_id_for(body: bytes) -> str:
    """A `webhook-id` as senders make it, the same for the same body."""
    return "msg_" + hashlib.sha256(body).hexdigest()[:27]


def demo(setting: str = "signing_secret") -> Callable[[Path], tuple[dict[str, Any], dict[str, str]]]:
    """For `Simulation.demo`: a fresh `whsec_` secret as the only setting."""

    def make(_: Path) -> tuple[dict[str, Any], dict[str, str]]:
        secret = new_secret()
        return {setting: [secret]}, {setting: secret}

    return make


def post(
    *, prefix: str = "webhook", raw: bool = False, bare: bool = False
) -> Callable[[Sequence[Any], Mapping[str, str], datetime], Sequence[Post]]:
    """For `Simulation.post`: one request for each item. `raw`: see `sign`. `bare`: without `v1,` before a signature."""

    def make(items: Sequence[Any], keys: Mapping[str, str], now: datetime) -> Sequence[Post]:
        def headers(body: bytes) -> dict[str, str]:
            made = signed_headers(
                tuple(keys.values()), message_id_for(body), int(now.timestamp()), body, prefix=prefix, raw=raw
            )
            name = f"{prefix}-signature"
            return made | {name: made[name].replace("v1,", "")} if bare else made

        return posts.one_by_one(items, headers)

    return make
