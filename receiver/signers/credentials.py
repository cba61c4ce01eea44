"""Credentials that a provider sends along instead of a signature."""

from __future__ import annotations

from base64 import b64encode


def basic(username: str, password: str) -> str:
    """The value of an `Authorization` header of the kind Basic (RFC 7617)."""
    return "Basic " + b64encode(f"{username}:{password}".encode()).decode()
