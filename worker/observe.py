"""What the running parts tell the metrics and /status."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from worker import __version__
from worker.config import Settings
from worker.kafka.connection import Connection
from worker.kafka.ledger import Entry
from worker.kafka.publishing import Publishing
from worker.metrics import Metrics, set_lag
from worker.protocols import Backend


class Observer:
    """Listens to the delivery's and the clients' hooks; holds nothing that the flow depends on."""

    def __init__(
        self, settings: Settings, metrics: Metrics, connection: Connection, delivery: Publishing, backend: Backend
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._delivery = delivery
        self._backend = backend
        self._connection = connection
        self._started_s = time.time()
        self._settled = 0
        self._rate = 0.0  # records settled a second, moving average
        self._last = (time.monotonic(), 0, backend.busy_seconds)
        self._lag = 0
        delivery.on_settled = self._settle
        delivery.on_taken = self._take
        delivery.on_dead_letter = lambda code: metrics.dead_letters.labels(code).inc()
        delivery.on_full = lambda: metrics.retries.labels("producer_full").inc()
        delivery.consumer.on_rebalance = lambda kind: metrics.rebalances.labels(kind).inc()
        delivery.on_transaction = lambda outcome: metrics.transactions.labels(outcome).inc()
        delivery.consumer.on_commit = lambda outcome: metrics.commits.labels(outcome).inc()
        connection.on_statistics = self._report
        metrics.build_info.labels(__version__).set(1)
        metrics.lanes.set(backend.lane_count)
        told = backend.describe()
        model = backend.model
        metrics.engine_info.labels(
            model.name, model.version, told["gpu"], told["compute_capability"], told["tensorrt"], told["plan"]
        ).set(1)
        metrics.records_in_flight.set_function(delivery.in_flight)
        metrics.lanes_busy.set_function(lambda: backend.busy_lanes)
        metrics.partitions_assigned.set_function(lambda: len(delivery.consumer.ledgers))
        metrics.partitions_paused.set_function(
            lambda: len(delivery.consumer.ledgers) if delivery.consumer.is_held else 0
        )

    def status(self) -> Mapping[str, Any]:
        """What the worker is and does, for people; numbers are since the start unless named otherwise."""
        settings, metrics, model = self._settings, self._metrics, self._backend.model
        latency = metrics.end_to_end_seconds.of[""]
        return {
            "version": __version__,
            "uptime_s": round(time.time() - self._started_s, 1),
            "model": {
                "name": model.name,
                "version": model.version,
                "inputs": [{"name": t.name, "datatype": t.datatype, "shape": t.shape} for t in model.inputs],
                "outputs": [{"name": t.name, "datatype": t.datatype, "shape": t.shape} for t in model.outputs],
            },
            "engine": dict(self._backend.describe()),
            "kafka": {
                "input_topics": settings.kafka.input_topics,
                "output_topic": settings.kafka.output_topic,
                "dead_letter_topic": settings.kafka.dead_letter_topic,
                "group_id": settings.kafka.group_id,
                "is_up": self._connection.is_up,
                "partitions": sorted(f"{topic}/{number}" for topic, number in list(self._delivery.consumer.ledgers)),
                "lag": self._lag,
            },
            "delivery": {"mode": settings.delivery.mode, "in_flight": self._delivery.in_flight()},
            "lanes": {"all": self._backend.lane_count, "busy": self._backend.busy_lanes},
            "records": {"settled": self._settled, "per_second": round(self._rate, 1)},
            "latency_s": {"p50": latency.quantile(0.5), "p99": latency.quantile(0.99)},
        }

    def _take(self, entries: Sequence[Entry]) -> None:
        for ledger, count in Counter(entry.ledger for entry in entries).items():
            self._metrics.records_consumed.labels(ledger.topic, str(ledger.partition)).inc(count)

    def _settle(self, entries: Sequence[Entry]) -> None:
        now_ms = time.time() * 1000
        created = [entry.record.timestamp() for entry in entries]
        self._metrics.end_to_end_seconds.of[""].observe_all(
            [max(0.0, now_ms - ms) / 1000 for kind, ms in created if kind]
        )
        refused = sum(entry.refusal is not None for entry in entries)
        self._settled += len(entries)
        self._metrics.results_published.inc(len(entries) - refused)

    def _report(self, name: str, report: Mapping[str, Any]) -> None:
        metrics = self._metrics
        for broker in report.get("brokers", {}).values():
            if broker.get("nodeid", -1) >= 0:
                rtt = broker.get("rtt", {}).get("avg", 0) / 1e6
                metrics.kafka_rtt_seconds.labels(name, str(broker["nodeid"])).set(rtt)
        if name == "producer":
            metrics.kafka_queue_messages.labels(name).set(report.get("msg_cnt", 0))
            return
        metrics.kafka_queue_messages.labels(name).set(report.get("replyq", 0))
        ours = self._delivery.consumer.ledgers
        lags = {
            (topic, int(number)): max(0, partition.get("consumer_lag", 0))
            for topic, entry in report.get("topics", {}).items()
            for number, partition in entry.get("partitions", {}).items()
            if (topic, int(number)) in ours
        }
        set_lag(metrics, lags)
        self._lag = sum(lags.values())
        self._measure()

    def _measure(self) -> None:
        """Rates between two reports of the consumer."""
        now_s, busy_s = time.monotonic(), self._backend.busy_seconds
        last_s, last_settled, last_busy_s = self._last
        elapsed_s = max(1e-6, now_s - last_s)
        self._last = (now_s, self._settled, busy_s)
        self._metrics.gpu_busy_ratio.set(min(1.0, (busy_s - last_busy_s) / elapsed_s))
        self._rate = 0.5 * self._rate + 0.5 * (self._settled - last_settled) / elapsed_s
        self._metrics.backlog_seconds.set(self._lag / self._rate if self._rate >= 1 else float(self._lag))
