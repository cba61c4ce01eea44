"""What `/metrics` shows of receiving. No label's values are a stranger's to choose.

Counting happens once for each transaction or request; names, help and types are put together only for a scrape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from receiver.histogram import Histogram
from receiver.ingest.receive import Ingest
from receiver.ingest.writer import Writer
from receiver.web.budget import Budget

_UNKNOWN: Final = "unknown"  # the mailbox provider of an event without a recipient


class IngestCollector(Collector):
    """Requests, events and transactions of this process."""

    def __init__(self, ingest: Ingest, writer: Writer, budget: Budget) -> None:
        self._ingest = ingest
        self._writer = writer
        self._budget = budget

    def collect(self) -> Iterator[Metric]:
        """One family after the other."""
        yield self._requests("request", "receiver_requests", "Webhook requests by outcome.", "outcome")
        yield self._requests("refused", "receiver_refused", "Requests that did not prove their sender.", "reason")
        yield self._requests("quarantined", "receiver_quarantined", "Items and deliveries set aside as unreadable.")
        yield from self._events()
        yield from self._transactions()
        yield GaugeMetricFamily("receiver_in_flight_bytes", "Bytes of requests in flight.", self._budget.used)

    def _requests(self, what: str, name: str, text: str, label: str | None = None) -> Metric:
        counts: Counter[tuple[str, ...]] = Counter()
        for (kind, source, detail), count in list(self._ingest.counts.items()):
            if kind == what:
                counts[(source, detail) if label else (source,)] += count
        return counter(name, text, ("source", label) if label else ("source",), counts)

    def _events(self) -> Iterator[Metric]:
        events: Counter[tuple[str, ...]] = Counter()
        bounces: Counter[tuple[str, ...]] = Counter()
        for (source, type_, mailbox, category), count in list(self._writer.events.items()):
            events[source, type_] += count
            if category is not None:
                bounces[mailbox or _UNKNOWN, category] += count
        yield counter("receiver_events", "Events stored, each once.", ("source", "type"), events)
        text = "Bounces stored, by whose mailbox it was and by category."
        yield counter("receiver_bounces", text, ("mailbox_provider", "category"), bounces)

    def _transactions(self) -> Iterator[Metric]:
        writer = self._writer
        counts = writer.counts
        text = "Events that had been stored before, and were ignored."
        yield CounterMetricFamily("receiver_duplicates", text, counts["rows"] - counts["new"])
        text = "Events that Postgres could not hold and that went to quarantine."
        yield CounterMetricFamily("receiver_set_aside", text, counts["set_aside"])
        yield histogram("receiver_commit_seconds", "Time that ingest transactions took.", writer.commits)
        yield histogram("receiver_batch_events", "Events in an ingest transaction.", writer.batches)
        yield GaugeMetricFamily("receiver_waiting_rows", "Rows that wait for a transaction.", writer.waiting)
        text = "Open connections that write what is received."
        yield GaugeMetricFamily("receiver_ingest_connections", text, writer.connected)


def counter(name: str, text: str, labels: tuple[str, ...], counts: Counter[tuple[str, ...]]) -> Metric:
    """A counter for each combination of labels."""
    family = CounterMetricFamily(name, text, labels=labels)
    for values, count in counts.items():
        family.add_metric(values, count)
    return family


def histogram(name: str, text: str, values: Histogram) -> Metric:
    """A histogram without labels."""
    return HistogramMetricFamily(name, text, buckets=list(values.cumulative()), sum_value=values.total)
