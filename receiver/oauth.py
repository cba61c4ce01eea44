"""OAuth 2.0 client credentials (RFC 6749, section 4.4): tokens that we issue to a provider, and ask of it again.

A client belongs to one source, and its tokens are good for that source alone, for an hour. A token holds all that has
to be known (`v1.<expiry>.<nonce>.<HMAC>`) under a key that is the client's secret itself. So several processes agree, a
restart forgets nothing, and when a secret is taken out of the configuration its tokens end.

What the proof covers: nothing of the body. Whoever knows the secret or a token can say anything.
"""

from __future__ import annotations

import hmac
import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from secrets import token_urlsafe
from typing import Final

from pydantic import Field

from receiver.contract import Delivery, Secrets, SourceSettings, secret_bytes, secret_problems
from receiver.errors import Problem, Reason, Refused
from receiver.signatures import MAX_HEADER, same

PATH: Final = "/oauth/token"
LIFETIME: Final = 3600  # seconds
RIGHT: Final = "Make up a client_id, and a client_secret of at least 16 random characters: `openssl rand -hex 24`"

_TOKEN: Final = re.compile(r"(v1)\.(\d{1,12})\.([A-Za-z0-9_-]{1,64})\.([A-Za-z0-9_-]{43})")
_ID: Final = re.compile(r"[\x21-\x39\x3b-\x7e]{1,128}")  # a colon would end it in Basic credentials
_ASKED: Final = 'Bearer realm="webhooks"'  # RFC 6750, section 3
_INVALID: Final = f'{_ASKED}, error="invalid_token"'


class ClientSettings(SourceSettings):
    """What the provider gets a token with, at `/oauth/token`; then every request must carry one."""

    client_id: str | None = Field(None, description="OAuth 2.0: the client's name, which no other source has")
    client_secret: Secrets = Field([], description="OAuth 2.0: the client's secret(s)")


class Client:
    """The OAuth client of one source."""

    def __init__(self, settings: ClientSettings) -> None:
        self.id = settings.client_id or ""
        self._secrets = secret_bytes(settings.client_secret)

    def __bool__(self) -> bool:
        return bool(self._secrets)

    def issue(self, secret: bytes, source: str, now: datetime) -> str | None:
        """A token, if that is one of the client's secrets; all are compared, in constant time."""
        found: bytes | None = None
        for one in self._secrets:
            if same(one, secret):
                found = one
        if found is None:
            return None
        start = f"v1.{int(now.timestamp()) + LIFETIME}.{token_urlsafe(12)}"
        return f"{start}.{self._mac(found, source, start)}"

    def check(self, delivery: Delivery) -> None:
        """Refuse unless the delivery carries a token of this client. The sender is told so that it gets another one."""
        if "authorization" not in delivery.headers:
            raise Refused(Reason.MISSING_CREDENTIALS, "the header Authorization is missing", challenge=_ASKED)
        scheme, _, token = delivery.headers["authorization"][:MAX_HEADER].strip().partition(" ")
        found = _TOKEN.fullmatch(token.strip())
        if scheme.lower() != "bearer" or found is None:
            raise Refused(Reason.WRONG_CREDENTIALS, "the header Authorization has no token of ours", challenge=_INVALID)
        start, given = token.strip().rpartition(".")[0], found[4].encode()
        matched = False
        for secret in self._secrets:
            matched |= same(self._mac(secret, delivery.source, start).encode(), given)
        if not matched:
            wrong = "the token is not of this source's client, or of a secret that is configured no more"
            raise Refused(Reason.WRONG_CREDENTIALS, wrong, challenge=_INVALID)
        if delivery.at.timestamp() >= int(found[2]):
            raise Refused(Reason.EXPIRED_TOKEN, "the token has run out", challenge=_INVALID)

    def _mac(self, secret: bytes, source: str, start: str) -> str:
        signed = json.dumps(["access token", source, self.id, start]).encode()
        return urlsafe_b64encode(hmac.digest(secret, signed, sha256)).decode().rstrip("=")


def client_problems(settings: ClientSettings, key: str) -> Sequence[Problem]:
    """What is wrong with the client of a source, if it has one."""
    if bool(settings.client_secret) != (settings.client_id is not None):
        return [Problem(f"{key}.client_id", "needs `client_id` and `client_secret` together", RIGHT)]
    if settings.client_id is None:
        return []
    found = secret_problems(settings.client_secret, f"{key}.client_secret", RIGHT)
    if not _ID.fullmatch(settings.client_id):
        wrong = "has blanks, colons or other characters that cannot stand in a request, or is too long"
        found.append(Problem(f"{key}.client_id", wrong, RIGHT))
    return found
