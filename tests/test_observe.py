"""What the observer makes of the clients' reports, against a clock that a test turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import pytest

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
        self.on_settled: Callable[[list[Entry]], None]
        self.on_taken: Callable[[PartitionLedger, int], None]
        self.on_full: Callable[[], None]
        self.on_transaction: Callable[[str], None]

    def in_flight(self) -> int:
        return 0


class Clock:
    """time.monotonic for the time of a test."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


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
