"""Lanes on threads: ONNX Runtime releases the interpreter lock while it runs. Short runs stay on the caller's."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.cpu.onnx_session import OnnxSession, threads_per_lane
from worker.errors import BatchError
from worker.tensors import ModelSpec, Shape

ALIGNMENT = 64  # bytes; every input starts on a cache line of its own
INLINE_S = (
    0.0005  # a run that is shorter than this costs less than waking a thread and contending for the interpreter lock
)
REMEMBERED = 4096  # sizes

Size = tuple[int, tuple[Shape, ...]]  # runs of one size take about as long: (bits of the row count, row shapes)


class CpuLane:
    """One batch's seat: host memory for its inputs, and the outputs of the last run."""

    def __init__(self, backend: CpuBackend, memory: NDArray[np.uint8], max_rows: int) -> None:
        self._backend = backend
        self._memory = memory
        self._max_rows = max_rows
        self._inputs: list[NDArray[Any]] = []
        self._form: tuple[Shape, ...] = ()
        self.size: Size = (0, ())
        self._rows = 0
        self._outcome: list[NDArray[Any]] | BatchError = []
        self.padded_rows = 0
        self.ended_s = 0.0
        self.cpu_seconds = 0.0
        self.stage_seconds: Mapping[str, float] = {}

    def open(self, row_shapes: Sequence[Shape]) -> tuple[int, list[memoryview]]:
        specs = self._backend.model.inputs
        sizes = [spec.row_bytes(row_shape) for spec, row_shape in zip(specs, row_shapes, strict=True)]
        spare = len(self._memory) - ALIGNMENT * len(sizes)
        rows = min(self._max_rows, spare // max(1, sum(sizes)))
        if rows < 1 or (self._backend.fixed_rows or 0) > rows:
            raise BatchError(
                f"rows of {sum(sizes)} bytes do not fit a lane of {len(self._memory)} bytes (batching.max_bytes)"
            )
        self._form = tuple(row_shapes)
        views, self._inputs, start = [], [], 0
        for spec, row_shape, size in zip(specs, row_shapes, sizes, strict=True):
            region = self._memory[start : start + rows * size]
            views.append(region.data)
            self._inputs.append(region.view(spec.dtype).reshape(rows, *row_shape))
            start += -(-region.nbytes // ALIGNMENT) * ALIGNMENT
        return rows, views

    def launch(self, rows: int) -> None:
        self._rows = rows
        runs = self._backend.fixed_rows or rows
        self.padded_rows = runs - rows
        if self.padded_rows:
            for array in self._inputs:
                array[rows:runs] = 0
        self.size = (runs.bit_length(), self._form)
        self._backend.start(self, runs)

    def run(self, session: OnnxSession, rows: int) -> None:
        """Run the batch; called by a thread of the backend."""
        start_s, start_cpu_s = time.monotonic(), time.thread_time()
        try:
            outcome: list[NDArray[Any]] | BatchError = session.run([array[:rows] for array in self._inputs])
        except BatchError as error:
            outcome = error
        self._outcome = outcome
        self.ended_s = time.monotonic()
        self.cpu_seconds = time.thread_time() - start_cpu_s
        self.stage_seconds = {"compute": self.ended_s - start_s}

    @property
    def has_failed(self) -> bool:
        """Whether the last run did; how long that took tells nothing."""
        return isinstance(self._outcome, BatchError)

    def outputs(self) -> list[NDArray[Any]]:
        if isinstance(self._outcome, BatchError):
            raise self._outcome
        expected = self._rows + self.padded_rows
        arrays = []
        for spec, array in zip(self._backend.model.outputs, self._outcome, strict=True):
            if array.ndim == 0 or array.shape[0] != expected:
                raise BatchError(f"output {spec.name!r} has shape {list(array.shape)} for a batch of {expected} rows")
            arrays.append(np.ascontiguousarray(array[: self._rows]))
        return arrays

    def release(self) -> None:
        self._outcome = []
        self._backend.free(self)


class CpuBackend:
    """Runs an ONNX model on this machine's cores; see protocols.Backend."""

    def __init__(self, path: Path, *, name: str, version: str, lanes: int, max_rows: int, max_bytes: int) -> None:
        """Args:
        path: the ONNX file.
        name, version: what results call the model.
        lanes: batches that run at once, each on its share of the cores.
        max_rows: rows of a full batch.
        max_bytes: input bytes of a full batch; memory is taken as it is first used.

        Raises:
            ConfigError: there is no such file, or max_rows is below the rows that the model fixes.
            EngineError: the model cannot be loaded or served.
        """
        self._session = OnnxSession(path, name=name, version=version, threads=threads_per_lane(lanes))
        self.model: ModelSpec = self._session.model
        self.fixed_rows = self._session.fixed_rows
        self.lane_count = lanes
        held = self.fixed_rows or max_rows
        self._free = [CpuLane(self, np.empty(max_bytes, np.uint8), held) for _ in range(lanes)]
        self._tasks: SimpleQueue[tuple[CpuLane, int] | None] = SimpleQueue()
        self._done: SimpleQueue[CpuLane] = SimpleQueue()
        self._last_seconds: dict[Size, float] = {}  # of processor time: waiting for a core or the lock is no work
        self._running = 0
        self._busy_since_s = 0.0
        self._busy_seconds = 0.0
        self._threads = [threading.Thread(target=self._work, name=f"lane-{n}", daemon=True) for n in range(lanes)]
        for thread in self._threads:
            thread.start()

    @property
    def session(self) -> OnnxSession:
        """The model itself, for the self-test."""
        return self._session

    @property
    def busy_lanes(self) -> int:
        return self.lane_count - len(self._free)

    @property
    def busy_seconds(self) -> float:
        return self._busy_seconds + (time.monotonic() - self._busy_since_s if self._running else 0.0)

    def acquire(self) -> CpuLane | None:
        return self._free.pop() if self._free else None

    def free(self, lane: CpuLane) -> None:
        """Take a lane back; called by the lane's release()."""
        self._free.append(lane)

    def start(self, lane: CpuLane, rows: int) -> None:
        """Run a lane: at once where that is known to be short, else on the next idle thread. Called by launch()."""
        if not self._running:
            self._busy_since_s = time.monotonic()
        self._running += 1
        if self._last_seconds.get(lane.size, 0.0) > INLINE_S:
            self._tasks.put((lane, rows))
        else:
            lane.run(self._session, rows)  # so is the first one of its size, to see how long it takes
            self._done.put(lane)

    def finished(self, timeout_s: float) -> Sequence[CpuLane]:
        lanes: list[CpuLane] = []
        try:
            if timeout_s > 0:
                lanes.append(self._done.get(timeout=timeout_s))
            while True:
                lanes.append(self._done.get_nowait())
        except Empty:
            pass
        if lanes:
            self._running -= len(lanes)
            for lane in lanes:
                if not lane.has_failed:
                    self._last_seconds[lane.size] = lane.cpu_seconds
            if len(self._last_seconds) > REMEMBERED:
                self._last_seconds.clear()
            if not self._running:
                self._busy_seconds += max(lane.ended_s for lane in lanes) - self._busy_since_s
        return lanes

    def describe(self) -> Mapping[str, str]:
        return {
            "gpu": "cpu",
            "compute_capability": "",
            "tensorrt": "",
            "plan": self.model.tag,
            "reason": "engine.backend",
        }

    def close(self) -> None:
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            lane, rows = task
            lane.run(self._session, rows)
            self._done.put(lane)
