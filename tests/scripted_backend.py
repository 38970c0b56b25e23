"""A backend that does what a script says, batch by batch: wait, answer, fail, break, hang, or end the process.

It answers with its inputs (or what `compute` makes of them), holds its callers to the rules of protocols.Lane, and
overwrites what they must not keep.

    def script(batch: Batch) -> Action:
        return Fail("boom") if batch.has(666) else Answer(after_s=0.01)

    backend = ScriptedBackend(model, script, lanes=2)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from worker.errors import BatchError, GpuError
from worker.tensors import ModelSpec, Shape

Arrays: TypeAlias = list[NDArray[Any]]
GARBAGE = 0xEE  # what released memory holds


@dataclass(frozen=True)
class Batch:
    """What a script decides by."""

    number: int  # 0 for the first batch that was launched
    rows: int
    inputs: Arrays  # copies, one per model input, of shape (rows, …)

    def has(self, value: float) -> bool:
        """Whether a row of the first input contains this number: how a test marks a request."""
        return bool((self.inputs[0] == value).any())


@dataclass(frozen=True)
class Answer:
    after_s: float = 0.0


@dataclass(frozen=True)
class Fail:
    """The batch fails; the lane is good."""

    message: str = "scripted failure"
    after_s: float = 0.0


@dataclass(frozen=True)
class Break:
    """The backend is unusable from then on."""

    message: str = "scripted end of the GPU"
    after_s: float = 0.0


@dataclass(frozen=True)
class Hang:
    """The batch never ends by itself; see ScriptedBackend.wake()."""


@dataclass(frozen=True)
class Abort:
    """The process dies where it stands, as a crash in the driver would have it."""

    after_s: float = 0.0


Action: TypeAlias = Answer | Fail | Break | Hang | Abort
Script: TypeAlias = Callable[[Batch], Action]


def always(action: Action) -> Script:
    return lambda _batch: action


def echo(inputs: Arrays) -> Arrays:
    return [array.copy() for array in inputs]


class ScriptedLane:
    """See protocols.Lane; what a caller does out of turn is an AssertionError."""

    def __init__(self, backend: ScriptedBackend, max_rows: int, max_bytes: int) -> None:
        self._backend = backend
        self._max_rows = max_rows
        self._memory = np.full(max_bytes, GARBAGE, np.uint8)
        self._inputs: Arrays = []
        self._outputs: Arrays = []
        self._launched_as = b""
        self.state = "free"  # -> acquired -> open -> running -> finished -> free
        self.batch: Batch | None = None
        self.action: Action = Hang()
        self.due_s = 0.0
        self.padded_rows = 0
        self.stage_seconds: Mapping[str, float] = {}

    def open(self, row_shapes: Sequence[Shape]) -> tuple[int, list[memoryview]]:
        assert self.state == "acquired", f"open() of a lane that is {self.state}"
        specs = self._backend.model.inputs
        assert all(length >= 0 for row_shape in row_shapes for length in row_shape), "a row shape must be fully known"
        if refusal := self._backend.cannot_run(row_shapes):
            raise BatchError(refusal)
        sizes = [spec.row_bytes(row_shape) for spec, row_shape in zip(specs, row_shapes, strict=True)]
        rows = min(self._max_rows, len(self._memory) // sum(sizes))
        if rows < 1:
            raise BatchError(f"rows of {sum(sizes)} bytes do not fit a lane of {len(self._memory)} bytes")
        views, self._inputs, start = [], [], 0
        for spec, row_shape, size in zip(specs, row_shapes, sizes, strict=True):
            region = self._memory[start : start + rows * size]
            views.append(region.data)
            self._inputs.append(np.frombuffer(region.data, spec.dtype).reshape(rows, *row_shape))
            start += rows * size
        self.state = "open"
        return rows, views

    def launch(self, rows: int) -> None:
        assert self.state == "open", f"launch() of a lane that is {self.state}"
        assert 1 <= rows <= len(self._inputs[0]), f"launch() of {rows} rows"
        self.batch = Batch(self._backend.launched, rows, [array[:rows].copy() for array in self._inputs])
        self._launched_as = self._memory.tobytes()
        self.state = "running"
        self._backend.start(self)

    def finish(self) -> None:
        """Called by the backend when the batch's time has come."""
        assert self._memory.tobytes() == self._launched_as, "the inputs were written while the batch ran"
        assert self.batch is not None
        self.stage_seconds = {"compute": 0.001}
        if isinstance(self.action, Answer):
            self._outputs = [np.ascontiguousarray(array) for array in self._backend.compute(self.batch.inputs)]
        self.state = "finished"

    def outputs(self) -> Arrays:
        assert self.state == "finished", f"outputs() of a lane that is {self.state}"
        if isinstance(self.action, Fail):
            raise BatchError(self.action.message)
        return self._outputs

    def release(self) -> None:
        assert self.state in ("acquired", "open", "finished"), f"release() of a lane that is {self.state}"
        for array in (self._memory, *self._outputs):
            array.reshape(-1).view(np.uint8)[:] = GARBAGE
        self._outputs = []
        self.state = "free"


