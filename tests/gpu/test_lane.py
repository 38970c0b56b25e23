"""Lanes on the simulated runtime: what is copied, padded, captured, and reported. No GPU needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.gpu.conftest import WIDTH, OpenBackend, double_plan, doubled, model_spec, profile
from tests.gpu.driving import ROW_SHAPES, acquire, assert_answers, fill, finish, payload, run
from tests.gpu.simulated_cuda import SimulatedCuda
from tests.gpu.simulated_tensorrt import SimulatedPlan
from worker.errors import BatchError


@pytest.mark.parametrize("graphs", ["off", "auto", [1, 4, 8]])
def test_every_batch_gets_its_own_answer(open_backend: OpenBackend, graphs: Any) -> None:
    """Whatever the rows, whatever ran before on the lane, and on whichever path."""
    backend = open_backend(double_plan(), cuda_graphs=graphs)
    for seed, rows in enumerate([8, 1, 3, 8, 5, 2, 7, 1, 6, 4] * 3):
        arrays = payload(rows, seed)
        assert_answers(run(backend, arrays), arrays)


def test_views_are_flat_bytes_of_exactly_the_rows_that_fit(open_backend: OpenBackend) -> None:
    """What the Protocol promises of open()."""
    backend = open_backend(double_plan(profile(1, 8, 100)), model_spec(100), max_rows=8)
    lane = acquire(backend)
    held, views = lane.open(ROW_SHAPES)
    assert held == 8
    assert [view.format for view in views] == ["B", "B"]
    assert [view.nbytes for view in views] == [8 * WIDTH * 4, 8 * 8]
    assert not any(view.readonly for view in views)
    lane.release()


def test_max_bytes_limits_the_rows(open_backend: OpenBackend) -> None:
    """A row has 32 bytes, so 100 bytes are 3 rows; and less than a row is none of the engine's business."""
    lane = acquire(open_backend(double_plan(), max_bytes=100))
    assert lane.open(ROW_SHAPES)[0] == 3
    lane.release()


def test_a_row_is_copied_once_on_the_host(open_backend: OpenBackend, cuda: SimulatedCuda) -> None:
    """What goes to the device lies where open() had it written, and comes back to where outputs() shows it."""
    backend = open_backend(double_plan())
    lane = acquire(backend)
    arrays = payload(3, 0)
    fill(lane, arrays)
    x, flag = (np.frombuffer(view, np.uint8).ctypes.data for view in lane.open(ROW_SHAPES)[1])
    cuda.copies.clear()
    lane.launch(3)
    finish(backend)
    y, total = (output.ctypes.data for output in lane.outputs())
    assert cuda.copies == [
        ("to_device", x, 3 * WIDTH * 4),
        ("to_device", flag, 3 * 8),
        ("to_host", y, 3 * WIDTH * 4),
        ("to_host", total, 3 * 2),
    ]
    assert_answers(lane.outputs(), arrays)
    assert lane.padded_rows == 0
    lane.release()


