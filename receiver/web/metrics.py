"""What `/metrics` shows. No label's values are a stranger's to choose.

Counting happens once for each transaction or request; names, help and types are put together only for a scrape.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import product
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from receiver.dispatch.worker import DispatchStats
from receiver.histogram import Histogram
from receiver.ingest.receive import OUTCOMES, Ingest
from receiver.ingest.writer import Writer
from receiver.sources import Source
from receiver.store.observations import Observation
from receiver.store.standing import Standing
from receiver.watching.loop_lag import LoopLag
from receiver.watching.observer import Observer
from receiver.web.budget import Budget

_OTHER: Final = "other"  # the mailbox provider of a domain that is in no table


class IngestCollector(Collector):
    """Requests, events and transactions of this process.

    Of each of `sources` the outcomes are shown from the start: what appears with its first count has never risen.
    """

    def __init__(self, ingest: Ingest, writer: Writer, budget: Budget, sources: Collection[str]) -> None:
        self._ingest = ingest
        self._sources = sources
        self._writer = writer
        self._budget = budget

    def collect(self) -> Iterator[Metric]:
        """One family after the other."""
        yield self._requests("request", "receiver_requests", "Webhook requests by outcome.", "outcome", OUTCOMES)
        yield self._requests("refused", "receiver_refused", "Requests that did not prove their sender.", "reason", ())
        yield self._requests("quarantined", "receiver_quarantined", "Items and deliveries set aside as unreadable.")
        text = "POST requests below /webhooks/ to a URL that no source has."
        unknown = self._ingest.counts["unknown_source", "", ""]
        yield CounterMetricFamily("receiver_unknown_source", text, unknown)
        yield from self._events()
        yield from self._transactions()
        yield GaugeMetricFamily("receiver_in_flight_bytes", "Bytes of requests in flight.", self._budget.used)

    def _requests(
        self, what: str, name: str, text: str, label: str | None = None, known: Sequence[str] = ("",)
    ) -> Metric:
        """`known`: those of the label's values that are shown before they are counted."""
        counts: Counter[tuple[str, ...]] = Counter()
        for source, detail in product(self._sources, known):
            counts[(source, detail) if label else (source,)] = 0
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
                bounces[mailbox or _OTHER, category] += count
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


