"""What holds a run back, in words, with the numbers behind it."""

from __future__ import annotations

from worker.tuning.measurement import Measurement
from worker.tuning.outcome import KafkaRun

BUSY = 0.9  # share of the time from which on a part counts as fully used
KEEPS_UP = 0.95  # of the offered rate
ON_THREAD = ("decode", "gather", "encode", "publish")


def throughput_bound(run: Measurement, *, is_gpu: bool) -> str:
    """Why no more requests a second: of a run at full load."""
    interval_ms = 1000 / max(run.batches_per_s, 1e-9)
    device = {stage: run.stage_ms[stage] for stage in ("h2d", "compute", "d2h") if run.stage_ms.get(stage, 0) > 0}
    thread = {stage: run.stage_ms[stage] for stage in ON_THREAD if run.stage_ms.get(stage, 0) > 0}
    told = ", ".join(f"{stage} {ms:.3g}" for stage, ms in {**device, **thread}.items())
    numbers = f"a batch leaves every {interval_ms:.3g} ms; ms of each in a stage: {told}"
    stage, longest_ms = max(device.items(), key=lambda item: item[1], default=("compute", 0.0))
    if not is_gpu:
        worked_ms = sum(thread.values())
        if longest_ms >= worked_ms:
            return f"compute (ONNX Runtime on this CPU): {numbers}"
        return f"{_heaviest(thread)} (the worker's own thread, {run.thread_ratio:.0%} of a core): {numbers}"
    if longest_ms >= BUSY * interval_ms or run.busy_ratio >= BUSY > run.thread_ratio:
        name = {"h2d": "H2D, the copy to the GPU", "d2h": "D2H, the copy from the GPU"}.get(stage, "GPU compute")
        return f"{name} (the GPU is busy {run.busy_ratio:.0%} of the time): {numbers}"
    if run.thread_ratio >= BUSY:
        return f"{_heaviest(thread)} (the worker's own thread, {run.thread_ratio:.0%} of a core): {numbers}"
    return (
        f"nothing alone: GPU busy {run.busy_ratio:.0%}, thread {run.thread_ratio:.0%}; more lanes may overlap more: "
        f"{numbers}"
    )


def latency_bound(run: Measurement, max_delay_ms: float) -> str:
    """What the typical latency of a run below full load consists of, most of all."""
    p50_ms = run.latency_ms["p50"]
    wait_ms = run.stage_ms.get("wait", 0.0)
    device_ms = sum(run.stage_ms.get(stage, 0.0) for stage in ("h2d", "compute", "d2h"))
    host_ms = sum(run.stage_ms.get(stage, 0.0) for stage in ON_THREAD)
    parts = {"batching delay": wait_ms, "the model": device_ms, "the worker's own work": host_ms}
    name = max(parts, key=lambda part: parts[part])
    limit = f" (batching.max_delay_ms is {max_delay_ms:g})" if name == "batching delay" else ""
    told = ", ".join(f"{part} {ms:.3g}" for part, ms in parts.items())
    return f"{name}{limit}: p50 {p50_ms:.3g} ms; ms a batch: {told}; {run.fill_ratio:.0%} full"


def broker_bound(run: KafkaRun) -> str:
    """What the same path through a broker is bound by, next to the path without one."""
    kept = run.answered_per_s / run.rate
    told = f"{run.answered_per_s:,.0f} of {run.rate:,.0f}/s answered, p99 {run.latency_ms['p99']:.3g} ms ({run.where})"
    if kept < KEEPS_UP or run.answered < run.sent:
        return f"the broker and its clients, which do not carry what the worker does without them: {told}"
    return f"no more than without a broker, at this rate: {told}"


def _heaviest(stages: dict[str, float]) -> str:
    return max(stages, key=lambda stage: stages[stage], default="decode")
