"""One batch through a lane of a backend."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from worker.cpu.backend import CpuBackend
from worker.protocols import Backend, Lane

Open = Callable[..., CpuBackend]


def fill(lane: Lane, backend: Backend, arrays: Sequence[NDArray[Any]]) -> None:
    """Open the lane for these arrays and copy them in, as batching does."""
    _, views = lane.open([array.shape[1:] for array in arrays])
    for view, array in zip(views, arrays, strict=True):
        assert view.format == "B"
        assert view.ndim == 1
        view[: array.nbytes] = array.tobytes()


def wait_for(backend: Backend, count: int = 1, timeout_s: float = 20.0) -> list[Lane]:
    lanes: list[Lane] = []
    give_up_s = time.monotonic() + timeout_s
    while len(lanes) < count and time.monotonic() < give_up_s:
        lanes.extend(backend.finished(0.1))
    assert len(lanes) == count
    return lanes


def run(backend: CpuBackend, *arrays: NDArray[Any]) -> list[NDArray[Any]]:
    """One batch through a lane; copies of its outputs. The lane is free again, whatever happens."""
    lane = backend.acquire()
    assert lane is not None
    try:
        fill(lane, backend, arrays)
        lane.launch(len(arrays[0]))
        assert wait_for(backend) == [lane]
        return [output.copy() for output in lane.outputs()]
    finally:
        lane.release()
