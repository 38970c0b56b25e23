"""Backends on the simulated runtime: start-up, proof, who is free, failure, and the end. No GPU needed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.gpu.conftest import OpenBackend, double_plan, doubled
from tests.gpu.driving import acquire, assert_answers, fill, finish, payload, run
from tests.gpu.simulated_cuda import SimulatedCuda
from tests.gpu.simulated_tensorrt import SimulatedPlan
from worker.errors import EngineError, GpuError
from worker.gpu.lane import TensorRtLane
from worker.tensors import ModelSpec, TensorSpec


def test_a_row_larger_than_a_batch_may_be_is_refused(open_backend: OpenBackend, cuda: SimulatedCuda) -> None:
    """At start already: the self-test cannot place a single row."""
    with pytest.raises(EngineError, match=r"one row takes 32 bytes, a batch may have 31"):
        open_backend(double_plan(), max_bytes=31)
    assert cuda.is_clean


def test_each_graph_has_a_context_of_its_own(open_backend: OpenBackend) -> None:
    """One a profile and lane, one more for each graph; all gone at the end."""
    plan = double_plan()
    backend = open_backend(plan, cuda_graphs=[1, 2, 4, 8], lanes=3)
    assert plan.contexts == 3 * (1 + 4)
    backend.close()
    assert plan.contexts == 0


def test_a_wrong_graph_is_never_used(open_backend: OpenBackend) -> None:
    """auto runs plain and says so; asked for by size, it is a refusal."""
    plan = double_plan()
    plan.graph_answer = lambda arrays: {**doubled(arrays), "y": doubled(arrays)["y"] + 1}
    backend = open_backend(plan, cuda_graphs="auto")
    assert backend.describe()["cuda_graphs"].startswith("off: the CUDA graph for 1 rows does not give")
    arrays = payload(8, 3)
    assert_answers(run(backend, arrays), arrays)
    with pytest.raises(EngineError, match="does not give what the plain run gives"):
        open_backend(plan, cuda_graphs=[8])


def test_a_graph_that_answers_the_batch_before_is_found_out(open_backend: OpenBackend) -> None:
    """The self-test alternates payloads, so an answer left over from the other one shows."""
    plan = double_plan()
    last: list[Mapping[str, NDArray[Any]]] = []

    def late(arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        last.append(doubled(arrays))
        return last[-2] if len(last) > 1 else last[-1]

    plan.graph_answer = late
    backend = open_backend(plan, cuda_graphs="auto")
    assert backend.describe()["cuda_graphs"].startswith("off")


def test_a_lost_context_ends_the_process(open_backend: OpenBackend, cuda: SimulatedCuda) -> None:
    """finished() of what was running and launch() of what comes next say GpuError, exit code 5."""
    backend = open_backend(double_plan(), lanes=2)
    running, following = acquire(backend), acquire(backend)
    fill(running, payload(2, 0))
    fill(following, payload(2, 1))
    running.launch(2)
    cuda.lost = "cudaErrorIllegalAddress"
    with pytest.raises(GpuError, match="cudaErrorIllegalAddress") as raised:
        backend.finished(0.1)
    assert raised.value.exit_code == 5
    with pytest.raises(GpuError, match="must be restarted"):
        following.launch(2)
    backend.close()  # frees what the host holds, and raises nothing of its own


def test_lanes_run_at_once_and_none_is_given_twice(open_backend: OpenBackend) -> None:
    """acquire() gives each lane once; finished() waits and returns what has ended."""
    backend = open_backend(double_plan(), lanes=3)
    lanes = [acquire(backend) for _ in range(3)]
    assert len({id(lane) for lane in lanes}) == 3
    assert backend.acquire() is None
    assert (backend.lane_count, backend.busy_lanes) == (3, 3)
    assert backend.finished(0.0) == []
    for number, lane in enumerate(lanes):
        fill(lane, payload(4, number))
        lane.launch(4)
    ended: list[TensorRtLane] = []
    while len(ended) < 3:
        ended += backend.finished(1.0)
    assert {id(lane) for lane in ended} == {id(lane) for lane in lanes}
    for number, lane in enumerate(lanes):
        assert_answers(lane.outputs(), payload(4, number))
        lane.release()
    assert backend.busy_lanes == 0


def test_finished_waits_no_longer_than_it_is_told(open_backend: OpenBackend, cuda: SimulatedCuda) -> None:
    """And sleeps while it waits: a GPU that is busy for long must not cost a core."""
    backend = open_backend(double_plan(), lanes=1)
    lane = acquire(backend)
    fill(lane, payload(1, 0))
    cuda.polls = 1 << 30
    lane.launch(1)
    before_s, cpu_before_s = time.monotonic(), time.thread_time()
    assert backend.finished(0.2) == []
    assert 0.2 <= time.monotonic() - before_s < 0.5
    assert time.thread_time() - cpu_before_s < 0.1
    assert backend.busy_seconds >= 0.2
    cuda.polls = 1
    finish(backend)
    idle_s = backend.busy_seconds
    time.sleep(0.01)
    assert backend.busy_seconds == idle_s
    lane.release()


def test_a_running_lane_can_be_released(open_backend: OpenBackend, cuda: SimulatedCuda) -> None:
    """It is waited for, so that the next batch does not write under it."""
    backend = open_backend(double_plan(), lanes=1)
    lane = acquire(backend)
    fill(lane, payload(8, 0))
    lane.launch(8)
    lane.release()
    assert not any(cuda.streams.values())
    assert backend.finished(0.0) == []
    arrays = payload(8, 1)
    assert_answers(run(backend, arrays), arrays)


def test_the_self_test_compares_with_the_reference(open_backend: OpenBackend) -> None:
    """A plan that computes something else than the ONNX file is refused before it serves."""

    def reference(arrays: Any) -> list[NDArray[Any]]:
        return list(doubled(dict(zip(("x", "flag"), arrays, strict=True))).values())

    backend = open_backend(double_plan(), reference=reference)
    backend.close()
    plan = double_plan()
    plan.function = lambda arrays: {**doubled(arrays), "y": doubled(arrays)["y"] * 1.5}
    with pytest.raises(EngineError, match="output 'y' at 1 rows differs from the reference"):
        open_backend(plan, reference=reference)


def test_an_output_without_one_row_a_row_is_refused(open_backend: OpenBackend) -> None:
    """It could not be given back to the requests it came from."""
    plan = double_plan()
    plan.function = lambda arrays: {**doubled(arrays), "total": np.zeros((1, 1), np.float16)}
    with pytest.raises(EngineError, match=r"output 'total' has shape \[1, 1\] for 8 rows"):
        open_backend(plan)


def test_padding_buckets_give_graphs_to_a_free_axis(open_backend: OpenBackend, cuda: SimulatedCuda) -> None:
    """One set of graphs a bucket; lengths that are no bucket run plain, within the profile."""

    def lengths(arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        return {"sum": arrays["ids"].sum(axis=1, keepdims=True)}

    plan = SimulatedPlan(
        {"ids": ("INT64", (-1, -1))},
        {"sum": ("INT64", (-1, 1))},
        [{"ids": ((1, 2), (4, 8), (4, 8))}],
        lengths,
    )
    ids = TensorSpec("ids", "INT64", (-1, -1), ("rows", "length"))
    spec = ModelSpec("sum", "1", (ids,), (TensorSpec("sum", "INT64", (-1, 1)),), 4, "0" * 12)
    backend = open_backend(plan, spec, buckets={"ids": (1, (4, 8))}, cuda_graphs=[1, 4], lanes=1)
    assert backend.describe()["cuda_graphs"] == "4 a lane"
    for number, (rows, length, launches) in enumerate([(4, 8, 0), (4, 8, 1), (3, 4, 1), (2, 5, 0), (1, 4, 1)]):
        lane = acquire(backend)
        array = np.random.default_rng(number).integers(0, 99, (rows, length))
        _, views = lane.open(((length,),))
        views[0][: array.nbytes] = array.tobytes()
        before = cuda.launches
        lane.launch(rows)
        assert cuda.launches - before == launches
        finish(backend)
        np.testing.assert_array_equal(lane.outputs()[0], array.sum(axis=1, keepdims=True))
        lane.release()


def test_a_plan_that_is_not_what_its_manifest_says_is_never_loaded(open_backend: OpenBackend) -> None:
    """Flipped bytes are found before TensorRT sees them; what TensorRT itself refuses ends with its reason."""
    with pytest.raises(EngineError, match=r"model\.plan is damaged: sha256"):
        open_backend(double_plan(), content=b"plan!")
    with pytest.raises(EngineError, match=r"cannot load .*: simulated: not a plan"):
        open_backend(double_plan(), content=b"junk", sha256=hashlib.sha256(b"junk").hexdigest())