class ScriptedBackend:
    """See protocols.Backend. One thread calls it, and no other is needed: time passes inside finished()."""

    def __init__(
        self,
        model: ModelSpec,
        script: Script | None = None,
        *,
        lanes: int = 2,
        max_rows: int = 8,
        max_bytes: int = 1 << 16,
        compute: Callable[[Arrays], Arrays] = echo,
    ) -> None:
        self.model = model
        self.script = script or always(Answer())
        self.compute = compute
        self.cannot_run: Callable[[Sequence[Shape]], str] = lambda _row_shapes: ""
        self.lanes = [ScriptedLane(self, max_rows, max_bytes) for _ in range(lanes)]
        self.batches: list[Batch] = []  # all that were launched, in that order
        self.busy_seconds = 0.0
        self.share = lanes + 1  # so many batches that run are enough; more than there can be: it never is
        self.is_closed = False
        self._broken: GpuError | None = None

    @property
    def launched(self) -> int:
        return len(self.batches)

    @property
    def lane_count(self) -> int:
        return len(self.lanes)

    @property
    def busy_lanes(self) -> int:
        return sum(lane.state != "free" for lane in self.lanes)

    @property
    def is_saturated(self) -> bool:
        return sum(lane.state == "running" for lane in self.lanes) >= self.share

    def acquire(self) -> ScriptedLane | None:
        for lane in self.lanes:
            if lane.state == "free":
                lane.state = "acquired"
                return lane
        return None

    def start(self, lane: ScriptedLane) -> None:
        """Ask the script; called by the lane's launch()."""
        assert lane.batch is not None
        self.batches.append(lane.batch)
        lane.action = self.script(lane.batch)
        lane.due_s = float("inf") if isinstance(lane.action, Hang) else time.monotonic() + lane.action.after_s

    def finished(self, timeout_s: float) -> Sequence[ScriptedLane]:
        give_up_s = time.monotonic() + timeout_s
        while True:
            if self._broken is not None:
                raise self._broken
            running = [lane for lane in self.lanes if lane.state == "running"]
            now_s = time.monotonic()
            due = sorted((lane for lane in running if lane.due_s <= now_s), key=lambda lane: lane.due_s)
            if due:
                return [self._end(lane) for lane in due]
            if now_s >= give_up_s:
                return []
            next_s = min((lane.due_s for lane in running), default=give_up_s)
            time.sleep(max(0.0, min(next_s, give_up_s) - now_s))

    def wake(self) -> None:
        """End the batches that hang: they answer."""
        for lane in self.lanes:
            if lane.state == "running" and isinstance(lane.action, Hang):
                lane.action, lane.due_s = Answer(), 0.0

    def describe(self) -> Mapping[str, str]:
        return {"gpu": "scripted", "compute_capability": "", "tensorrt": "", "plan": self.model.tag, "reason": "a test"}

    def close(self) -> None:
        self.is_closed = True

    def _end(self, lane: ScriptedLane) -> ScriptedLane:
        if isinstance(lane.action, Abort):
            os.abort()
        if isinstance(lane.action, Break):
            self._broken = GpuError(lane.action.message)
            raise self._broken
        lane.finish()
        return lane
