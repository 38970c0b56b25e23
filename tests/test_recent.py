"""Rates, latencies and means of the last minutes, against a clock that a test turns."""

from __future__ import annotations

import time

import pytest

from tests.clock import Clock
from worker.metrics import Metrics
from worker.recent import STEP_S, STEPS, WINDOW_S, Recent, Totals


class Scene:
    """A Recent over metrics that grow as a test says."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.metrics = Metrics()
        self.totals = Totals()
        self.recent = Recent(self.metrics, lambda: self.totals)

    def go_on(self, seconds: float, *, rate: float = 0.0, latency_s: float | None = None) -> None:
        """Let time pass in steps; so many results a second, each with this latency."""
        for _ in range(round(seconds / STEP_S)):
            self._clock.now_s += STEP_S
            count = int(rate * STEP_S)
            taken, published, refused, busy_s = self.totals
            self.totals = Totals(taken + count, published + count, refused, busy_s + STEP_S / 4)
            if latency_s is not None:
                self.metrics.end_to_end_seconds.of[""].observe(latency_s, count)
            self.recent.note()


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return Scene(clock)


def test_before_anything_happened_there_is_nothing_to_tell(scene: Scene) -> None:
    told = scene.recent.report()
    assert told["rates"] == {"taken_per_second": 0, "published_per_second": 0, "refused_per_second": 0}
    assert (told["latency_s"]["p50"], told["latency_s"]["p99"]) == (None, None)
    assert told["batches"]["mean_rows"] is None
    assert told["stages_s"] == {}
    assert told["history"]["published_per_second"] == []


def test_rates_are_those_of_the_last_seconds(scene: Scene) -> None:
    """Not of the whole life: they move when the traffic does."""
    scene.go_on(60, rate=100)
    assert scene.recent.report()["rates"]["published_per_second"] == pytest.approx(100)
    scene.go_on(4, rate=300)
    assert scene.recent.report()["rates"]["published_per_second"] == pytest.approx(300)
    scene.go_on(4)
    assert scene.recent.report()["rates"]["published_per_second"] == 0
    assert scene.recent.report()["busy_ratio"] == pytest.approx(0.25)


def test_latencies_older_than_a_minute_do_not_count(scene: Scene) -> None:
    """What was slow an hour ago says nothing about now."""
    scene.go_on(30, rate=100, latency_s=20.0)
    assert scene.recent.report()["latency_s"]["p50"] > 10
    scene.go_on(WINDOW_S, rate=100, latency_s=0.004)
    told = scene.recent.report()["latency_s"]
    assert 0.003 < told["p50"] < 0.005
    assert 0.003 < told["p99"] <= 0.005
    assert told["window_s"] == WINDOW_S


def test_a_quantile_lies_in_its_bucket_where_its_share_says(scene: Scene) -> None:
    """1 of 100 is slow: p99 is just below it, the median is not touched."""
    child = scene.metrics.end_to_end_seconds.of[""]
    child.observe(0.004, 98)
    child.observe(0.8, 2)
    told = scene.recent.report()["latency_s"]
    assert told["p50"] == pytest.approx(0.003 + 0.002 * 50 / 98)
    assert told["p99"] == pytest.approx(0.5 + 0.5 * 0.5)
    child.observe(1e6, 1000)
    assert scene.recent.report()["latency_s"]["p99"] == 3600.0, "the last bound, for what is longer"


def test_means_are_over_what_ran(scene: Scene) -> None:
    for rows in (10, 20, 60):
        scene.metrics.batch_rows.observe(rows)
    scene.metrics.stage_seconds.of["compute"].observe(0.002)
    scene.metrics.stage_seconds.of["compute"].observe(0.004)
    told = scene.recent.report()
    assert told["batches"]["mean_rows"] == 30
    assert told["stages_s"] == {"compute": pytest.approx(0.003)}


def test_the_history_is_bounded_and_in_order(scene: Scene) -> None:
    scene.go_on(10 * STEPS * STEP_S, rate=10)
    scene.go_on(STEP_S, rate=50)
    history = scene.recent.report()["history"]
    assert history["steps"] == len(history["published_per_second"]) == STEPS
    assert history["published_per_second"][-2:] == [pytest.approx(10), pytest.approx(50)]


def test_two_clients_that_report_make_no_second_step(scene: Scene) -> None:
    """note() comes with every client's report; a step is still two seconds."""
    for _ in range(5):
        scene.go_on(STEP_S, rate=10)
        scene.recent.note()
        scene.recent.note()
    assert len(scene.recent.report()["history"]["published_per_second"]) == 5
