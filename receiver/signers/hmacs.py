"""HMACs as senders make them, for the simulator."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from secrets import token_urlsafe
from typing import Any


def digest(secret: str, *parts: bytes, algorithm: str = "sha256") -> bytes:
    """The HMAC of the parts joined, with the secret's text as the key."""
    return hmac.new(secret.encode(), b"".join(parts), getattr(hashlib, algorithm)).digest()


def hexadecimal(secret: str, *parts: bytes, algorithm: str = "sha256") -> str:
    """The same as hexadecimal text."""
    return digest(secret, *parts, algorithm=algorithm).hex()


def base64(secret: str, *parts: bytes, algorithm: str = "sha256") -> str:
    """The same as base64 text."""
    return b64encode(digest(secret, *parts, algorithm=algorithm)).decode()


def timed(secret: str, timestamp: int, body: bytes) -> str:
    """`t=<seconds>,v1=<hex>` over `t.body`."""
    return f"t={timestamp},v1={hexadecimal(secret, b'%d.' % timestamp, body)}"


def demo(setting: str = "signing_secret", prefix: str = "") -> Callable[[Path], tuple[dict[str, Any], dict[str, str]]]:
    """For `Simulation.demo`: a fresh secret as the only setting."""

    def make(_: Path) -> tuple[dict[str, Any], dict[str, str]]:
        secret = prefix + token_urlsafe(32)
        return {setting: [secret]}, {setting: secret}

    return make


def keys(setting: str = "signing_secret") -> Callable[[Any], Mapping[str, str] | None]:
    """For `Simulation.keys`: the first of a source's secrets."""

    def found(settings: Any) -> Mapping[str, str] | None:
        secrets = getattr(settings, setting)
        return {setting: secrets[0].get_secret_value()} if secrets else None

    return found
