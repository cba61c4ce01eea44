"""The admin listener, on loopback by default: readiness with reasons, metrics, and the API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import prometheus_client
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from receiver.sources import Source
from receiver.store.connect import KeptConnection
from receiver.watching.alarm import Alarm
from receiver.watching.loop_lag import LoopLag
from receiver.watching.observer import Observer, Probe
from receiver.web.metrics import DatabaseCollector, ProcessCollector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
NAME: Final = "receiver watch"  # application_name of the connections

Check = Callable[[], str | None]


async def healthz(_: Request) -> PlainTextResponse:
    """The process answers; says nothing about what it depends on."""
    return PlainTextResponse("ok\n")


@asynccontextmanager
async def watched(
    dsn: str,
    alarm: Alarm,
    *,
    checks: Mapping[str, Check],
    collectors: Sequence[Collector],
    sources: Mapping[str, Source] | None = None,
    routes: Sequence[BaseRoute] = (),
) -> AsyncIterator[Starlette]:
    """The admin application of this process, while the block runs; problems are looked for meanwhile.

    `checks`: for each of its parts a function that returns what is wrong with it, or None. `routes`: what else
    it serves.
    """
    probe, observer, lag = Probe(KeptConnection(dsn, name=NAME)), Observer(KeptConnection(dsn, name=NAME)), LoopLag()
    registry = CollectorRegistry()
    prometheus_client.ProcessCollector(registry=registry)
    for collector in (ProcessCollector(lag), *collectors, DatabaseCollector(observer, sources or {})):
        registry.register(collector)
    tasks = [asyncio.create_task(alarm.run()), asyncio.create_task(lag.run())]
    try:
        yield _application(probe, observer, checks, registry, routes)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await observer.close()
        probe.close()


def _application(
    probe: Probe,
    observer: Observer,
    checks: Mapping[str, Check],
    registry: CollectorRegistry,
    routes: Sequence[BaseRoute],
) -> Starlette:
    async def readyz(_: Request) -> JSONResponse:
        database, _seen = await asyncio.gather(probe.trouble(), observer.refresh())
        parts = {"database": database, "partitions": _partitions(observer)}
        parts |= {name: check() for name, check in checks.items()}
        ready = not any(parts.values())
        return JSONResponse(
            {"ready": ready, "parts": {name: wrong or "ok" for name, wrong in parts.items()}},
            status_code=200 if ready else 503,
        )

    async def metrics(_: Request) -> Response:
        await observer.refresh()
        return Response(generate_latest(registry), media_type=CONTENT_TYPE)

    own = [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]
    return Starlette(routes=[*own, *routes])


def _partitions(observer: Observer) -> str | None:
    seen = observer.latest
    if seen is None or (seen.covered_until is not None and seen.covered_until > seen.at):
        return None
    return "there is none for the events of now"
