"""What is exposed, read by Prometheus' own parser."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from worker.metrics import LATENCIES, ROWS, SECONDS, STAGES, Histogram, Metrics, Observations, set_lag

# name -> (type, labels); what dashboards and alerts are built on: a change here breaks somebody's query.
DOCUMENTED: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "records_consumed_total": ("counter", ("topic", "partition")),
    "results_published_total": ("counter", ()),
    "dead_letters_total": ("counter", ("code",)),
    "records_in_flight": ("gauge", ()),
    "batches_total": ("counter", ("bucket",)),
    "batch_rows": ("histogram", ()),
    "batch_fill_ratio": ("histogram", ()),
    "padded_rows_total": ("counter", ()),
    "stage_seconds": ("histogram", ("stage",)),
    "end_to_end_seconds": ("histogram", ()),
    "lanes": ("gauge", ()),
    "lanes_busy": ("gauge", ()),
    "gpu_busy_ratio": ("gauge", ()),
    "consumer_lag": ("gauge", ("topic", "partition")),
    "backlog_seconds": ("gauge", ()),
    "rebalances_total": ("counter", ("kind",)),
    "commits_total": ("counter", ("outcome",)),
    "transactions_total": ("counter", ("outcome",)),
    "partitions_assigned": ("gauge", ()),
    "partitions_paused": ("gauge", ()),
    "retries_total": ("counter", ("reason",)),
    "engine_info": ("gauge", ("model", "version", "gpu", "compute_capability", "tensorrt", "plan")),
    "engine_fit_info": ("gauge", ("fit",)),
    "engine_load_seconds": ("gauge", ()),
    "ready": ("gauge", ()),
    "build_info": ("gauge", ("version",)),
    "kafka_rtt_seconds": ("gauge", ("client", "broker")),
    "kafka_queue_messages": ("gauge", ("client",)),
}


def parsed(exposition: bytes) -> dict[str, Metric]:
    """Families by the name that a query uses (counters with _total)."""
    families = {}
    for family in text_string_to_metric_families(exposition.decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert name not in families, f"{name} is exposed twice"
        families[name] = family
    return families


def used() -> Metrics:
    """Every metric with one child: labelled ones show no samples before."""
    metrics = Metrics()
    for name, (_, labels) in DOCUMENTED.items():
        if labels and name != "stage_seconds":
            child: Any = getattr(metrics, name.removesuffix("_total")).labels(*("x" for _ in labels))
            child.inc()
    return metrics


def test_exactly_the_documented_metrics_are_exposed() -> None:
    """With their types; nothing undocumented, nothing missing, all with the prefix."""
    families = parsed(Metrics().expose())
    assert {name: family.type for name, family in families.items()} == {
        f"trt_worker_{name}": kind for name, (kind, _) in DOCUMENTED.items()
    }


def test_every_metric_explains_itself() -> None:
    for name, family in parsed(Metrics().expose()).items():
        assert len(family.documentation) > 10, name
        assert family.documentation.endswith("."), name


def test_the_labels_are_the_documented_ones() -> None:
    families = parsed(used().expose())
    for name, (kind, labels) in DOCUMENTED.items():
        family = families[f"trt_worker_{name}"]
        assert family.samples, name
        for sample in family.samples:
            bounds = {"le"} if kind == "histogram" and sample.name.endswith("_bucket") else set()
            assert set(sample.labels) == {*labels, *bounds}, name


def test_the_stages_are_the_documented_ones_from_the_start() -> None:
    """A stage that appears with its first observation would have no rate before the second."""
    family = parsed(Metrics().expose())["trt_worker_stage_seconds"]
    assert {sample.labels["stage"] for sample in family.samples} == set(STAGES)
    assert set(STAGES) == {"wait", "decode", "gather", "h2d", "compute", "d2h", "encode", "publish"}


def test_no_second_series_beside_each_counter() -> None:
    assert b"_created" not in used().expose()


def histogram(*values: float, bounds: tuple[float, ...] = (1.0, 2.5, 5.0)) -> Metric:
    registry = CollectorRegistry()
    instance = Histogram("size", "Size of something.", bounds, registry)
    for value in values:
        instance.observe(value)
    (family,) = text_string_to_metric_families(generate_latest(registry).decode())
    return family


def samples_of(family: Metric) -> tuple[dict[str, float], float, float]:
    """Buckets by `le`, count, sum."""
    buckets = {sample.labels["le"]: sample.value for sample in family.samples if sample.name.endswith("_bucket")}
    (count,) = (sample.value for sample in family.samples if sample.name.endswith("_count"))
    (total,) = (sample.value for sample in family.samples if sample.name.endswith("_sum"))
    return buckets, count, total


def test_buckets_are_cumulative_and_closed_by_infinity() -> None:
    buckets, count, total = samples_of(histogram(0.5, 2.0, 2.0, 4.0, 99.0))
    assert buckets == {"1.0": 1, "2.5": 3, "5.0": 4, "+Inf": 5}
    assert (count, total) == (5, 107.5)


def test_a_bound_belongs_to_its_own_bucket() -> None:
    """`le` means less or equal."""
    assert samples_of(histogram(1.0, 2.5, 5.0))[0] == {"1.0": 1, "2.5": 2, "5.0": 3, "+Inf": 3}


def test_an_empty_histogram_is_all_zeros() -> None:
    assert samples_of(histogram()) == ({"1.0": 0, "2.5": 0, "5.0": 0, "+Inf": 0}, 0, 0)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e5, allow_nan=False), max_size=50), st.sampled_from([SECONDS, LATENCIES, ROWS]))
def test_any_histogram_is_valid_exposition(values: list[float], bounds: tuple[float, ...]) -> None:
    """Bounds ascend, counts never fall, the last bucket is the count."""
    buckets, count, total = samples_of(histogram(*values, bounds=bounds))
    edges = [float(edge) for edge in buckets]
    assert edges == sorted(set(edges))
    assert edges[:-1] == list(bounds)
    assert list(buckets.values()) == [sum(value <= edge for value in values) for edge in edges]
    assert count == len(values)
    assert total == pytest.approx(sum(values))


@pytest.mark.parametrize("bounds", [SECONDS, LATENCIES, ROWS])
def test_bounds_ascend(bounds: tuple[float, ...]) -> None:
    assert list(bounds) == sorted(set(bounds))


def test_children_of_a_labelled_histogram_are_apart() -> None:
    metrics = Metrics()
    metrics.stage_seconds.of["decode"].observe(0.02)
    family = parsed(metrics.expose())["trt_worker_stage_seconds"]
    counts = {sample.labels["stage"]: sample.value for sample in family.samples if sample.name.endswith("_count")}
    assert counts == {stage: float(stage == "decode") for stage in STAGES}


def test_many_observations_at_once_count_like_single_ones() -> None:
    single, at_once = Observations((1.0, 2.5, 5.0)), Observations((1.0, 2.5, 5.0))
    for value, times in ((0.5, 1), (2.6, 3), (99.0, 2)):
        for _ in range(times):
            single.observe(value)
        at_once.observe(value, times)
    assert (at_once.counts, at_once.total) == (single.counts, single.total)


def test_quantiles_are_upper_bounds() -> None:
    observations = Observations((1.0, 2.0, 4.0))
    assert observations.quantile(0.5) == 0.0
    for value in (0.5, 0.5, 1.5, 3.0):
        observations.observe(value)
    assert [observations.quantile(q) for q in (0.0, 0.5, 0.75, 0.99)] == [1.0, 1.0, 2.0, 4.0]
    observations.observe(100.0)
    assert observations.quantile(1.0) == float("inf")


def test_scraping_while_the_loop_counts_stays_consistent() -> None:
    """One thread writes without a lock; what a scrape sees must still be a valid histogram."""
    metrics = Metrics()
    is_over = threading.Event()

    def count() -> None:
        while not is_over.is_set():
            metrics.end_to_end_seconds.observe(0.004)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        for _ in range(50):
            buckets, total, _ = samples_of(parsed(metrics.expose())["trt_worker_end_to_end_seconds"])
            assert list(buckets.values()) == sorted(buckets.values())
            assert buckets["+Inf"] == total
    finally:
        is_over.set()
        thread.join()


def test_lag_of_lost_partitions_disappears() -> None:
    """Else two workers would report the same partition for ever, and autoscaling would count it twice."""
    metrics = Metrics()
    set_lag(metrics, {("in", 0): 5, ("in", 1): 7})
    set_lag(metrics, {("in", 1): 6})
    family = parsed(metrics.expose())["trt_worker_consumer_lag"]
    assert [(sample.labels, sample.value) for sample in family.samples] == [({"topic": "in", "partition": "1"}, 6.0)]


def test_two_services_in_one_process_count_apart() -> None:
    first, second = Metrics(), Metrics()
    first.results_published.inc(3)
    assert parsed(second.expose())["trt_worker_results_published_total"].samples[0].value == 0
