"""Batches of one size through a backend's lanes as fast as they go, as the pipeline would drive them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from worker.gpu.seeded import seeded_rows
from worker.protocols import Backend, Lane
from worker.tensors import Shape

WARM_UP_BATCHES = 20
MOST_LATENCIES = 20_000  # kept of one run; more would only cost memory


@dataclass(slots=True)
class LaneRun:
    """What one run measured."""

    rows_per_s: float
    latency_s: list[float] = field(default_factory=list)  # launch to finished, per batch
    stage_seconds: list[Mapping[str, float]] = field(default_factory=list)  # of the batches that were timed


class LaneLoop:
    """Drives a backend through the pipeline's own Protocol."""

    def __init__(self, backend: Backend, row_shapes: tuple[Shape, ...], rows: int) -> None:
        """Raises:
        BatchError: the engine does not take such batches.
        """
        self._backend = backend
        self._row_shapes = row_shapes
        self._rows = rows
        self._payload = [array.tobytes() for array in seeded_rows(backend.model, row_shapes, rows, seed=1)]
        for lane in self._acquire(backend.lane_count):
            self._fill(lane)
            lane.release()

    def run(self, seconds: float, *, lanes: int, with_gather: bool = False) -> LaneRun:
        """Keep `lanes` lanes busy for so long.

        Args:
            seconds: after the warm-up.
            lanes: batches in the backend at once.
            with_gather: also copy every batch's inputs into the lane, as the pipeline does.
        """
        backend, rows, row_shapes = self._backend, self._rows, self._row_shapes
        started_at: dict[Lane, float] = {}
        latencies: list[float] = []
        stages: list[Mapping[str, float]] = []
        clock = time.perf_counter

        def launch(lane: Lane) -> None:
            lane.open(row_shapes)
            if with_gather:
                self._fill(lane)
            started_at[lane] = clock()
            lane.launch(rows)

        for lane in self._acquire(lanes):
            launch(lane)
        batches = -WARM_UP_BATCHES
        started_s, now_s, until_s = 0.0, 0.0, inf
        while now_s < until_s:
            for lane in backend.finished(1.0):
                now_s = clock()
                if len(latencies) < MOST_LATENCIES:
                    latencies.append(now_s - started_at[lane])
                if lane.stage_seconds:
                    stages.append(lane.stage_seconds)
                lane.outputs()
                lane.release()
                batches += 1
                if batches == 0:
                    started_s, until_s = now_s, now_s + seconds
                following = backend.acquire()
                if following is not None:
                    launch(following)
        took_s = now_s - started_s
        while backend.busy_lanes:
            for lane in backend.finished(1.0):
                lane.release()
        return LaneRun(batches * rows / took_s, latencies[WARM_UP_BATCHES:], stages)

    def _acquire(self, count: int) -> list[Lane]:
        lanes = [lane for _ in range(count) if (lane := self._backend.acquire()) is not None]
        for lane in lanes:
            lane.open(self._row_shapes)
        return lanes

    def _fill(self, lane: Lane) -> None:
        _, views = lane.open(self._row_shapes)
        for view, data in zip(views, self._payload, strict=True):
            view[: len(data)] = data