class DispatchCollector(Collector):
    """Handlers as this process runs them."""

    def __init__(self, stats: Callable[[], DispatchStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """One family after the other."""
        stats = self._stats()
        events: Counter[tuple[str, ...]] = Counter()
        for name, counts in stats.events.items():
            events.update({(name, _OUTCOMES[what]): count for what, count in counts.items()})
        text = "Events handed to handlers, by what came of it."
        yield counter("receiver_handler_events", text, ("handler", "outcome"), events)
        yield gauge("receiver_shards_held", "Shards of the log that this process reads.", "handler", stats.shards)
        text = "Connections of the handlers: busy, idle, and how many there may be at most."
        yield gauge("receiver_dispatch_connections", text, "state", stats.connections)


class SendingCollector(Collector):
    """Messages that this process has asked transports to send."""

    def __init__(self, counts: Callable[[], Mapping[tuple[str, str], int]]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """The one family."""
        text = "Messages by what came of the attempt to send them."
        counts: Counter[tuple[str, ...]] = Counter()
        counts.update(self._counts())
        yield counter("receiver_sends", text, ("account", "outcome"), counts)


_OUTCOMES: Final = {
    "handled": "handled",
    "handler_failed": "failed",
    "handler_asked_for_later": "later",
    "dead_letter": "given_up",
}


class DatabaseCollector(Collector):
    """The whole installation as the database shows it: the same in every process. Without a fresh look: nothing."""

    def __init__(self, observer: Observer, sources: Mapping[str, Source]) -> None:
        self._observer = observer
        self._expected = {
            name: source.settings.expect_every.total_seconds()
            for name, source in sources.items()
            if source.settings.expect_every is not None
        }

    def collect(self) -> Iterator[Metric]:
        """One family after the other."""
        text = "Whether the database was looked at successfully just now."
        yield GaugeMetricFamily("receiver_database_up", text, float(self._observer.fresh))
        text = "How long a source may be quiet, as its expect_every says."
        yield gauge("receiver_source_expect_seconds", text, "source", self._expected)
        if (seen := self._observer.latest) is not None:
            yield from _handlers(seen)
            yield from _sources(seen)
            yield from _database(seen)


def _handlers(seen: Observation) -> Iterator[Metric]:
    for name, text, value in _STANDING:
        values = {one.handler: float(value(one)) for one in seen.handlers}
        yield gauge(f"receiver_handler_{name}", text, "handler", values)
    text = "Events given up on that nobody has retried or discarded."
    yield gauge("receiver_handler_dead_letters", text, "handler", _summed(seen.dead_letters))


_STANDING: Final[Sequence[tuple[str, str, Callable[[Standing], float]]]] = (
    (
        "backlog_seconds",
        "How long the oldest event that is not handled has been due; 0: none is.",
        lambda one: one.lag_seconds,
    ),
    (
        "backlog_events",
        "Events due: not read yet (at most 1000 per shard are counted), retries, and those parked behind another.",
        lambda one: one.backlog,
    ),
    ("retries", "Events that wait for their next attempt, or for another event.", lambda one: one.retries),
    ("paused", "Whether somebody has paused it.", lambda one: one.state == "paused"),
    ("removed", "Whether processes run handlers, and none runs this one.", lambda one: one.state == "removed"),
    ("breaker_open", "Whether it is held because it fails.", lambda one: one.breaker_since is not None),
)


def _summed(counts: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    return {name: float(sum(kinds.values())) for name, kinds in counts.items()}


def _sources(seen: Observation) -> Iterator[Metric]:
    text = "Entries in quarantine that nobody has released or discarded."
    yield gauge("receiver_quarantine_open", text, "source", _summed(seen.quarantine))
    quiet, last = dict[str, float](), dict[str, float]()
    for one in seen.sources:
        since = max(one.last_event_at, one.watched_since) if one.last_event_at else one.watched_since
        quiet[one.source] = max((seen.at - since).total_seconds(), 0.0)
        if one.last_event_at:
            last[one.source] = one.last_event_at.timestamp()
    text = "Time since the source was heard of, or since somebody has been listening."
    yield gauge("receiver_source_quiet_seconds", text, "source", quiet)
    text = "When the source was last heard of."
    yield gauge("receiver_source_last_event_timestamp_seconds", text, "source", last)


def _database(seen: Observation) -> Iterator[Metric]:
    yield GaugeMetricFamily("receiver_workers", "Live processes that run handlers.", seen.workers)
    yield gauge("receiver_alerts_open", "Open alerts.", "kind", seen.alerts)
    text = "Messages that are queued or being sent, and those of the last week with an unknown outcome."
    yield gauge("receiver_outbox", text, "state", seen.sends)
    text = "Accounts that send nothing until somebody acts; * is all of them."
    yield gauge("receiver_account_paused", text, "account", dict.fromkeys(seen.paused_accounts, 1.0))
    until = seen.covered_until.timestamp() if seen.covered_until else 0.0
    text = "The end of the last partition of events."
    yield GaugeMetricFamily("receiver_partitions_until_timestamp_seconds", text, until)
    done = seen.retention.finished_at.timestamp() if seen.retention.finished_at else 0.0
    text = "When retention last did all it should; 0: never."
    yield GaugeMetricFamily("receiver_retention_done_timestamp_seconds", text, done)
    yield GaugeMetricFamily("receiver_database_bytes", "Size of the database.", seen.database_bytes)
    text = "Connections of all clients to the database server."
    yield GaugeMetricFamily("receiver_database_connections", text, seen.connections)
    text = "How many connections the database server allows."
    yield GaugeMetricFamily("receiver_database_connections_limit", text, seen.max_connections)


class ProcessCollector(Collector):
    """This process itself."""

    def __init__(self, lag: LoopLag) -> None:
        self._lag = lag
        self._version = {"version": version("email-event-receiver"), "python": platform.python_version()}

    def collect(self) -> Iterator[Metric]:
        """One family after the other."""
        info = GaugeMetricFamily("receiver_build_info", "The release, always 1.", labels=list(self._version))
        info.add_metric(list(self._version.values()), 1)
        yield info
        text = "How late timers of the event loop were, measured twice a second."
        yield histogram("receiver_loop_lag_seconds", text, self._lag.seconds)


def gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """A gauge for each value of a label."""
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
