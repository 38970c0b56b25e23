"""The metrics of several processes as those of one service."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from worker.metrics import PREFIX

# (name, documentation, type, [(sample's name, {label: value}, value), …]); goes through JSON as it is.
Family = Sequence[Any]

# Gauges are the largest one's but for these.
ADDED_UP = frozenset(
    PREFIX + name
    for name in (
        "records_in_flight",
        "consumer_lag",
        "partitions_assigned",
        "partitions_paused",
        "kafka_queue_messages",
    )
)
FIRST_ONES = frozenset(
    PREFIX + name for name in ("lanes", "lanes_busy", "gpu_busy_ratio", "engine_load_seconds", "ready")
)


def snapshot(registry: CollectorRegistry) -> list[Family]:
    """All metrics of a registry, as they are now."""
    return [
        (
            metric.name,
            metric.documentation,
            metric.type,
            [(sample.name, sample.labels, sample.value) for sample in metric.samples],
        )
        for metric in registry.collect()
    ]


def counted(families: Sequence[Family]) -> list[Family]:
    """Without the gauges: they say how things are, and not for how long."""
    return [family for family in families if family[2] != "gauge"]


def add_up(processes: Iterable[Sequence[Family]]) -> list[Family]:
    """Counters and histograms added up, gauges by their nature.

    Args:
        processes: the engine process first, which alone speaks of lanes and engine.
    """
    kinds: dict[str, tuple[str, str]] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for place, families in enumerate(processes):
        for name, text, kind, samples in families:
            if place > 0 and name in FIRST_ONES:
                continue
            kinds.setdefault(name, (text, kind))
            found = values.setdefault(name, {})
            is_largest = kind == "gauge" and name not in ADDED_UP
            for sample, labels, value in samples:
                key = (sample, tuple(labels.items()))
                before = found.get(key, value if is_largest else 0.0)
                found[key] = max(before, value) if is_largest else before + value
    return [
        (name, text, kind, [(sample, dict(labels), value) for (sample, labels), value in values[name].items()])
        for name, (text, kind) in kinds.items()
    ]


def expose(families: Sequence[Family]) -> bytes:
    """In Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Families(families))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for name, text, kind, samples in self._families:
            metric = Metric(name, text, kind)
            for sample, labels, value in samples:
                metric.add_sample(sample, labels, value)
            yield metric
