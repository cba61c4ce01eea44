"""Who asks: a key (as a bearer token, or as the password of Basic), or an access token made with one.

Who has a good key is limited by it alone; wrong ones are limited by the address they come from, so that nobody who
guesses keeps others out.
"""

from __future__ import annotations

import time
from base64 import b64decode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import asyncpg
import msgspec

from receiver.api_keys import digest, is_key
from receiver.ingest.credit import Credit
from receiver.networks import neighbourhood
from receiver.store import api_keys
from receiver.store.sql import Sql
from receiver.vault import Vault
from receiver.web.api.problems import Kind, Problem

LIFETIME: Final = 900  # seconds that an access token is good
BURST: Final = 600  # requests of one key at once,
EVERY: Final = 0.02  # and seconds until it may have one more
GUESSES: Final = (20, 3.0)  # likewise, wrong keys of one address
MOST: Final = 10_000  # addresses that are remembered
_PURPOSE: Final = "api token"
_TOKEN: Final = "rt_"  # noqa: S105 - how a token begins
_CHALLENGES: Final = (
    ("www-authenticate", 'Bearer realm="receiver"'),
    ("www-authenticate", 'Basic realm="receiver", charset="UTF-8"'),
)


@dataclass(frozen=True, slots=True)
class Key:
    """Who asks. `scopes`: of the key, or fewer where an access token was made for fewer."""

    id: int
    name: str
    scopes: frozenset[str]


class _Token(msgspec.Struct, array_like=True):
    key: int
    scopes: list[str]
    until: int


_read_token: Final = msgspec.json.Decoder(_Token).decode


class Gate:
    """Lets in who has a key."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._requests = Credit(BURST, EVERY, most=MOST)
        self._guesses = Credit(*GUESSES, most=MOST)

    async def enter(self, sql: Sql, headers: Mapping[str, str], client: str | None) -> Key:
        """Raises Problem: 401, or 429."""
        given = _credentials(headers.get("authorization"))
        key = await self._find(sql, given)
        if key is None:
            if not self._guesses.take(neighbourhood(client)):
                raise _later(GUESSES[1], "too many wrong keys from your address")
            raise Problem(Kind.UNAUTHORIZED, "the key or token is wrong, revoked or expired", headers=_CHALLENGES)
        if not self._requests.take(key.id):
            raise _later(EVERY, f"at most {BURST} requests at once, and {1 / EVERY:.0f} a second")
        return key

    def limits(self, key: Key) -> Mapping[str, str]:
        """The headers that say what is left (draft-ietf-httpapi-ratelimit-headers-10)."""
        left = self._requests.left(key.id)
        refill = BURST * EVERY
        wait = (BURST - left) * EVERY
        return {
            "ratelimit-policy": f'"key";q={BURST};w={refill:.0f}',
            "ratelimit": f'"key";r={left};t={wait:.0f}',
        }

    async def owner(self, sql: Sql, client_id: str, secret: bytes) -> Key | None:
        """The key that is `secret`, if it is good and `client_id` is its number or name."""
        key = await self._find(sql, secret.decode(errors="replace"), tokens=False)
        return key if key is not None and client_id in (str(key.id), key.name) else None

    def wrong(self, client: str | None) -> bool:
        """Count a wrong secret; False where there were too many from there."""
        return self._guesses.take(neighbourhood(client))

    def issue(self, key: Key, scopes: frozenset[str]) -> str:
        """An access token for some of the key's scopes. It dies with the key."""
        plain = msgspec.json.encode(_Token(key.id, sorted(scopes), int(time.time()) + LIFETIME))
        return f"{_TOKEN}{_text(plain)}.{_text(self._vault.sign(plain, purpose=_PURPOSE))}"

    async def _find(self, sql: Sql, given: str, *, tokens: bool = True) -> Key | None:
        if tokens and given.startswith(_TOKEN):
            return await self._by_token(sql, given)
        if not is_key(given):
            return None
        row = await api_keys.find(sql, digest(given))
        if row is None:
            return None
        return await _noted(sql, row, frozenset(row["scopes"]))

    async def _by_token(self, sql: Sql, given: str) -> Key | None:
        body, _, signature = given.removeprefix(_TOKEN).partition(".")
        try:
            plain = _bytes(body)
            if not self._vault.verify(plain, _bytes(signature), purpose=_PURPOSE):
                return None
            token = _read_token(plain)
        except (ValueError, msgspec.MsgspecError):
            return None
        if token.until <= time.time():
            return None
        row = await api_keys.find_by_id(sql, token.key)
        return None if row is None else await _noted(sql, row, frozenset(token.scopes) & frozenset(row["scopes"]))


async def _noted(sql: Sql, row: asyncpg.Record, scopes: frozenset[str]) -> Key:
    if row["stale"]:
        await api_keys.used(sql, row["id"])
    return Key(row["id"], row["name"], scopes)


def _credentials(header: str | None) -> str:
    """The key or token. Of Basic the password, or the name where there is no password. Raises Problem."""
    if header is None:
        raise Problem(Kind.UNAUTHORIZED, "say who you are: Authorization: Bearer <key>", headers=_CHALLENGES)
    scheme, _, value = header.strip().partition(" ")
    match scheme.lower():
        case "bearer":
            return value.strip()
        case "basic":
            try:
                name, _, password = b64decode(value.strip(), validate=True).decode().partition(":")
            except ValueError:  # no Base64, no UTF-8
                return ""
            return password or name
        case _:
            return ""


def _later(seconds: float, detail: str) -> Problem:
    return Problem(Kind.TOO_MANY, detail, headers=[("retry-after", str(max(round(seconds), 1)))])


def _text(value: bytes) -> str:
    return urlsafe_b64encode(value).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
