"""What the running parts tell the metrics and /status."""

from __future__ import annotations

import functools
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from worker import __version__
from worker.config import Settings
from worker.kafka.connection import Connection
from worker.kafka.lag import lags_of
from worker.kafka.ledger import Entry, PartitionLedger
from worker.kafka.producer import PRODUCER
from worker.kafka.publishing import Publishing
from worker.lane_states import LaneState
from worker.metrics import Metrics, set_lag
from worker.protocols import Backend
from worker.recent import Recent, Totals
from worker.records import source_of

REMEMBERED = 10  # refused records
EACH_UP_TO = 8  # records settled at once, whose ages are all counted; of more, so many stand for the others
SHOWN_CHARS = 300  # of a refusal's message
MEASURE_S = 1.0  # the least time between two looks at the rates: both clients report
BEHIND_S = 10.0  # how long there must have been a lag until the rate tells how fast the worker can be


class Observer:
    """Listens to the delivery's and the clients' hooks; holds nothing that the flow depends on."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        connection: Connection,
        delivery: Publishing,
        backend: Backend,
        lanes: Callable[[], Sequence[LaneState]],
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._delivery = delivery
        self._backend = backend
        self._connection = connection
        self._started_s = time.time()
        self._lanes = lanes
        self._consumed_of = functools.cache(metrics.records_consumed.labels)  # which takes longer than the counting
        self._taken = self._settled = self._refused = 0
        self._refusals: deque[dict[str, Any]] = deque(maxlen=REMEMBERED)  # newest first
        self._recent = Recent(metrics, self._totals)
        self._rate = 0.0  # records settled a second, moving average
        self._last = (time.monotonic(), 0, backend.busy_seconds)
        self._lag = 0
        self._caught_up_s = time.monotonic()  # the last look that found no lag
        self._lags: Mapping[tuple[str, int], int] = {}  # replaced, never changed: other threads read it
        delivery.on_settled = self._settle
        delivery.on_taken = self._take
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
        cpu = "cpu" if settings.engine.backend == "cpu" else "cpu_fallback"
        metrics.engine_fit_info.labels(told.get("fit", cpu)).set(1)
        metrics.records_in_flight.set_function(delivery.in_flight)
        metrics.lanes_busy.set_function(lambda: backend.busy_lanes)
        metrics.partitions_assigned.set_function(lambda: len(delivery.consumer.ledgers))
        metrics.partitions_paused.set_function(
            lambda: len(delivery.consumer.ledgers) if delivery.consumer.is_held else 0
        )

    def status(self) -> Mapping[str, Any]:
        """What the worker is and does, for people; numbers are since the start unless named otherwise.

        Other threads ask, while the loop goes on: numbers of one answer may be some records apart.
        """
        settings, model, recent = self._settings, self._backend.model, self._recent.report()
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
                "lags": {f"{topic}/{number}": lag for (topic, number), lag in self._lags.items()},
            },
            "delivery": {
                "mode": settings.delivery.mode,
                "errors_to": settings.delivery.errors_to,
                "in_flight": self._delivery.in_flight(),
            },
            "lanes": {
                "all": self._backend.lane_count,
                "busy": self._backend.busy_lanes,
                "busy_ratio": recent["busy_ratio"],
                "each": [lane._asdict() for lane in self._lanes()],
            },
            "records": {
                "taken": self._taken,
                "settled": self._settled,
                "published": self._settled - self._refused,
                "refused": self._refused,
                "per_second": round(self._rate, 1),
                **recent["rates"],
            },
            **{name: recent[name] for name in ("batches", "latency_s", "stages_s", "history")},
            "refused": list(self._refusals),
        }

    def _totals(self) -> Totals:
        return Totals(self._taken, self._settled - self._refused, self._refused, self._backend.busy_seconds)

    def _take(self, ledger: PartitionLedger, count: int) -> None:
        self._taken += count
        self._consumed_of(ledger.topic, ledger.partition).inc(count)

    def _settle(self, entries: Sequence[Entry]) -> None:
        now_ms, count = time.time() * 1000, len(entries)
        observe = self._metrics.end_to_end_seconds.of[""].observe
        step = max(
            1, -(-count // EACH_UP_TO)
        )  # those beside each other in a large settlement are of about the same age
        for place in range(0, count, step):
            if created_ms := entries[place].created_ms:
                observe(max(0.0, now_ms - created_ms) / 1000, min(step, count - place))
        refused = 0
        if self._delivery.refusals > self._refused:  # else there is none among them
            codes = Counter([entry.refusal[0] for entry in entries if entry.refusal is not None])
            for code, times in codes.items():
                self._metrics.dead_letters.labels(code).inc(times)
            if refused := codes.total():
                self._remember(entries)
        self._settled += len(entries)
        self._refused += refused
        self._metrics.results_published.inc(len(entries) - refused)

    def _remember(self, entries: Sequence[Entry]) -> None:
        """Code, message and place of the refused ones; nothing else that is theirs."""
        refused = [(entry.record, *entry.refusal) for entry in entries if entry.refusal is not None]
        for record, code, message in refused[-REMEMBERED:]:
            told = {"code": code, "source": source_of(record), "message": message[:SHOWN_CHARS]}
            self._refusals.appendleft({"time_s": round(time.time(), 3), **told})

    def _report(self, name: str, report: Mapping[str, Any]) -> None:
        metrics = self._metrics
        self._recent.note()
        self._measure()
        for broker in report.get("brokers", {}).values():
            rtt = broker.get("rtt", {})
            if broker.get("nodeid", -1) >= 0 and rtt.get("cnt", 0):  # of the last interval, which may have had none
                metrics.kafka_rtt_seconds.labels(name, str(broker["nodeid"])).set(rtt["avg"] / 1e6)
        if name == PRODUCER:
            metrics.kafka_queue_messages.labels(name).set(report.get("msg_cnt", 0))
        else:
            metrics.kafka_queue_messages.labels(name).set(report.get("replyq", 0))
            self._lags = lags_of(report, self._delivery.consumer.ledgers)
            set_lag(metrics, self._lags)
            self._lag = sum(self._lags.values())
            metrics.backlog_seconds.set(self._backlog_s())

    def _backlog_s(self) -> float:
        """Time that the lag takes at the present rate; 0 while it is new.

        The rate of a worker that was idle, or has just got its partitions, is that of a worker with nothing to do: it
        would seem to need hours, and the autoscaler would start all the workers that there may be.
        """
        now_s = time.monotonic()
        if not self._lag:
            self._caught_up_s = now_s
        return self._lag / max(self._rate, 1.0) if now_s - self._caught_up_s >= BEHIND_S else 0.0

    def _measure(self) -> None:
        """Rates since the last look."""
        now_s, busy_s = time.monotonic(), self._backend.busy_seconds
        last_s, last_settled, last_busy_s = self._last
        elapsed_s = now_s - last_s
        if elapsed_s < MEASURE_S:
            return
        self._last = (now_s, self._settled, busy_s)
        self._metrics.gpu_busy_ratio.set(min(1.0, (busy_s - last_busy_s) / elapsed_s))
        self._rate = 0.5 * self._rate + 0.5 * (self._settled - last_settled) / elapsed_s