def test_rows_below_a_profile_are_padded_with_zeros(open_backend: OpenBackend, cuda: SimulatedCuda) -> None:
    """10 rows lie between the profiles 1…4 and 16…32: they run as 16, and the filling is zero."""
    seen: list[NDArray[Any]] = []
    plan = double_plan(profile(1, 4, 4), profile(16, 32, 32))

    def watched(arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        seen.append(arrays["x"])
        return doubled(arrays)

    backend = open_backend(plan, model_spec(32), max_rows=32, lanes=1)
    arrays = payload(32, 1)
    assert_answers(run(backend, arrays), arrays)  # leaves 32 rows behind
    plan.function = watched
    lane = acquire(backend)
    arrays = payload(10, 2)
    fill(lane, arrays)
    cuda.copies.clear()
    lane.launch(10)
    assert lane.padded_rows == 6
    sizes = [(copy.kind, copy.size) for copy in cuda.copies]
    assert sizes[-2:] == [("to_host", 10 * WIDTH * 4), ("to_host", 10 * 2)]  # the filling stays there
    finish(backend)
    assert_answers(lane.outputs(), arrays)
    assert seen[-1].shape == (16, WIDTH)
    assert not seen[-1][10:].any()
    lane.release()


def test_a_fixed_batch_axis_is_filled_up(open_backend: OpenBackend) -> None:
    """An engine of exactly 4 rows serves 1 to 4."""
    plan = SimulatedPlan(
        {"x": ("FP32", (4, WIDTH)), "flag": ("INT64", (4, 1))},
        {"y": ("FP32", (4, WIDTH)), "total": ("FP16", (4, 1))},
        [profile(4, 4, 4)],
        doubled,
    )
    spec = model_spec(4)
    fixed = replace(
        spec,
        inputs=tuple(replace(tensor, shape=(4, *tensor.row_shape)) for tensor in spec.inputs),
        outputs=tuple(replace(tensor, shape=(4, *tensor.row_shape)) for tensor in spec.outputs),
    )
    backend = open_backend(plan, fixed)
    for rows in (1, 4, 3):
        arrays = payload(rows, rows)
        assert_answers(run(backend, arrays), arrays)


def test_rows_that_no_profile_takes_are_refused(open_backend: OpenBackend) -> None:
    """Before anything is written, and with the profiles in the message."""
    lane = acquire(open_backend(double_plan()))
    with pytest.raises(BatchError, match=r"no profile for rows of shape 7, 1; its profiles: 1x6…8x6 1x1…8x1"):
        lane.open(((7,), (1,)))
    lane.release()


def test_graphs_run_at_their_sizes_and_pad_up_to_them(open_backend: OpenBackend, cuda: SimulatedCuda) -> None:
    """Listed rows are always padded to; what is larger than all of them runs plain."""
    backend = open_backend(double_plan(), cuda_graphs=[2, 4], lanes=1)
    assert backend.describe()["cuda_graphs"] == "2 a lane"
    run(backend, payload(1, 0))  # the first batch is timed, so it runs plain
    for rows, padded, launches in ((1, 1, 1), (2, 0, 1), (3, 1, 1), (4, 0, 1), (5, 0, 0)):
        before = cuda.launches
        lane = acquire(backend)
        arrays = payload(rows, rows)
        fill(lane, arrays)
        lane.launch(rows)
        assert (lane.padded_rows, cuda.launches - before) == (padded, launches)
        finish(backend)
        assert_answers(lane.outputs(), arrays)
        lane.release()


def test_a_refused_batch_costs_only_itself(open_backend: OpenBackend) -> None:
    """execute_async_v3 says False: launch() does not raise, outputs() does, and the lane goes on."""
    plan = double_plan()
    backend = open_backend(plan, lanes=1)
    lane = acquire(backend)
    fill(lane, payload(2, 0))
    plan.refuses = True
    lane.launch(2)
    assert finish(backend) is lane
    with pytest.raises(BatchError, match="cannot run the batch"):
        lane.outputs()
    lane.release()
    plan.refuses = False
    arrays = payload(2, 1)
    assert_answers(run(backend, arrays), arrays)


def test_a_passing_cuda_error_costs_only_its_batch(open_backend: OpenBackend, cuda: SimulatedCuda) -> None:
    """The context is still usable, so the batch is bisected like any other that failed."""
    backend = open_backend(double_plan(), lanes=1)
    lane = acquire(backend)
    fill(lane, payload(2, 0))
    cuda.fail_next = "cudaErrorInvalidValue"
    lane.launch(2)
    finish(backend)
    with pytest.raises(BatchError, match="cudaErrorInvalidValue"):
        lane.outputs()
    lane.release()
    arrays = payload(2, 1)
    assert_answers(run(backend, arrays), arrays)


def test_stage_times_are_sampled(open_backend: OpenBackend) -> None:
    """The first batch of a lane is timed, the next ones are not."""
    backend = open_backend(double_plan(), lanes=1)
    for wanted in ({"h2d", "compute", "d2h"}, set()):
        lane = acquire(backend)
        fill(lane, payload(1, 0))
        lane.launch(1)
        finish(backend)
        assert set(lane.stage_seconds) == wanted
        lane.release()
