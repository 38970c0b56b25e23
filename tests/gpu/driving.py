"""Driving a backend over the simulated runtime by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.gpu.conftest import WIDTH, doubled
from worker.gpu.backend import TensorRtBackend
from worker.gpu.lane import TensorRtLane

ROW_SHAPES = ((WIDTH,), (1,))


def payload(rows: int, seed: int) -> Mapping[str, NDArray[Any]]:
    random = np.random.default_rng(seed)
    return {"x": random.random((rows, WIDTH), np.float32), "flag": random.integers(0, 9, (rows, 1))}


def fill(lane: TensorRtLane, arrays: Mapping[str, NDArray[Any]]) -> int:
    held, views = lane.open(ROW_SHAPES)
    for view, array in zip(views, arrays.values(), strict=True):
        view[: array.nbytes] = array.tobytes()
    return held


def acquire(backend: TensorRtBackend) -> TensorRtLane:
    lane = backend.acquire()
    assert lane is not None
    return lane


def finish(backend: TensorRtBackend) -> TensorRtLane:
    (lane,) = backend.finished(1.0)
    return lane


def run(backend: TensorRtBackend, arrays: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    lane = acquire(backend)
    fill(lane, arrays)
    lane.launch(len(arrays["x"]))
    assert finish(backend) is lane
    outputs = [array.copy() for array in lane.outputs()]
    lane.release()
    return outputs


def assert_answers(outputs: list[NDArray[Any]], arrays: Mapping[str, NDArray[Any]]) -> None:
    expected = doubled(arrays)
    np.testing.assert_array_equal(outputs[0], expected["y"])
    np.testing.assert_array_equal(outputs[1], expected["total"])
