"""The admin listener, on loopback by default: readiness with reasons, and metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
Check = Callable[[], Awaitable[str | None]]


async def healthz(_: Request) -> PlainTextResponse:
    """The process answers; says nothing about what it depends on."""
    return PlainTextResponse("ok\n")


def admin_app(checks: dict[str, Check], collector: Collector) -> Starlette:
    """`checks`: for each part a function that returns what is wrong with it, or None."""
    registry = CollectorRegistry()
    registry.register(collector)

    async def readyz(_: Request) -> JSONResponse:
        parts = {name: await check() for name, check in checks.items()}
        ready = not any(parts.values())
        return JSONResponse(
            {"ready": ready, "parts": {name: wrong or "ok" for name, wrong in parts.items()}},
            status_code=200 if ready else 503,
        )

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE)

    return Starlette(routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)])
