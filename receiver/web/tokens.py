"""`POST /oauth/token`: access tokens for the clients of sources (RFC 6749, sections 4.4 and 5).

Who knows a client's secret is limited by itself alone: behind a proxy that nobody has named in `trusted_proxies` all
have one address, and a stranger who guesses must not keep a provider from its token. The guesses of an address are
answered at a limited rate, counted, and sampled as the source's refusals.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote_plus

import structlog

from receiver.contract import Answer, Delivery
from receiver.errors import Reason
from receiver.forms import fields_of, is_form
from receiver.ingest.credit import Credit
from receiver.ingest.receive import Ingest
from receiver.networks import Proxies, neighbourhood
from receiver.oauth import LIFETIME, Client, ClientSettings
from receiver.sources import Source
from receiver.web.http import GaveUp, Request

log = structlog.get_logger("tokens")

MAX_BODY: Final = 8192
ISSUED: Final = (60, 1.0)  # tokens of one client at once, and seconds until it may have one more
GUESSED: Final = (20, 3.0)  # likewise, wrong requests of one address for one client, and of one address for all
MOST: Final = 10_000  # addresses that are remembered

_NEVER_STORED: Final = (("cache-control", "no-store"), ("pragma", "no-cache"))
_ASKED: Final = ("www-authenticate", 'Basic realm="oauth", charset="UTF-8"')


class WrongRequest(Exception):
    """`code`: as RFC 6749, section 5.2, has it."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class _Asked:
    """Who asks for a token. `pairs`: id and secret, as they came and decoded."""

    id: str
    pairs: tuple[tuple[str, bytes], ...]


class TokenEndpoint:
    """Issues tokens to the clients of the sources that have one."""

    def __init__(self, sources: Mapping[str, Source], ingest: Ingest, proxies: Proxies) -> None:
        clients = [(one, Client(one.settings)) for one in sources.values() if isinstance(one.settings, ClientSettings)]
        self._clients = {client.id: (source, client) for source, client in clients if client}
        self._ingest = ingest
        self._proxies = proxies
        self._issued = Credit(*ISSUED)
        self._guessed = Credit(*GUESSED, most=MOST)

    def __bool__(self) -> bool:
        return bool(self._clients)

    def begin(self, request: Request) -> Answer | None:
        """None to get the body; else the answer."""
        request.limit = MAX_BODY
        return None if request.method == b"POST" else Answer(status=405, headers=(("allow", "POST"),))

    def arrived(self, request: Request) -> None:
        """The body is whole."""
        client = self._proxies.client(request.client, request.headers)
        answer = self.answer(request.headers, bytes(request.body), client, datetime.now(UTC))
        request.connection.answer(request, answer)

    def give_up(self, request: Request, why: GaveUp) -> Answer:  # noqa: ARG002 - every part of a site is asked so
        """The answer to a body that does not come whole."""
        return Answer(status={GaveUp.TOO_LARGE: 413, GaveUp.TOO_SLOW: 408}.get(why, 503))

    def answer(self, headers: Mapping[str, str], body: bytes, client: str | None, now: datetime) -> Answer:
        """A token, or an error. `client`: the address of who asks."""
        try:
            asked = _asked(headers, _fields(headers, body))
        except WrongRequest as wrong:
            return self._refuse(wrong, client, "")
        for id_, secret in asked.pairs:
            source, known = self._clients.get(id_, (None, None))
            if source is not None and known is not None and (token := known.issue(secret, source.name, now)):
                return self._token(token, source, known)
        if asked.id in self._clients:
            source, _ = self._clients[asked.id]
            delivery = Delivery(source=source.name, headers=headers, body=body, client=client, at=now)
            self._ingest.refused(source, delivery, Reason.WRONG_CREDENTIALS, "asked for a token with a wrong secret")
        return self._refuse(WrongRequest("invalid_client", "no such client, or a wrong secret"), client, asked.id)

    def _token(self, token: str, source: Source, client: Client) -> Answer:
        if not self._issued.take(client.id):
            log.warning("too many tokens", action="token_limited", source=source.name)
            return _later(ISSUED[1])
        log.info("issued a token", action="token_issued", source=source.name)
        return _json(200, {"access_token": token, "token_type": "Bearer", "expires_in": LIFETIME})

    def _refuse(self, wrong: WrongRequest, client: str | None, id_: str) -> Answer:
        place = neighbourhood(client)
        known = id_ if id_ in self._clients else ""  # a stranger cannot make up keys
        if not (self._guessed.take(place) and (not known or self._guessed.take((place, known)))):
            return _later(GUESSED[1])
        log.info("refused a token", action="token_refused", error=wrong.code)
        return _json(
            401 if wrong.code == "invalid_client" else 400,
            {"error": wrong.code, "error_description": wrong.detail},
            *([_ASKED] if wrong.code == "invalid_client" else []),
        )


def _fields(headers: Mapping[str, str], body: bytes) -> dict[str, str]:
    """The parameters of a form; of a JSON object too: SparkPost documents the values and not the encoding
    (https://developers.sparkpost.com/api/webhooks/, seen 2026-11). Raises WrongRequest.
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


def _asked(headers: Mapping[str, str], fields: Mapping[str, str]) -> _Asked:
    """Raises WrongRequest. No grant_type is the only one there is: SparkPost's sample (as above) has none."""
    if fields.get("grant_type", "client_credentials") != "client_credentials":
        raise WrongRequest("unsupported_grant_type", "only client_credentials")
    given = headers.get("authorization")
    if given is None:
        if "client_id" not in fields or "client_secret" not in fields:
            raise WrongRequest("invalid_client", "neither Basic credentials, nor client_id and client_secret")
        id_ = fields["client_id"]
        return _Asked(id_, ((id_, fields["client_secret"].encode(errors="replace")),))
    if "client_secret" in fields:
        raise WrongRequest("invalid_request", "credentials in the header and in the body")
    return _basic(given)


def _basic(value: str) -> _Asked:
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
    return _Asked(plain[0], (plain, (id_, secret.encode())))


def _json(status: int, value: Mapping[str, object], *headers: tuple[str, str]) -> Answer:
    body = json.dumps(value).encode()
    return Answer(status=status, body=body, content_type="application/json", headers=(*_NEVER_STORED, *headers))


def _later(seconds: float) -> Answer:
    wait = ("retry-after", str(max(int(seconds), 1)))
    return _json(429, {"error": "temporarily_unavailable", "error_description": "too many requests"}, wait)
