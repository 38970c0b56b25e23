"""Metrics and /status of several processes as those of one service."""

from __future__ import annotations

import json
from typing import Any

from worker.intake.overview import BusyRatio, merge
from worker.merging import add_up, counted, expose, snapshot
from worker.metrics import Metrics


def process(records: int, lag: int, backlog_s: float, lanes: int = 0) -> Metrics:
    metrics = Metrics()
    metrics.records_consumed.labels("in", "0").inc(records)
    metrics.results_published.inc(records)
    for _ in range(records):
        metrics.end_to_end_seconds.observe(0.004)
    metrics.consumer_lag.labels("in", "0").set(lag)
    metrics.records_in_flight.set(2 if records else 0)
    metrics.backlog_seconds.set(backlog_s)
    metrics.lanes.set(lanes)
    return metrics


def values(families: Any) -> dict[str, float]:
    """Series -> value, as a scraper reads them."""
    lines = expose(families).decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def test_counters_and_histograms_add_up_and_gauges_by_their_nature() -> None:
    """Lag is everybody's together, the backlog is over when the slowest is done, lanes are the engine process's."""
    engine, one, two = process(0, 0, 0.0, lanes=3), process(5, 10, 1.5, lanes=4), process(7, 20, 4.0, lanes=4)
    told = [json.loads(json.dumps(snapshot(each.registry))) for each in (engine, one, two)]  # as the link carries them
    merged = values(add_up(told))
    assert merged['trt_worker_records_consumed_total{partition="0",topic="in"}'] == 12
    assert merged["trt_worker_results_published_total"] == 12
    assert merged["trt_worker_end_to_end_seconds_count"] == 12
    assert merged['trt_worker_end_to_end_seconds_bucket{le="0.005"}'] == 12
    assert merged['trt_worker_end_to_end_seconds_bucket{le="0.003"}'] == 0
    assert merged['trt_worker_consumer_lag{partition="0",topic="in"}'] == 30
    assert merged["trt_worker_records_in_flight"] == 4
    assert merged["trt_worker_backlog_seconds"] == 4.0
    assert merged["trt_worker_lanes"] == 3


def test_one_process_reads_as_it_would_alone() -> None:
    """The same series, help texts and types as without intake processes."""
    alone = process(3, 1, 0.5)
    assert sorted(expose(snapshot(alone.registry)).splitlines()) == sorted(alone.expose().splitlines())


def test_what_a_dead_process_had_counted_stays_and_its_gauges_go() -> None:
    """A counter that goes back looks to Prometheus like a restart, and rate() would count everything again."""
    dead = add_up([[], counted(snapshot(process(5, 10, 9.0).registry))])
    dead = add_up([dead, counted(snapshot(process(6, 10, 9.0).registry))])
    merged = values(add_up([snapshot(Metrics().registry), snapshot(process(1, 3, 0.5).registry), dead]))
    assert merged["trt_worker_results_published_total"] == 12
    assert merged["trt_worker_end_to_end_seconds_count"] == 12
    assert merged['trt_worker_consumer_lag{partition="0",topic="in"}'] == 3
    assert merged["trt_worker_backlog_seconds"] == 0.5


def test_statuses_become_one() -> None:
    """Counts add up, times are the slowest one's, partitions are all of them, refusals the newest."""

    def told(place: int, *, is_up: bool = True) -> dict[str, Any]:
        return {
            "version": "1",
            "uptime_s": 10.0 + place,
            "model": {"name": "m", "inputs": [{"name": "x"}]},
            "kafka": {"is_up": is_up, "partitions": [f"in/{place}"], "lag": 5, "lags": {f"in/{place}": 5}},
            "records": {"settled": 3, "per_second": 1.5},
            "latency_s": {"p50": 0.001 * (1 + place), "p99": None, "window_s": 60.0},
            "stages_s": {"decode": 0.5} if place else {"encode": 0.25},
            "history": {"step_s": 2.0, "steps": 60, "published_per_second": [1.0] * (2 + place)},
            "refused": [{"time_s": float(place), "code": "malformed"}],
        }

    merged = merge([told(1), told(0, is_up=False)])
    assert merged["uptime_s"] == 11.0
    assert merged["model"] == {"name": "m", "inputs": [{"name": "x"}]}
    assert merged["kafka"] == {
        "is_up": False,
        "partitions": ["in/0", "in/1"],
        "lag": 10,
        "lags": {"in/1": 5, "in/0": 5},
    }
    assert merged["records"] == {"settled": 6, "per_second": 3.0}
    assert merged["latency_s"] == {"p50": 0.002, "p99": None, "window_s": 60.0}
    assert merged["stages_s"] == {"decode": 0.5, "encode": 0.25}
    assert merged["history"] == {"step_s": 2.0, "steps": 60, "published_per_second": [1.0, 2.0, 2.0]}
    assert merged["refused"] == [{"time_s": 1.0, "code": "malformed"}]
    assert merge([]) == {}


def test_the_busy_ratio_is_of_the_time_between_two_looks() -> None:
    ratio = BusyRatio(lambda: 0.25)
    ratio._last = (ratio._last[0] - 10.0, -4.75)
    assert 0.45 < ratio.look() <= 0.5
    assert ratio.look() > 0.45, "a second look at once says the same"
