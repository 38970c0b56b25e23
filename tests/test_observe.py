"""What the observer makes of the clients' reports, against a clock that a test turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from tests.clock import Clock
from tests.pages import SETTINGS_FILE
from tests.records import FakeRecord
from tests.scripted_backend import ScriptedBackend
from worker import config
from worker.kafka.connection import Connection
from worker.kafka.ledger import Entry, PartitionLedger, Reports
from worker.kafka.publishing import Publishing
from worker.metrics import Metrics
from worker.observe import BEHIND_S, Observer
from worker.tensors import ModelSpec, TensorSpec

TOPIC = "requests"
LOOK_S = 2.0  # between two reports of the consumer
MODEL = ModelSpec("m", "1", (TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 4)),))


class OnePartition:
    """A consumer that has one partition, and does nothing."""

    def __init__(self) -> None:
        self.ledgers = {(TOPIC, 0): PartitionLedger(TOPIC, 0, Reports())}
        self.is_held = False
        self.on_rebalance: Callable[[str], None]
        self.on_commit: Callable[[str], None]


class Idle:
    """The hooks of a delivery; what they tell comes from the test."""

    def __init__(self) -> None:
        self.consumer = OnePartition()
        self.refusals = 0
        self.on_settled: Callable[[list[Entry]], None]
        self.on_taken: Callable[[PartitionLedger, int], None]
        self.on_full: Callable[[], None]
        self.on_transaction: Callable[[str], None]

    def in_flight(self) -> int:
        return 0


class Scene:
    """An observer, and the worker that it looks at."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._metrics = Metrics()
        settings = config.load(SETTINGS_FILE)
        self._connection = Connection(settings.kafka)
        self._delivery = Idle()
        delivery = cast("Publishing", self._delivery)
        backend = ScriptedBackend(MODEL)
        Observer(settings, self._metrics, self._connection, delivery, backend, list)

    def settle(self, ages_s: Sequence[float], codes: Sequence[str] = ()) -> None:
        """Records of these ages are settled at once; the first ones were refused with these codes."""
        (ledger,) = self._delivery.consumer.ledgers.values()
        now_ms = time.time() * 1000
        entries = [Entry(ledger, FakeRecord(b"", created_ms=round(now_ms - 1000 * age_s))) for age_s in ages_s]
        for entry, code in zip(entries, codes, strict=False):
            entry.refusal = code, "why"
            self._delivery.refusals += 1
        self._delivery.on_settled(entries)

    def counted(self, name: str) -> dict[tuple[str, ...], float]:
        """Labels -> value of a metric's samples."""
        families = [family for family in self._metrics.registry.collect() if family.name == f"trt_worker_{name}"]
        return {
            (sample.name.removeprefix(f"trt_worker_{name}"), *sample.labels.values()): sample.value
            for family in families
            for sample in family.samples
        }

    def look(self, *, lag: int, settled: int = 0) -> float:
        """The backlog that the next report makes, with so many records settled since the last one."""
        self._clock.now_s += LOOK_S
        (ledger,) = self._delivery.consumer.ledgers.values()
        self._delivery.on_settled([Entry(ledger, FakeRecord(b""))] * settled)
        partition: dict[str, Any] = {"ls_offset": lag, "app_offset": 0}
        assert self._connection.on_statistics is not None
        self._connection.on_statistics("consumer", {"topics": {TOPIC: {"partitions": {"0": partition}}}})
        (family,) = self._metrics.backlog_seconds.collect()
        return float(family.samples[0].value)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return Scene(clock)


def test_a_lag_is_told_in_seconds_at_the_present_rate(scene: Scene) -> None:
    told = [scene.look(lag=5000, settled=200) for _ in range(20)]
    assert told[-1] == pytest.approx(50, rel=0.01)  # 100 a second


@pytest.mark.parametrize("idle_s", [0, 600])
def test_a_worker_that_only_begins_is_not_hours_behind(scene: Scene, idle_s: int) -> None:
    """10,000 records, of which 500 a second are done as soon as the first batch is back: 20 seconds' work."""
    for _ in range(round(idle_s / LOOK_S)):
        assert scene.look(lag=0) == 0
    told = [scene.look(lag=10_000), scene.look(lag=10_000, settled=10)]
    told += [scene.look(lag=10_000, settled=1000) for _ in range(10)]
    assert max(told) < 30
    assert told[-1] == pytest.approx(20, rel=0.1)


def test_a_worker_that_settles_nothing_has_a_backlog_all_the_same(scene: Scene) -> None:
    """There is no rate to tell it by: then a record counts as a second."""
    told = [scene.look(lag=100) for _ in range(round(2 * BEHIND_S / LOOK_S))]
    assert told[-1] == 100


def test_a_lag_that_was_gone_is_a_new_one(scene: Scene) -> None:
    for _ in range(10):
        scene.look(lag=5000, settled=2000)
    assert scene.look(lag=0) == 0
    assert scene.look(lag=5000) == 0


@pytest.mark.parametrize("count", [1, 31, 32, 33, 1000])
def test_every_settled_record_counts_once_however_many_come_together(scene: Scene, count: int) -> None:
    """Of many, not every age is looked at; yet the histogram's count and sum are those of all of them."""
    scene.settle([0.2] * count)
    told = scene.counted("end_to_end_seconds")
    assert told["_count",] == count
    assert told["_sum",] == pytest.approx(0.2 * count, rel=0.2)
    assert scene.counted("results_published")["_total",] == count


def test_refused_records_are_told_from_the_others(scene: Scene) -> None:
    scene.settle([0.1] * 5)
    scene.settle([0.1] * 5, ["malformed", "malformed", "expired"])
    scene.settle([0.1] * 5)
    told = scene.counted("dead_letters")
    assert (told["_total", "malformed"], told["_total", "expired"]) == (2, 1)
    assert scene.counted("results_published")["_total",] == 12
