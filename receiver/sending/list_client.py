"""The HTTP client with which the suppression lists of providers are read and changed: patient, since nobody hurries."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from pydantic import SecretStr

from receiver.errors import ReceiverError, Unavailable
from receiver.outbound import Answer
from receiver.sending.api import outbound_to, wait_of

TRIES: Final = 6
PAUSE: Final = timedelta(seconds=2)  # before the second try; each further one is twice as long
TOTAL: Final = 120.0  # seconds for one call: some lists come in one piece
LARGEST: Final = 256 << 20  # bytes of one answer
_LATER: Final = frozenset([408, 425, 429, 500, 502, 503, 504])
_BUSY: Final = ("TooManyRequestsException", "ThrottlingException", "Throttling")  # what SES says with 400

Head = Callable[[SecretStr, str, str, bytes], Mapping[str, str]]


class ListFault(ReceiverError):
    """The provider's list cannot be read or changed; says why."""


class ListClient:
    """Calls one API. `head`: the headers of a request, by key, method, URL and body.

    Whatever is said here can be said twice, so that each call is tried again, `tries` times in all.
    """

    tries: int = TRIES

    def __init__(self, url: str, keys: Sequence[SecretStr], head: Head, *, private: bool) -> None:
        self._url = url.rstrip("/")
        self._keys = keys
        self._head = head
        self._outbound = outbound_to(url, private=private, total=TOTAL)

    async def call(self, method: str, path: str, value: object = None, *, missing: bool = False) -> Any:
        """The answer's JSON, None where it has none. `missing`: 404 is an answer too. Raises ListFault."""
        body = b"" if value is None else msgspec.json.encode(value)
        answer = await self._answer(method, self._url + path, body)
        if not 200 <= answer.status < 300 and not (missing and answer.status == 404):
            raise ListFault(f"{self._host} answered {answer.status} to {method} {_without_address(path)}{_why(answer)}")
        if len(answer.body) == LARGEST:
            raise ListFault(f"{self._host} answered with more than {LARGEST >> 20} MB")
        return _decoded(answer)

    async def aclose(self) -> None:
        """Close connections."""
        await self._outbound.aclose()

    @property
    def _host(self) -> str:
        return urlsplit(self._url).hostname or ""

    async def _answer(self, method: str, url: str, body: bytes) -> Answer:
        """The first that is not "later"; at a refused key, the next one's."""
        for attempt in range(1, self.tries + 1):
            try:
                answer = await self._with_keys(method, url, body)
            except Unavailable as error:
                if attempt == self.tries:
                    raise ListFault(str(error)) from error
                wait = None
            else:
                if not _is_later(answer) or attempt == self.tries:
                    return answer
                wait = wait_of(answer.headers, datetime.now(UTC))
            await asyncio.sleep(max(wait or timedelta(0), PAUSE * 2 ** (attempt - 1)).total_seconds())
        raise AssertionError("unreachable")

    async def _with_keys(self, method: str, url: str, body: bytes) -> Answer:
        for key in self._keys:
            headers = self._head(key, method, url, body)
            answer = await self._outbound.ask(method, url, body or None, headers, max_bytes=LARGEST)
            if answer.status not in (401, 403):
                break
        return answer


def _is_later(answer: Answer) -> bool:
    return answer.status in _LATER or (answer.status == 400 and any(word.encode() in answer.body for word in _BUSY))


def _without_address(path: str) -> str:
    return "/".join("ADDRESS" if "%40" in part or "@" in part else part for part in path.partition("?")[0].split("/"))


def _why(answer: Answer) -> str:
    return ": it does not accept our credentials, or they may not do this" if answer.status in (401, 403) else ""


def _decoded(answer: Answer) -> Any:
    try:
        return json.loads(answer.body) if answer.body.strip() else None
    except (ValueError, RecursionError):
        return None
