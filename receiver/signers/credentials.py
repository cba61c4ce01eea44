"""Credentials that a provider sends along, as the simulator keeps and sends them.

Its keys have the names of the settings they stand for: `username` and `password`, `bearer_token`, `header_name` and
`header_value`, `url_secret`.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from secrets import token_urlsafe
from typing import Any, Final

_NAMES: Final = {"password": "username", "bearer_token": "", "header_value": "header_name", "url_secret": ""}


def basic(username: str, password: str) -> str:
    """The value of an `Authorization` header of the kind Basic (RFC 7617)."""
    return "Basic " + b64encode(f"{username}:{password}".encode()).decode()


def demo(kind: str = "password") -> Callable[[Path], tuple[dict[str, Any], dict[str, str]]]:
    """For `Simulation.demo`: a fresh secret of that kind (the setting's name) as the only credential."""

    def make(_: Path) -> tuple[dict[str, Any], dict[str, str]]:
        named = {"username": "webhook"} if kind == "password" else {}
        if kind == "header_value":
            named = {"header_name": "X-Webhook-Secret"}
        made = named | {kind: token_urlsafe(24)}
        return dict(made), made

    return make


def keys(settings: Any) -> dict[str, str]:
    """For `Simulation.keys`: the first value of each credential that a source sets."""
    found: dict[str, str] = {}
    for secret, name in _NAMES.items():
        if values := getattr(settings, secret):
            found[secret] = values[0].get_secret_value()
            if name:
                found[name] = getattr(settings, name)
    return found


def keys_with(setting: str) -> Callable[[Any], dict[str, str] | None]:
    """For `Simulation.keys` of a sender that signs with `setting`, sends credentials, or both."""

    def found(settings: Any) -> dict[str, str] | None:
        secrets = getattr(settings, setting)
        signing = {setting: secrets[0].get_secret_value()} if secrets else {}
        return signing | keys(settings) or None

    return found


def headers(given: Mapping[str, str]) -> dict[str, str]:
    """The headers that carry the credentials among the simulator's keys."""
    found: dict[str, str] = {}
    if "password" in given:
        found["authorization"] = basic(given["username"], given["password"])
    if "bearer_token" in given:
        found["authorization"] = f"Bearer {given['bearer_token']}"
    if "header_value" in given:
        found[given["header_name"]] = given["header_value"]
    return found


def query(given: Mapping[str, str]) -> str:
    """The URL's query that carries its secret, if there is one."""
    return f"token={given['url_secret']}" if "url_secret" in given else ""
