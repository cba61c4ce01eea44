"""What a client sends to a token endpoint (RFC 6749, sections 2.3.1 and 4.4), and how it is answered."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_plus

from receiver.contract import Answer
from receiver.forms import fields_of, is_form

MAX_BODY: Final = 8192
ASK: Final = ("www-authenticate", 'Basic realm="oauth", charset="UTF-8"')
_NEVER_STORED: Final = (("cache-control", "no-store"), ("pragma", "no-cache"))


class WrongRequest(Exception):
    """`code`: as RFC 6749, section 5.2, has it."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks for a token. `pairs`: id and secret, as they came and decoded. `scope`: what for; None: all."""

    id: str
    pairs: tuple[tuple[str, bytes], ...]
    scope: str | None = None


def read_request(headers: Mapping[str, str], body: bytes) -> Asked:
    """Raises WrongRequest. No grant_type is the only one there is: SparkPost's sample has none
    (https://developers.sparkpost.com/api/webhooks/, seen 2026-11).
    """
    fields = _fields(headers, body)
    if fields.get("grant_type", "client_credentials") != "client_credentials":
        raise WrongRequest("unsupported_grant_type", "only client_credentials")
    scope, given = fields.get("scope"), headers.get("authorization")
    if given is None:
        if "client_id" not in fields or "client_secret" not in fields:
            raise WrongRequest("invalid_client", "neither Basic credentials, nor client_id and client_secret")
        id_ = fields["client_id"]
        return Asked(id_, ((id_, fields["client_secret"].encode(errors="replace")),), scope)
    if "client_secret" in fields:
        raise WrongRequest("invalid_request", "credentials in the header and in the body")
    return _basic(given, scope)


def issued(token: str, lifetime: int, **further: str) -> Answer:
    """The answer with a token that is good for `lifetime` seconds."""
    return _json(200, {"access_token": token, "token_type": "Bearer", "expires_in": lifetime, **further})


def refused(wrong: WrongRequest) -> Answer:
    """The answer to a wrong request."""
    error = {"error": wrong.code, "error_description": wrong.detail}
    return _json(401, error, ASK) if wrong.code == "invalid_client" else _json(400, error)


def later(seconds: float) -> Answer:
    """The answer to too many requests."""
    wait = ("retry-after", str(max(int(seconds), 1)))
    return _json(429, {"error": "temporarily_unavailable", "error_description": "too many requests"}, wait)


def _fields(headers: Mapping[str, str], body: bytes) -> dict[str, str]:
    """The parameters of a form; of a JSON object too: SparkPost documents the values and not the encoding (as above).

    Raises WrongRequest.
    """
    kind = headers.get("content-type", "")
    try:
        pairs = fields_of(kind, body) if is_form(kind) else _json_pairs(body)
    except (ValueError, RecursionError) as error:
        raise WrongRequest("invalid_request", "the body is neither a form nor a JSON object of texts") from error
    found = dict(pairs)
    if len(found) < len(pairs):
        raise WrongRequest("invalid_request", "a parameter is given twice")
    return found


def _json_pairs(body: bytes) -> list[tuple[str, str]]:
    value: Any = json.loads(body) if body.strip() else {}
    if not isinstance(value, dict):
        raise ValueError("no object")  # noqa: TRY004 - one kind of fault for the caller
    return [(name, one) for name, one in value.items() if isinstance(one, str)]


def _basic(value: str, scope: str | None) -> Asked:
    """Basic credentials: RFC 6749 has both parts encoded as in a form, which many clients leave out."""
    scheme, _, encoded = value.strip().partition(" ")
    try:
        decoded = b64decode(encoded.strip(), validate=True).decode()
    except ValueError:  # no Base64, no UTF-8
        decoded = ""
    id_, colon, secret = decoded.partition(":")
    if scheme.lower() != "basic" or not colon:
        raise WrongRequest("invalid_client", "the header Authorization is not of the kind Basic")
    plain = (unquote_plus(id_), unquote_plus(secret).encode())
    return Asked(plain[0], (plain, (id_, secret.encode())), scope)


def _json(status: int, value: Mapping[str, object], *headers: tuple[str, str]) -> Answer:
    body = json.dumps(value).encode()
    return Answer(status=status, body=body, content_type="application/json", headers=(*_NEVER_STORED, *headers))
