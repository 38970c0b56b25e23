"""Measurements that nobody made."""

from __future__ import annotations

from worker.tuning.measurement import STAGES, Measurement, Point, Setting, percentiles_ms


def run_of(setting: Setting, rate: float | None, p99_ms: float, *, is_sustained: bool = True) -> Measurement:
    latency_ms = {**percentiles_ms([p99_ms / 2000] * 50 + [p99_ms / 1000] * 50), "p99": p99_ms}
    return Measurement(
        setting=setting,
        rate=rate,
        seconds=1.0,
        answered=1000,
        answered_per_s=rate or 1000.0,
        is_sustained=is_sustained,
        latency_ms=latency_ms,
        stage_ms=dict.fromkeys(STAGES, 0.5),
        batch_rows=setting.max_rows / 2,
        fill_ratio=0.5,
        batches_per_s=100.0,
        busy_ratio=0.5,
        thread_ratio=0.5,
    )


def point_of(setting: Setting, rate: float, *p99_ms: float, is_sustained: bool = True) -> Point:
    return Point(setting, rate, [run_of(setting, rate, each, is_sustained=is_sustained) for each in p99_ms])
