"""Lanes that sit on memory of others, over the simulated runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.gpu.conftest import OpenBackend, double_plan
from tests.gpu.driving import ROW_SHAPES, acquire, assert_answers, finish, payload
from tests.gpu.simulated_cuda import SimulatedCuda
from worker.errors import BatchError
from worker.gpu.backend import TensorRtBackend

Seat = NDArray[np.uint8]


def seats_of(backend: TensorRtBackend, count: int) -> tuple[Seat, list[Seat]]:
    """A block of memory, and its seats."""
    block = np.zeros(count * backend.seat_bytes, np.uint8)
    return block, [block[number * backend.seat_bytes :][: backend.seat_bytes] for number in range(count)]


def run_in(backend: TensorRtBackend, seat: Seat, arrays: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """Filled by its owner, run by whichever lane is free; views of the seat."""
    _, offsets = backend.lay_out(ROW_SHAPES)
    for offset, array in zip(offsets, arrays.values(), strict=True):
        seat[offset : offset + array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)
    lane = acquire(backend)
    lane.sit(seat)
    lane.open(ROW_SHAPES)
    lane.launch(len(arrays["x"]))
    assert finish(backend) is lane
    outputs = lane.outputs()
    lane.release()
    return outputs


@pytest.mark.parametrize("graphs", ["off", [1, 8]])
def test_any_lane_runs_any_seat(open_backend: OpenBackend, graphs: Any) -> None:
    """Two lanes, three seats, payloads and sizes that alternate: inputs are read there, outputs lie there."""
    backend = open_backend(double_plan(), cuda_graphs=graphs, copies_in_graphs=False)
    block, seats = seats_of(backend, 3)
    with backend.pinned(block):
        for turn in range(24):
            seat = seats[turn % 3]
            arrays = payload(1 + turn % 8, seed=turn)
            outputs = run_in(backend, seat, arrays)
            assert_answers(outputs, arrays)
            assert all(np.shares_memory(output, seat) for output in outputs)
            assert not any(
                np.shares_memory(output, other) for output in outputs for other in seats if other is not seat
            )


def test_a_graph_of_such_lanes_holds_no_copies(open_backend: OpenBackend, cuda: SimulatedCuda) -> None:
    """It runs between the copies of whichever seat it is; two in, two out, one launch."""
    backend = open_backend(double_plan(), cuda_graphs=[8], copies_in_graphs=False, lanes=1)
    assert {len(graph) for graph in cuda.graphs.values()} == {1}
    block, (seat,) = seats_of(backend, 1)
    with backend.pinned(block):
        run_in(backend, seat, payload(8, seed=1))  # the first one is timed, and plain
        launches, copies = cuda.launches, len(cuda.copies)
        run_in(backend, seat, payload(8, seed=2))
    assert cuda.launches == launches + 1
    assert len(cuda.copies) == copies + 4


def test_what_pads_a_batch_is_zero_in_the_seat_too(open_backend: OpenBackend) -> None:
    """Rows of the seat's last batch must not be computed again."""
    backend = open_backend(double_plan(), cuda_graphs=[8], copies_in_graphs=False, lanes=1)
    block, (seat,) = seats_of(backend, 1)
    with backend.pinned(block):
        run_in(backend, seat, payload(8, seed=1))
        run_in(backend, seat, payload(3, seed=2))
        _, (x_at, _) = backend.lay_out(ROW_SHAPES)
        rows = seat[x_at:][: 8 * 6 * 4].view(np.float32).reshape(8, 6)
        assert rows[:3].any()
        assert not rows[3:].any()


def test_memory_is_pinned_only_while_lanes_may_sit_on_it(open_backend: OpenBackend, cuda: SimulatedCuda) -> None:
    """And a batch that still runs there is waited for; then the lane has its own memory again."""
    backend = open_backend(double_plan(), copies_in_graphs=False, lanes=1)
    block, (seat,) = seats_of(backend, 1)
    lane = acquire(backend)
    with backend.pinned(block):
        assert cuda.registered == {block.ctypes.data: block.nbytes}
        lane.sit(seat)
        lane.open(ROW_SHAPES)
        lane.launch(2)
        assert any(cuda.streams.values())
    assert not any(cuda.streams.values())
    assert cuda.registered == {}
    finish(backend)
    _, views = lane.open(ROW_SHAPES)
    assert not any(np.shares_memory(np.frombuffer(view, np.uint8), block) for view in views)
    lane.release()


def test_a_batch_in_another_block_goes_on(open_backend: OpenBackend, cuda: SimulatedCuda) -> None:
    """One member's memory goes while the batch of another one runs: it is neither waited for nor lost."""
    backend = open_backend(double_plan(), copies_in_graphs=False, lanes=1)
    (stays, (seat,)), (goes, (other,)) = seats_of(backend, 1), seats_of(backend, 1)
    arrays = payload(2, seed=3)
    _, offsets = backend.lay_out(ROW_SHAPES)
    for offset, array in zip(offsets, arrays.values(), strict=True):
        seat[offset : offset + array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)
    with backend.pinned(stays):
        with backend.pinned(goes):
            run_in(backend, other, payload(4, seed=4))
            lane = acquire(backend)
            lane.sit(seat)
            lane.open(ROW_SHAPES)
            lane.launch(2)
        assert any(cuda.streams.values()), "it was waited for"
        assert finish(backend) is lane
        assert_answers(lane.outputs(), arrays)
        lane.release()
        assert not [seat_at for seat_at in lane._seats if seat_at == goes.ctypes.data], "a view of memory that is gone"


def test_rows_that_no_profile_takes_are_refused_beforehand(open_backend: OpenBackend) -> None:
    """The owner of the seat learns it before it fills one."""
    backend = open_backend(double_plan(), copies_in_graphs=False)
    assert backend.lay_out(ROW_SHAPES)[0] == 8
    with pytest.raises(BatchError, match="no profile"):
        backend.lay_out(((5,), (1,)))
