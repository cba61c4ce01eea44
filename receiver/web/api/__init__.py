"""The API on the admin listener: `/api/v1/...`, and `/oauth/token`. docs/api.md shows how to use it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from receiver.policy_settings import PolicySettings
from receiver.sending.means import Means
from receiver.store.connect import create_pool
from receiver.vault import Vault
from receiver.web.api import broadcasts, contacts, events, segments, sendable, sends, subscribing, suppressions, topics
from receiver.web.api.authentication import Gate
from receiver.web.api.document import openapi
from receiver.web.api.operations import Operation
from receiver.web.api.problems import Kind, Problem
from receiver.web.api.resource import Resource, World
from receiver.web.api.tokens import Tokens

OPERATIONS: Final = (
    *sendable.OPERATIONS,
    *contacts.OPERATIONS,
    *subscribing.OPERATIONS,
    *suppressions.OPERATIONS,
    *topics.OPERATIONS,
    *segments.OPERATIONS,
    *sends.OPERATIONS,
    *broadcasts.OPERATIONS,
    *events.OPERATIONS,
)
CONNECTIONS: Final = 4  # of one process: the most of the database that the API can take from receiving
_SETTINGS: Final = {
    "statement_timeout": "10s",
    "lock_timeout": "3s",
    "idle_in_transaction_session_timeout": "30s",
}
_PATIENCE: Final = 15.0  # seconds, after which a connection counts as lost: the server would have said something


@asynccontextmanager
async def routes(
    dsn: str, vault: Vault, public_url: str | None, policy: PolicySettings, means: Means
) -> AsyncIterator[list[BaseRoute]]:
    """What the admin application serves of the API, while the block runs. Connects when it is first asked."""
    pool = await create_pool(dsn, name="receiver api", size=CONNECTIONS, settings=_SETTINGS, command_timeout=_PATIENCE)
    world, gate = World(pool, vault, public_url, policy, means), Gate(vault)
    by_path: dict[str, list[Operation]] = {}
    for one in OPERATIONS:
        by_path.setdefault(one.root + one.path, []).append(one)
    try:
        yield [
            *(Route(path, Resource(world, gate, ones)) for path, ones in by_path.items()),
            Route("/oauth/token", Tokens(pool, gate)),
            Route(f"{Operation.root}/openapi.json", _document()),
            Route("/api/{rest:path}", _Nothing()),
        ]
    finally:
        pool.terminate()


class _Nothing:
    """What is below /api and no operation."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await Problem(Kind.NOT_FOUND, "there is no such path; see /api/v1/openapi.json").response()(
            scope, receive, send
        )


def _document() -> Callable[[Request], Awaitable[Response]]:
    text = json.dumps(openapi(OPERATIONS), ensure_ascii=False)

    async def document(_: Request) -> Response:
        return Response(text, media_type="application/json")

    return document
