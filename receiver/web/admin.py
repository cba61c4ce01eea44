"""The admin listener, on loopback by default: readiness with reasons, and metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from receiver.ingest.receive import Ingest
from receiver.ingest.writer import Writer
from receiver.web.budget import Budget
from receiver.web.public import healthz

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
Check = Callable[[], Awaitable[str | None]]


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


class IngestCollector(Collector):
    """Prometheus metrics of receiving. No label's values are a stranger's to choose."""

    def __init__(self, ingest: Ingest, writer: Writer, budget: Budget) -> None:
        self._ingest = ingest
        self._writer = writer
        self._budget = budget

    def collect(self) -> Iterator[Metric]:
        """One family after the other."""
        yield self._counts("request", "receiver_requests", "Webhook requests by outcome.", "outcome")
        yield self._counts("refused", "receiver_refused", "Refused requests by reason.", "reason")
        yield self._counts("quarantined", "receiver_quarantined", "Quarantined items.", "kind")
        counts = self._writer.counts
        for name, text in _WRITER.items():
            yield CounterMetricFamily(f"receiver_{name}", text, counts[name])
        yield CounterMetricFamily(
            "receiver_commit_seconds", "Time spent in ingest transactions.", counts["microseconds"] / 1e6
        )
        yield GaugeMetricFamily("receiver_waiting_rows", "Rows that wait for a transaction.", self._writer.waiting)
        yield GaugeMetricFamily("receiver_in_flight_bytes", "Bytes of requests in flight.", self._budget.used)

    def _counts(self, what: str, name: str, text: str, label: str) -> Metric:
        family = CounterMetricFamily(name, text, labels=["source", label])
        for (kind, source, detail), count in list(self._ingest.counts.items()):
            if kind == what:
                family.add_metric([source, detail], count)
        return family


_WRITER: Final = {
    "transactions": "Ingest transactions.",
    "rows": "Events written, duplicates included.",
    "new": "Events that were new.",
    "set_aside": "Events that Postgres could not hold and that went to quarantine.",
}
