"""Graphs at start-up on the simulated runtime: proved before they are used, given up where they cannot be had."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.gpu.conftest import OpenBackend, double_plan, doubled, model_spec, profile
from tests.gpu.driving import assert_answers, payload, run
from tests.gpu.simulated_cuda import SimulatedCuda
from tests.gpu.simulated_tensorrt import SimulatedPlan
from worker.errors import EngineError
from worker.gpu.backend import TensorRtBackend
from worker.tensors import ModelSpec, TensorSpec

Arrays = Mapping[str, NDArray[Any]]
Change = Callable[[SimulatedPlan, SimulatedCuda], None]


def times(factor: float) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {**doubled(arrays), "y": (doubled(arrays)["y"] * factor).astype(np.float32)}


def reference(arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    return list(doubled(dict(zip(("x", "flag"), arrays, strict=True))).values())


def assert_right(backend: TensorRtBackend, rows: Sequence[int]) -> None:
    for seed, count in enumerate(rows):
        arrays = payload(count, seed)
        assert_answers(run(backend, arrays), arrays)


def test_a_graph_of_more_rows_than_a_batch_has_is_proved_too(open_backend: OpenBackend, cuda: SimulatedCuda) -> None:
    """The profile starts at 16 rows and a batch has 8 at most: each runs as the graph of 16."""
    plan = double_plan(profile(16, 32, 32))
    plan.graph_answer = times(1.5)
    with pytest.raises(EngineError, match="the CUDA graph for 16 rows does not give what the plain run gives"):
        open_backend(plan, model_spec(32), cuda_graphs=[8])
    plan.graph_answer = None
    for graphs in ([8], "auto"):
        backend = open_backend(plan, model_spec(32), cuda_graphs=graphs, lanes=1)
        assert backend.describe()["cuda_graphs"] == "1 a lane"
        before = cuda.launches
        assert_right(backend, [5, 8, 1])
        if graphs != "auto":  # which may find the plain run quicker
            assert cuda.launches == before + 2, "only the first, which is timed, runs plain"
        backend.close()


def refuse_capture(plan: SimulatedPlan, cuda: SimulatedCuda) -> None:
    cuda.fail_capture = "cudaErrorStreamCaptureInvalidated"


def stream_weights(plan: SimulatedPlan, cuda: SimulatedCuda) -> None:
    plan.streams_weights = True


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (refuse_capture, "simulated: cudaErrorStreamCaptureInvalidated"),
        (stream_weights, "the plan streams its weights"),
    ],
)
def test_auto_does_without_graphs_and_a_list_is_refused(
    open_backend: OpenBackend, cuda: SimulatedCuda, caplog: pytest.LogCaptureFixture, change: Change, reason: str
) -> None:
    """auto says so in a label and a warning, and answers by plain runs; a list says what to set instead."""
    plan = double_plan()
    change(plan, cuda)
    with caplog.at_level(logging.WARNING, "worker.gpu"):
        backend = open_backend(plan, cuda_graphs="auto")
    assert backend.describe()["cuda_graphs"] == f"off: {reason}"
    assert [record.getMessage() for record in caplog.records] == [f"CUDA graphs are off: {reason}"]
    assert_right(backend, [8, 1, 3])
    assert cuda.launches == 0
    with pytest.raises(EngineError, match=f"asks for graphs, but {reason}; set engine.cuda_graphs: off"):
        open_backend(plan, cuda_graphs=[8])


@pytest.mark.parametrize("graphs", ["auto", [4]])
def test_plain_runs_of_a_graphs_size_are_held_against_the_reference(open_backend: OpenBackend, graphs: Any) -> None:
    """4 rows are neither end of the profile: only a graph's proof runs them, and the plan is wrong there."""
    plan = double_plan()
    plan.function = lambda arrays: times(1.5 if len(arrays["x"]) == 4 else 1.0)(arrays)
    with pytest.raises(EngineError, match="output 'y' at 4 rows differs from the reference"):
        open_backend(plan, cuda_graphs=graphs, reference=reference)


def test_a_graph_is_held_against_the_reference(open_backend: OpenBackend) -> None:
    """Plain runs that vary let a graph vary as much, but not out of the tolerance that they keep."""
    plan, runs = double_plan(), [0]

    def varying(arrays: Arrays) -> Arrays:
        runs[0] += 1
        return times(1.0095 + 1e-6 * runs[0])(arrays)

    plan.function, plan.graph_answer = varying, times(1.0103)
    backend = open_backend(plan, cuda_graphs="auto", reference=reference, tolerance=0.01)
    said = backend.describe()["cuda_graphs"]
    assert said.startswith("off: the CUDA graph for 1 rows is wrong: output 'y' at 1 rows differs from the reference")
    backend.close()
    plan.graph_answer = varying
    assert open_backend(plan, cuda_graphs="auto", reference=reference, tolerance=0.01).describe()["cuda_graphs"] == (
        "4 a lane"
    )


def test_a_list_of_which_nothing_can_be_captured_is_refused(open_backend: OpenBackend) -> None:
    """Rows beyond a full batch, and rows whose shape is only seen in the request."""
    with pytest.raises(EngineError, match=r"the listed rows are more than a batch has \(batching\.max_rows"):
        open_backend(double_plan(), cuda_graphs=[16])
    plan = SimulatedPlan(
        {"x": ("FP32", (-1, -1))}, {"y": ("FP32", (-1, -1))}, [{"x": ((1, 1), (8, 8), (8, 8))}], lambda x: {"y": x["x"]}
    )
    free = [TensorSpec(name, "FP32", (-1, -1)) for name in ("x", "y")]
    spec = ModelSpec("free", "1", (free[0],), (free[1],), 8, "0" * 12)
    with pytest.raises(EngineError, match=r"no batch shape is known .* \(set batching\.pad\)"):
        open_backend(plan, spec, cuda_graphs=[8])
    assert open_backend(plan, spec, cuda_graphs="auto").describe()["cuda_graphs"].startswith("off: no batch shape")
