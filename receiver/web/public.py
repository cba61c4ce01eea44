"""The public listener: webhooks, and one word about health."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from receiver.web.webhooks import PREFIX, Webhooks

Application = Callable[[Any, Any, Any], Awaitable[None]]


async def healthz(_: Request) -> PlainTextResponse:
    """The process answers; says nothing about what it depends on."""
    return PlainTextResponse("ok\n")


def public_app(webhooks: Webhooks) -> Application:
    """Webhooks go past Starlette, whose request objects would cost as much as all of the rest."""
    others = Starlette(routes=[Route("/healthz", healthz)])

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].startswith(PREFIX):
            await webhooks(scope, receive, send)
        else:
            await others(scope, receive, send)

    return application
