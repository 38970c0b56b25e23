"""One setting at one rate through the real pipeline."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from worker.assemble_member import join
from worker.config import Settings
from worker.errors import ConfigError
from worker.health import Heartbeat
from worker.metrics import Metrics
from worker.protocols import Backend
from worker.tuning.measurement import STAGES, Measurement, Setting, percentiles_ms
from worker.tuning.open_loop import ArrivalKind, OpenLoop, schedule_s
from worker.tuning.payload import Payload

WARM_UP_SHARE = 0.2  # of the measured time, before it
LONGEST_WARM_UP_S = 0.5
PER_BATCH = frozenset({"wait", "h2d", "compute", "d2h", "encode"})  # the others are observed once a turn of the loop

GoOn = Callable[[], None]  # called often; what it raises ends the measuring


@dataclass(frozen=True, slots=True)
class _Reading:
    """The counters at one moment."""

    at_s: float
    thread_s: float
    busy_s: float
    answered: int
    rows: float
    batches: int
    fill: float
    stages: Mapping[str, tuple[float, int]]  # total seconds, observations


def settings_with(settings: Settings, setting: Setting) -> Settings:
    """The service's settings with what is tuned replaced."""
    batching = {"max_rows": setting.max_rows, "max_delay_ms": setting.max_delay_ms}
    graphs = list(setting.cuda_graphs) if isinstance(setting.cuda_graphs, tuple) else setting.cuda_graphs
    engine = {"lanes": setting.lanes, "cuda_graphs": graphs}
    return settings.model_copy(
        update={
            "batching": settings.batching.model_copy(update=batching),
            "engine": settings.engine.model_copy(update=engine),
        }
    )


def run_trial(
    settings: Settings,
    backend: Backend,
    payload: Payload,
    setting: Setting,
    rate: float | None,
    seconds: float,
    *,
    patience_s: float,
    go_on: GoOn,
    arrivals: ArrivalKind = "poisson",
    seed: int = 1,
) -> Measurement:
    """Measure; the backend is idle again when this returns, and also when it raises.

    Args:
        settings: the service's; what is tuned in them does not matter.
        backend: opened with setting.lanes and setting.cuda_graphs, for setting.max_rows or more.
        payload: what is requested.
        rate: requests a second; None: as fast as it goes.
        seconds: without the warm-up. A run that cannot keep up ends earlier.
        patience_s: how long a request may wait before that is said.

    Raises:
        ConfigError: the worker refuses the requests.
        FatalError: the backend failed.
    """
    warm_up_s = min(WARM_UP_SHARE * seconds, LONGEST_WARM_UP_S)
    due_s = None if rate is None else schedule_s(rate, warm_up_s + seconds, arrivals, seed)
    loop = OpenLoop(payload.values, due_s, patience_s=patience_s)
    metrics = Metrics()
    pipeline = join(settings_with(settings, setting), backend, loop, metrics, Heartbeat())
    start: _Reading | None = None
    try:
        while not loop.is_over:
            pipeline.step()
            go_on()
            if start is None and loop.elapsed_s >= warm_up_s:
                start = _read(metrics, backend, loop)
            if rate is None and loop.elapsed_s >= warm_up_s + seconds:
                break
        end = _read(metrics, backend, loop)
    finally:
        pipeline.stop()
        pipeline.run()  # brings to an end what is in the lanes
    if loop.refusal:
        raise ConfigError(f"the worker refuses such a request ({loop.refusal})")
    return _measure(setting, rate, loop, start or end, end, due_s, warm_up_s)


def _read(metrics: Metrics, backend: Backend, loop: OpenLoop) -> _Reading:
    rows, fill = metrics.batch_rows.of[""], metrics.batch_fill_ratio.of[""]
    stages = metrics.stage_seconds.of
    return _Reading(
        at_s=time.perf_counter(),
        thread_s=time.thread_time(),
        busy_s=backend.busy_seconds,
        answered=loop.answered,
        rows=rows.total,
        batches=sum(rows.counts),
        fill=fill.total,
        stages={stage: (stages[stage].total, sum(stages[stage].counts)) for stage in STAGES},
    )


def _measure(
    setting: Setting,
    rate: float | None,
    loop: OpenLoop,
    start: _Reading,
    end: _Reading,
    due_s: list[float] | None,
    warm_up_s: float,
) -> Measurement:
    seconds = max(end.at_s - start.at_s, 1e-6)
    batches = max(1, end.batches - start.batches)
    answered, answering_s = end.answered - start.answered, seconds
    latencies = [latency_s for due, latency_s in loop.latencies if due >= warm_up_s]
    if due_s is not None:  # those of the warm-up that were late do not count
        answered, answering_s = len(latencies), max(loop.elapsed_s - warm_up_s, 1e-6)
    if loop.is_hopeless:
        latencies.append(loop.elapsed_s - (loop.latencies[-1][0] if loop.latencies else 0.0))
    is_sustained = not loop.is_hopeless
    if due_s is not None and latencies and is_sustained:
        late_s = sorted(latencies[-max(1, len(latencies) // 5) :])  # the last fifth against the whole
        is_sustained = late_s[len(late_s) // 2] <= 3 * sorted(latencies)[len(latencies) // 2] + 0.05 * seconds
    stage_ms = {}
    for stage in STAGES:
        total, count = (end.stages[stage][place] - start.stages[stage][place] for place in (0, 1))
        shared_by = count if stage in PER_BATCH else batches
        if count:
            stage_ms[stage] = round(1000 * total / max(1, shared_by), 4)
    return Measurement(
        setting=setting,
        rate=rate,
        seconds=round(seconds, 3),
        answered=answered,
        answered_per_s=round(answered / answering_s, 1),
        is_sustained=is_sustained,
        latency_ms=percentiles_ms(latencies),
        stage_ms=stage_ms,
        batch_rows=round((end.rows - start.rows) / batches, 2),
        fill_ratio=round((end.fill - start.fill) / batches, 4),
        batches_per_s=round((end.batches - start.batches) / seconds, 1),
        busy_ratio=round(min(1.0, (end.busy_s - start.busy_s) / seconds), 4),
        thread_ratio=round((end.thread_s - start.thread_s) / seconds, 4),
    )
