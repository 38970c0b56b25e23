"""Lanes on threads: ONNX Runtime releases the interpreter lock while it runs. Short runs stay on the caller's."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.cpu.onnx_session import RUNTIME, OnnxSession, threads_per_lane, usable_cores
from worker.errors import BatchError
from worker.tensors import ModelSpec, Shape

ALIGNMENT = 64  # bytes; every input starts on a cache line of its own
INLINE_S = (
    0.0005  # a run that is shorter than this costs less than waking a thread and contending for the interpreter lock
)
REMEMBERED = 4096  # sizes
OUTPUT_SHARE = 4  # room for outputs in a seat, in shares of that for inputs

Size = tuple[int, tuple[Shape, ...]]  # runs of one size take about as long: (bits of the row count, row shapes)


class CpuLane:
    """One batch's seat: host memory for its inputs, and the outputs of the last run."""

    def __init__(self, backend: CpuBackend, memory: NDArray[np.uint8]) -> None:
        self._backend = backend
        self._memory = memory
        self._shelf: NDArray[np.uint8] | None = None  # where outputs must lie; None: anywhere
        self._inputs: list[NDArray[Any]] = []
        self._form: tuple[Shape, ...] = ()
        self.size: Size = (0, ())
        self._rows = 0
        self._outcome: list[NDArray[Any]] | BatchError = []
        self.padded_rows = 0
        self.ended_s = 0.0
        self.cpu_seconds = 0.0
        self.stage_seconds: Mapping[str, float] = {}

    def sit(self, memory: NDArray[np.uint8]) -> None:
        """Have the next batches in this memory, of the backend's seat_bytes: inputs first, outputs behind them."""
        border = len(self._memory)
        self._memory, self._shelf = memory[:border], memory[border:]

    def open(self, row_shapes: Sequence[Shape]) -> tuple[int, list[memoryview]]:
        rows, starts = self._backend.lay_out(row_shapes)
        self._form = tuple(row_shapes)
        views, self._inputs = [], []
        for spec, row_shape, start in zip(self._backend.model.inputs, row_shapes, starts, strict=True):
            region = self._memory[start : start + rows * spec.row_bytes(row_shape)]
            views.append(region.data)
            self._inputs.append(region.view(spec.dtype).reshape(rows, *row_shape))
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
        return arrays if self._shelf is None else self._shelve(arrays, self._shelf)

    @staticmethod
    def _shelve(arrays: Sequence[NDArray[Any]], shelf: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """Copy the outputs to where the owner of the memory looks for them."""
        shelved, start = [], 0
        for array in arrays:
            region = shelf[start : start + array.nbytes]
            if len(region) < array.nbytes:
                raise BatchError(
                    f"the outputs take more than the {len(shelf)} bytes that a seat has for them; raise "
                    "batching.max_bytes, or lower batching.max_rows"
                )
            copy = region.view(array.dtype).reshape(array.shape)
            copy[...] = array
            shelved.append(copy)
            start += _aligned(array.nbytes)
        return shelved

    def release(self) -> None:
        self._outcome = []
        self._backend.free(self)


class CpuBackend:
    """Runs an ONNX model on this machine's cores; see protocols.Backend."""

    is_saturated = False  # whoever has a lane runs at once

    def __init__(
        self, path: Path, *, name: str, version: str, lanes: int, max_rows: int, max_bytes: int, reason: str = ""
    ) -> None:
        """Args:
        path: the ONNX file.
        name, version: what results call the model.
        lanes: batches that run at once, each on its share of the cores.
        max_rows: rows of a full batch.
        max_bytes: input bytes of a full batch; memory is taken as it is first used.
        reason: why it runs here and on no GPU; for people.

        Raises:
            ConfigError: there is no such file, or max_rows is below the rows that the model fixes.
            EngineError: the model cannot be loaded or served.
        """
        self._session = OnnxSession(path, name=name, version=version, threads=threads_per_lane(lanes))
        self.model: ModelSpec = self._session.model
        self.fixed_rows = self._session.fixed_rows
        self.lane_count = lanes
        self._reason = reason
        self._max_rows = self.fixed_rows or max_rows
        self._max_bytes = max_bytes
        self._free = [CpuLane(self, np.empty(max_bytes, np.uint8)) for _ in range(lanes)]
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

    @property
    def seat_bytes(self) -> int:
        """Memory that a batch needs in which its owner finds the outputs, too; most of it is never touched."""
        return self._max_bytes * (1 + OUTPUT_SHARE)

    def pinned(self, memory: NDArray[np.uint8]) -> AbstractContextManager[None]:
        """Memory that lanes may sit on: any."""
        return nullcontext()

    def lay_out(self, row_shapes: Sequence[Shape]) -> tuple[int, list[int]]:
        """Most rows of a batch, and where each input starts in a lane's memory.

        Raises:
            BatchError: not even one row fits, or not as many as the model fixes.
        """
        specs = self.model.inputs
        sizes = [spec.row_bytes(row_shape) for spec, row_shape in zip(specs, row_shapes, strict=True)]
        rows = min(self._max_rows, (self._max_bytes - ALIGNMENT * len(sizes)) // max(1, sum(sizes)))
        if rows < 1 or (self.fixed_rows or 0) > rows:
            raise BatchError(
                f"rows of {sum(sizes)} bytes do not fit a lane of {self._max_bytes} bytes (batching.max_bytes)"
            )
        ends = accumulate(_aligned(rows * size) for size in sizes)
        return rows, [0, *ends][:-1]

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
            "reason": self._reason,
            "runtime": RUNTIME,
            "device": f"{usable_cores()} core{'s' if usable_cores() > 1 else ''}",
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


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
