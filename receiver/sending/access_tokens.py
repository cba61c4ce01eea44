"""OAuth 2.0 client credentials (RFC 6749, section 4.4): the access token with which an account logs in.

Microsoft 365 asks for them: https://learn.microsoft.com/en-us/exchange/client-developer/legacy-protocols/
how-to-authenticate-an-imap-pop-smtp-application-by-using-oauth (seen 2026-11).
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from pydantic import SecretStr

from receiver.errors import Unavailable
from receiver.outbound import Answer, Outbound
from receiver.sending.api import json_of

LIFETIME: Final = 300.0  # seconds, where the answer does not say
USED: Final = 0.9  # of its lifetime for which a token is used: clocks differ, and connecting takes time
_WORD: Final = re.compile(r"[a-z_]{1,40}")  # of an error (RFC 6749, section 5.2)
_HEADERS: Final = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"}


class NoToken(Exception):
    """There is no token. `ours`: we are refused, and asking again does not help."""

    def __init__(self, detail: str, *, ours: bool) -> None:
        super().__init__(detail)
        self.ours = ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a token is asked for with. Of several secrets the next is tried where one is refused."""

    token_url: str
    client_id: str
    client_secrets: list[SecretStr]
    scope: str | None


class AccessTokens:
    """The token of one account: fetched when it is needed, and kept until shortly before it runs out."""

    def __init__(self, grant: Grant, outbound: Outbound) -> None:
        self._grant = grant
        self._outbound = outbound
        self._token = ""
        self._good_until = 0.0
        self._accepted = False
        self._lock = asyncio.Lock()  # connections that open at once share one token

    async def get(self) -> str:
        """A token. Raises NoToken."""
        async with self._lock:
            if not self._token or time.monotonic() >= self._good_until:
                await self._fetch()
            return self._token

    def accepted(self, token: str) -> None:
        """A server has taken it."""
        self._accepted |= token == self._token

    def refused(self, token: str) -> bool:
        """Forget it. Whether another may be taken: that one was until now, or has been replaced already."""
        if token != self._token:
            return True
        known, self._accepted, self._token = self._accepted, False, ""
        return known

    async def aclose(self) -> None:
        """Close connections."""
        await self._outbound.aclose()

    async def _fetch(self) -> None:
        self._token, self._accepted = "", False
        for number, secret in enumerate(self._grant.client_secrets, 1):
            answer = await self._ask(secret)
            if answer.status not in (400, 401) or number == len(self._grant.client_secrets):
                self._keep(answer)
                return

    async def _ask(self, secret: SecretStr) -> Answer:
        fields = {
            "grant_type": "client_credentials",
            "client_id": self._grant.client_id,
            "client_secret": secret.get_secret_value(),
            **({"scope": self._grant.scope} if self._grant.scope else {}),
        }
        try:
            return await self._outbound.post(
                self._grant.token_url, urlencode(fields).encode(), _HEADERS, max_bytes=65536
            )
        except Unavailable as error:
            raise NoToken(f"no access token: {error}", ours=False) from error

    def _keep(self, answer: Answer) -> None:
        found = json_of(answer)
        if answer.status != 200:
            word = found.get("error")
            said = f", {word}" if isinstance(word, str) and _WORD.fullmatch(word) else ""
            ours = 400 <= answer.status < 500 and answer.status not in (408, 425, 429)
            raise NoToken(f"no access token: its server answered {answer.status}{said}", ours=ours)
        token = found.get("access_token")
        if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable():
            raise NoToken("no access token: its server's answer has none", ours=False)
        self._token = token
        self._good_until = time.monotonic() + _lifetime(found.get("expires_in")) * USED


def _lifetime(value: object) -> float:
    """Some write the number as a text."""
    return float(value) if isinstance(value, int | str) and str(value).isdigit() else LIFETIME
