"""`POST /oauth/token` of the admin listener: an access token for a key (RFC 6749, section 4.4).

The client's id is the key's number or name, its secret the key. A token is good for a quarter of an hour, for the
scopes that were asked for, and no longer than its key.
"""

from __future__ import annotations

import asyncpg
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from receiver.contract import Answer
from receiver.web.api.authentication import GUESSES, LIFETIME, Gate, Key
from receiver.web.api.problems import Problem, of_database
from receiver.web.api.reading import read_body
from receiver.web.api.resource import WAIT
from receiver.web.client_credentials import MAX_BODY, Asked, WrongRequest, issued, later, read_request, refused

log = structlog.get_logger("api")


class Tokens:
    """Issues access tokens."""

    def __init__(self, pool: asyncpg.Pool, gate: Gate) -> None:
        self._pool = pool
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            answer = await self._answer(request)
        except Problem as problem:
            answer = Answer(status=problem.kind.status)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            known = of_database(error)
            log.warning("no token", action="token_unavailable", error=type(error).__name__)
            answer = Answer(status=503 if known else 500, headers=(("retry-after", "5"),) if known else ())
        response = Response(answer.body, answer.status, media_type=answer.content_type)
        for name, value in answer.headers:
            response.headers.append(name, value)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Answer:
        if request.method != "POST":
            return Answer(status=405, headers=(("allow", "POST"),))
        body = await read_body(request, MAX_BODY)
        client = request.client.host if request.client else None
        try:
            asked = read_request(request.headers, body)
            key = await self._owner(asked)
            scopes = _scopes(key, asked.scope)
        except WrongRequest as wrong:
            if wrong.code == "invalid_client" and not self._gate.wrong(client):
                return later(GUESSES[1])
            return refused(wrong)
        log.info("issued a token", action="api_token_issued", key=key.id)
        return issued(self._gate.issue(key, scopes), LIFETIME, scope=" ".join(sorted(scopes)))

    async def _owner(self, asked: Asked) -> Key:
        """Raises WrongRequest."""
        async with self._pool.acquire(timeout=WAIT) as connection:
            for id_, secret in asked.pairs:
                key = await self._gate.owner(connection, id_, secret)
                if key is not None:
                    return key
        raise WrongRequest("invalid_client", "no such client, or a wrong secret")


def _scopes(key: Key, asked: str | None) -> frozenset[str]:
    """Those that were asked for; nothing asked for is all. Raises WrongRequest."""
    wanted = frozenset((asked or "").split()) or key.scopes
    if not wanted <= key.scopes:
        raise WrongRequest("invalid_scope", "the key has not all of these scopes")
    return wanted
