"""Everything the worker counts, under the names of docs/metrics.md."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, generate_latest
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from worker.errors import ErrorCode

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each counter, which nobody reads

PREFIX = "trt_worker_"
STAGES = ("wait", "decode", "gather", "h2d", "compute", "d2h", "encode", "publish")
SECONDS = (
    *(1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
LATENCIES = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, *SECONDS[10:], 300.0, 900.0, 3600.0)
FILL_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
ROWS = tuple(2.0**power for power in range(13))


class Observations:
    """One child of a histogram: written by the loop's thread without a lock, read by the scraper's."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self._bounds, value)] += times
        self.total += value * times

    def quantile(self, q: float) -> float:
        """Upper bound of the bucket that holds the q-quantile; 0 while empty."""
        wanted = q * sum(self.counts)
        seen = 0
        for bound, count in zip((*self._bounds, float("inf")), self.counts, strict=True):
            seen += count
            if count and seen >= wanted:
                return bound
        return 0.0


class Histogram(Collector):
    """A histogram that costs a quarter of a microsecond an observation: some are made for every record."""

    def __init__(
        self,
        name: str,
        text: str,
        bounds: Sequence[float],
        registry: CollectorRegistry,
        label: str = "",
        values: Iterable[str] = (),
    ) -> None:
        self._name, self._text, self._label = PREFIX + name, text, label
        self._bounds = tuple(bounds)
        self.of = {value: Observations(self._bounds) for value in (values if label else ("",))}
        registry.register(self)

    def observe(self, value: float) -> None:
        """Count one observation of a histogram without a label."""
        self.of[""].observe(value)

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=[self._label] if self._label else [])
        for value, observations in self.of.items():
            buckets, seen = [], 0
            for bound, count in zip((*self._bounds, float("inf")), list(observations.counts), strict=True):
                seen += count
                buckets.append(("+Inf" if bound == float("inf") else repr(bound), float(seen)))
            family.add_metric([value] if self._label else [], buckets, observations.total)
        yield family


class Metrics:
    """The metrics of one service, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(PREFIX + name, text, labels, registry=registry)

        def counter_of(name: str, text: str, label: str, values: Iterable[str]) -> Counter:
            made = counter(name, text, label)
            for value in values:
                made.labels(value)  # there from the start: rate() does not see how a series comes to 1
            return made

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(PREFIX + name, text, labels, registry=registry)

        self.records_consumed = counter("records_consumed", "Records taken in.", "topic", "partition")
        self.results_published = counter("results_published", "Results acknowledged by the broker.")
        self.dead_letters = counter_of(
            "dead_letters", "Records that could not be answered, by error code.", "code", get_args(ErrorCode)
        )
        self.records_in_flight = gauge("records_in_flight", "Records taken in and not yet settled.")
        self.batches = counter("batches", "Batches that ran, by rows rounded up to a power of two.", "bucket")
        self.batch_rows = Histogram("batch_rows", "Rows of a batch.", ROWS, registry)
        self.batch_fill_ratio = Histogram(
            "batch_fill_ratio", "Rows of a batch over the most it holds.", FILL_RATIOS, registry
        )
        self.padded_rows = counter("padded_rows", "Rows added to reach a size that the engine runs.")
        self.stage_seconds = Histogram(
            "stage_seconds",
            "Time that one batch (decode: one intake) spends in a stage.",
            SECONDS,
            registry,
            "stage",
            STAGES,
        )
        self.end_to_end_seconds = Histogram(
            "end_to_end_seconds", "Record timestamp to the broker's acknowledgement of its answer.", LATENCIES, registry
        )
        self.lanes = gauge("lanes", "Batches that can be in the backend at once.")
        self.lanes_busy = gauge("lanes_busy", "Batches in the backend, running or filling.")
        self.gpu_busy_ratio = gauge(
            "gpu_busy_ratio", "Share of the time, since the last look, in which a batch was running."
        )
        self.consumer_lag = gauge("consumer_lag", "Records behind the end of the partition.", "topic", "partition")
        self.backlog_seconds = gauge("backlog_seconds", "Time that the present lag takes at the present rate.")
        self.rebalances = counter_of(
            "rebalances", "Changes of the assignment: assign, revoke, lost.", "kind", ("assign", "revoke", "lost")
        )
        self.commits = counter_of("commits", "Offset commits: ok, failed.", "outcome", ("ok", "failed"))
        self.transactions = counter_of(
            "transactions",
            "Transactions of exactly_once: committed, aborted, fenced.",
            "outcome",
            ("committed", "aborted", "fenced"),
        )
        self.partitions_assigned = gauge("partitions_assigned", "Partitions that this worker has.")
        self.partitions_paused = gauge("partitions_paused", "Partitions paused because nothing more fits in.")
        self.retries = counter_of(
            "retries",
            "Things done again, by reason: batch_failed, producer_full.",
            "reason",
            ("batch_failed", "producer_full"),
        )
        self.ready = gauge("ready", "1 while /readyz says yes, else 0.")
        self.engine_info = gauge(
            "engine_info", "What runs the model.", "model", "version", "gpu", "compute_capability", "tensorrt", "plan"
        )
        self.engine_fit_info = gauge("engine_fit_info", "How well the engine fits this machine.", "fit")
        self.engine_load_seconds = gauge("engine_load_seconds", "Time to load the engine and pass its self-test.")
        self.build_info = gauge("build_info", "Version of the worker.", "version")
        self.kafka_rtt_seconds = gauge(
            "kafka_rtt_seconds", "Mean time from a request to a broker's answer.", "client", "broker"
        )
        self.kafka_queue_messages = gauge("kafka_queue_messages", "Messages waiting in a Kafka client.", "client")

    def expose(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def set_lag(metrics: Metrics, lags: Mapping[tuple[str, int], int]) -> None:
    """Replace the lag of all partitions; those that are no longer ours disappear."""
    shown = [sample.labels for family in metrics.consumer_lag.collect() for sample in family.samples]
    for labels in shown:  # one by one: a scrape in between must not find them all gone
        if (labels["topic"], int(labels["partition"])) not in lags:
            metrics.consumer_lag.remove(labels["topic"], labels["partition"])
    for (topic, partition), lag in lags.items():
        metrics.consumer_lag.labels(topic, str(partition)).set(lag)
