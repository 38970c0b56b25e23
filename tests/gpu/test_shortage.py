"""Memory that runs out at start, on the simulated runtime: what is said, and that nothing is left behind."""

from __future__ import annotations

import logging

import pytest

from tests.gpu.conftest import OpenBackend, double_plan
from tests.gpu.driving import assert_answers, payload, run
from tests.gpu.simulated_cuda import SimulatedCuda
from worker.errors import GpuError

MIB = 1 << 20


def test_too_many_lanes_say_how_many_would_fit(open_backend: OpenBackend, cuda: SimulatedCuda) -> None:
    """The message has what a lane takes, what is free, and the remedy."""
    plan = double_plan()
    plan.activation_bytes = 100 * MIB
    cuda.free_bytes = 250 * MIB
    with pytest.raises(
        GpuError, match=r"a lane takes 100 MiB .* 3 lanes 300 MiB, and 250 MiB are free; 2 would fit"
    ) as raised:
        open_backend(plan, lanes=3)
    assert "set engine.lanes: 2" in str(raised.value)
    assert cuda.is_clean


@pytest.mark.parametrize(
    ("free_mib", "opened", "remedy"),
    [(250, 2, "set engine.lanes: 2"), (50, 0, "lower batching.max_rows, or build the plan for fewer rows")],
)
def test_lanes_that_did_open_are_what_would_fit(
    open_backend: OpenBackend, cuda: SimulatedCuda, free_mib: int, opened: int, remedy: str
) -> None:
    """The GPU promised memory for all three; others took it, or it lies in pieces."""
    plan = double_plan()
    plan.activation_bytes = 100 * MIB
    cuda.free_bytes, cuda.promised_bytes = free_mib * MIB, 900 * MIB
    with pytest.raises(GpuError, match=r"a lane takes 100 MiB .* 3 lanes 300 MiB, and \d+ MiB were free") as raised:
        open_backend(plan, lanes=3)
    assert f"but lane {opened + 1} failed (cudaMalloc" in str(raised.value)
    assert str(raised.value).endswith(f"{opened} would fit: {remedy}")
    assert cuda.is_clean


def test_the_hosts_memory_is_named_when_that_runs_out(open_backend: OpenBackend, cuda: SimulatedCuda) -> None:
    """There is no use in looking at the GPU's."""
    cuda.pinned_bytes = 2 * 1024
    with pytest.raises(GpuError, match=r"^out of pinned host memory: a lane takes 0 MiB of it, 3 lanes") as raised:
        open_backend(double_plan(), lanes=3)
    assert "lane 3 failed (cudaHostAlloc of 1024 bytes failed)" in str(raised.value)
    assert str(raised.value).endswith("2 would fit: set engine.lanes: 2")
    assert cuda.is_clean


def test_a_plan_that_does_not_fit_is_out_of_memory_too(open_backend: OpenBackend, cuda: SimulatedCuda) -> None:
    """Its weights, or the first context that is asked how large outputs get: exit 5, not 3."""
    plan = double_plan()
    plan.is_too_large = True
    told = r"out of memory on Simulated GPU .*the plan has 0 MiB, 1024 MiB were free .*; no lane would fit"
    with pytest.raises(GpuError, match=told) as raised:
        open_backend(plan)
    assert raised.value.exit_code == 5
    plan.is_too_large, plan.most_contexts = False, 0
    with pytest.raises(GpuError, match=told):
        open_backend(plan)
    assert cuda.is_clean


def test_graphs_without_memory_are_dropped_by_auto_and_refused_by_size(
    open_backend: OpenBackend, cuda: SimulatedCuda, caplog: pytest.LogCaptureFixture
) -> None:
    """Two lanes have a context each; the second lane's graphs find no memory for theirs."""
    plan = double_plan()
    plan.most_contexts = 7
    with caplog.at_level(logging.WARNING, "worker.gpu.capturing"):
        backend = open_backend(plan, cuda_graphs="auto")
    assert "out of memory" in backend.describe()["cuda_graphs"]
    assert backend.describe()["cuda_graphs"].startswith("off: ")
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith("CUDA graphs are off: ")
    assert (plan.contexts, cuda.graphs) == (2, {}), "the first lane's graphs are freed too"
    for seed in range(4):
        arrays = payload(8, seed)
        assert_answers(run(backend, arrays), arrays)
    backend.close()
    with pytest.raises(GpuError, match=r"a lane takes 0 MiB .* 2 would fit, but not their CUDA graphs") as raised:
        open_backend(plan, cuda_graphs=[1, 2, 4, 8])
    assert "list fewer rows in engine.cuda_graphs, or lower engine.lanes" in str(raised.value)
    plan.most_contexts, cuda.fail_capture = 99, "cudaErrorMemoryAllocation"
    with pytest.raises(
        GpuError, match=r"2 would fit, but not their CUDA graphs \(simulated: cudaErrorMemoryAllocation"
    ):
        open_backend(plan, cuda_graphs=[8])
