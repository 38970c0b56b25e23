"""What a run is bound by, in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.tuning.made_up import run_of
from worker.tuning.bound import broker_bound, latency_bound, throughput_bound
from worker.tuning.measurement import Measurement, Setting
from worker.tuning.outcome import KafkaRun


def full_load(*, thread: float = 0.3, busy: float = 0.99, every_ms: float = 4.0, **stage_ms: float) -> Measurement:
    run = run_of(Setting(64, 5.0, 3), None, 10)
    return replace(run, stage_ms=stage_ms, thread_ratio=thread, busy_ratio=busy, batches_per_s=1000 / every_ms)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (full_load(h2d=0.1, compute=3.9, d2h=0.1, encode=0.3), "GPU compute (the GPU is busy 99%"),
        (full_load(h2d=3.8, compute=1.0, d2h=0.1, encode=0.3), "H2D, the copy to the GPU"),
        (full_load(h2d=0.1, compute=1.0, d2h=3.9, encode=0.3), "D2H, the copy from the GPU"),
        (full_load(thread=0.98, busy=0.4, h2d=0.1, compute=1.0, d2h=0.1, decode=3, encode=1), "decode (the worker's"),
        (full_load(thread=0.5, busy=0.5, h2d=0.1, compute=1.0, d2h=0.1, decode=1, encode=1), "nothing alone"),
    ],
)
def test_the_part_that_is_full_is_named_on_a_gpu(run: Measurement, words: str) -> None:
    """With the numbers that say so behind it."""
    told = throughput_bound(run, is_gpu=True)
    assert told.startswith(words)
    assert "a batch leaves every 4 ms" in told
    assert f"compute {run.stage_ms['compute']:.3g}" in told


def test_on_a_cpu_model_and_worker_share_the_cores() -> None:
    assert throughput_bound(full_load(compute=3, encode=0.5), is_gpu=False).startswith("compute (ONNX Runtime")
    assert throughput_bound(full_load(compute=0.3, encode=1.5, decode=1), is_gpu=False).startswith("encode (the worker")


def test_below_full_load_the_largest_share_of_the_latency_is_named() -> None:
    run = full_load(wait=5, compute=2, decode=0.1)
    assert latency_bound(run, 5.0).startswith("batching delay (batching.max_delay_ms is 5)")
    assert latency_bound(full_load(wait=1, h2d=1, compute=2, d2h=1), 5.0).startswith("the model")
    assert latency_bound(full_load(wait=1, compute=2, decode=5), 5.0).startswith("the worker's own work")


def test_a_broker_that_does_not_carry_the_rate_is_named() -> None:
    latency_ms = {"p99": 12.0}
    assert broker_bound(KafkaRun("Kafka", 1000, 2000, 2000, 700, latency_ms)).startswith("the broker and its clients")
    assert broker_bound(KafkaRun("Kafka", 1000, 2000, 1500, 990, latency_ms)).startswith("the broker and its clients")
    assert broker_bound(KafkaRun("Kafka", 1000, 2000, 2000, 990, latency_ms)).startswith("no more than without")
