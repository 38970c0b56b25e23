"""What runs batches in these tests: y = 2x + 1, as an ONNX model and by hand."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from worker.errors import BatchError
from worker.tensors import ModelSpec, Shape, TensorSpec

COLUMNS = 4
MODEL = ModelSpec("odd", "1", (TensorSpec("x", "FP32", (-1, COLUMNS)),), (TensorSpec("y", "FP32", (-1, COLUMNS)),))
OUTPUTS_AT = 2048
SEAT_BYTES = 4096
REFUSED = ((7,),)  # row shapes that ManualHost does not run
FAILING = 666.0  # a batch that holds it fails


def write_odd(path: Path) -> Path:
    """The model as a file; a batch that is asked for FAILING is answered like any other."""
    two, one = (
        helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in (("two", 2.0), ("one", 1.0))
    )
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "two"], ["twice"]), helper.make_node("Add", ["twice", "one"], ["y"])],
        "odd",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", COLUMNS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", COLUMNS])],
        [two, one],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


class ManualLane:
    """Runs its batch when the test says so."""

    def __init__(self, host: ManualHost) -> None:
        self.padded_rows = 3
        self.stage_seconds = {"compute": 0.25}
        self.memory = np.empty(0, np.uint8)
        self.rows = 0
        self._host = host

    def sit(self, memory: NDArray[np.uint8]) -> None:
        self.memory = memory

    def open(self, row_shapes: Sequence[Shape]) -> tuple[int, list[memoryview]]:
        self._host.lay_out(row_shapes)
        return 8, []

    def launch(self, rows: int) -> None:
        self.rows = rows
        self._host.running.append(self)

    @property
    def inputs(self) -> NDArray[Any]:
        return self.memory[: self.rows * COLUMNS * 4].view(np.float32).reshape(self.rows, COLUMNS)

    def outputs(self) -> list[NDArray[Any]]:
        if (self.inputs == FAILING).any():
            raise BatchError("scripted failure")
        y = self.memory[OUTPUTS_AT : OUTPUTS_AT + self.inputs.nbytes].view(np.float32).reshape(self.rows, COLUMNS)
        y[...] = 2 * self.inputs + 1
        return [y]

    def release(self) -> None:
        self._host.free.append(self)


class ManualHost:
    """server.Host whose batches end when end() says so."""

    seat_bytes = SEAT_BYTES

    def __init__(self, lanes: int) -> None:
        self.lane_count = lanes
        self.free = [ManualLane(self) for _ in range(lanes)]
        self.running: list[ManualLane] = []
        self._ended: list[ManualLane] = []

    def pinned(self, memory: NDArray[np.uint8]) -> AbstractContextManager[None]:
        return nullcontext()

    def lay_out(self, row_shapes: Sequence[Shape]) -> tuple[int, list[int]]:
        if tuple(row_shapes) == REFUSED:
            raise BatchError("no profile for such rows")
        return 8, [0]

    def acquire(self) -> ManualLane | None:
        return self.free.pop() if self.free else None

    def finished(self, timeout_s: float) -> Sequence[ManualLane]:
        ended, self._ended = self._ended, []
        return ended

    def end(self, place: int = 0) -> None:
        """End the batch that was launched at this place of those that run."""
        self._ended.append(self.running.pop(place))
