"""The lanes of one plan as one backend: who is free, who is running, who has finished."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from worker.gpu.cuda_runtime import Cuda
from worker.gpu.lane import TensorRtLane
from worker.tensors import ModelSpec, Shape

SPIN_S = 50e-6  # small batches end within this; longer ones are worth a sleep
SHORTEST_SLEEP_S = 20e-6
LONGEST_SLEEP_S = 250e-6


class TensorRtBackend:
    """protocols.Backend on a GPU; made by loading.open_tensorrt_backend(). One thread calls it."""

    is_saturated = False  # whoever has a lane runs at once

    def __init__(
        self,
        model: ModelSpec,
        lanes: Sequence[TensorRtLane],
        labels: Mapping[str, str],
        load_seconds: float,
        close: Callable[[], None],
        *,
        cuda: Cuda,
        seat_bytes: int,
    ) -> None:
        """Args:
        model: what the plan takes and gives.
        lanes: ready to run.
        labels: of engine_info.
        load_seconds: from the plan's file to here.
        close: frees everything; called once.
        cuda: the CUDA runtime.
        seat_bytes: host memory of one lane.
        """
        self._model = model
        self._lanes = tuple(lanes)
        self._labels = dict(labels)
        self.load_seconds = load_seconds
        self._close: Callable[[], None] | None = close
        self._cuda = cuda
        self.seat_bytes = seat_bytes
        self._free: deque[TensorRtLane] = deque(lanes)
        self._running: list[TensorRtLane] = []  # in the order they were launched
        self._busy_s = 0.0
        self._busy_since_s = 0.0
        for lane in lanes:
            lane.give_back = self._take_back
            lane.launched = self._note_launch

    @property
    def model(self) -> ModelSpec:
        return self._model

    @property
    def lane_count(self) -> int:
        return len(self._lanes)

    @property
    def busy_lanes(self) -> int:
        return len(self._lanes) - len(self._free)

    @property
    def busy_seconds(self) -> float:
        running_s = time.monotonic() - self._busy_since_s if self._running else 0.0
        return self._busy_s + running_s

    def acquire(self) -> TensorRtLane | None:
        return self._free.popleft() if self._free else None

    def finished(self, timeout_s: float) -> Sequence[TensorRtLane]:
        done = self._collect()
        if done or timeout_s <= 0.0 or not self._running:
            return done
        now_s = time.monotonic()
        until_s, spin_until_s = now_s + timeout_s, now_s + SPIN_S
        sleep_s = SHORTEST_SLEEP_S
        while not (done := self._collect()):
            now_s = time.monotonic()
            if now_s >= until_s:
                break
            if now_s >= spin_until_s:
                time.sleep(min(sleep_s, until_s - now_s))
                sleep_s = min(2 * sleep_s, LONGEST_SLEEP_S)
        return done

    def lay_out(self, row_shapes: Sequence[Shape]) -> tuple[int, list[int]]:
        """Where batches of such rows lie in memory that a lane sits on; see TensorRtLane.lay_out()."""
        return self._lanes[0].lay_out(row_shapes)

    @contextmanager
    def pinned(self, memory: NDArray[np.uint8]) -> Iterator[None]:
        """Memory that lanes may sit on; on exit those that do stand up, after what they run has ended.

        Raises:
            GpuError: it cannot be page-locked.
        """
        address = memory.ctypes.data
        self._cuda.register_pinned(address, memory.nbytes)
        try:
            yield
        finally:
            for lane in self._lanes:
                lane.stand_up(range(address, address + memory.nbytes))
            self._cuda.unregister_pinned(address)

    def describe(self) -> Mapping[str, str]:
        return self._labels

    def close(self) -> None:
        if self._close is not None:
            close, self._close = self._close, None
            self._running.clear()
            self._free.clear()
            close()

    def _note_launch(self, lane: TensorRtLane) -> None:
        if not self._running:
            self._busy_since_s = time.monotonic()
        self._running.append(lane)

    def _collect(self) -> list[TensorRtLane]:
        """Lanes that have ended; asks behind an unfinished one only while there is nothing to report."""
        done: list[TensorRtLane] = []
        for lane in self._running:
            if lane.is_done():
                done.append(lane)
            elif done:
                break
        for lane in done:
            self._forget(lane)
        return done

    def _forget(self, lane: TensorRtLane) -> None:
        self._running.remove(lane)
        if not self._running:
            self._busy_s += time.monotonic() - self._busy_since_s

    def _take_back(self, lane: TensorRtLane) -> None:
        if lane in self._running:  # released before it was reported as finished
            self._forget(lane)
        self._free.append(lane)
