"""The two loops of the bench, on the simulated runtime."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tests.gpu.conftest import OpenBackend, double_plan, model_spec
from tests.gpu.driving import ROW_SHAPES
from tests.gpu.simulated_cuda import SimulatedCuda
from tests.gpu.simulated_tensorrt import simulated_tensorrt
from worker.commands.lane_loop import LaneLoop
from worker.gpu.device import find_device
from worker.gpu.flavour import FULL, TensorRt
from worker.gpu.ideal_loop import ideal_loop
from worker.gpu.plan import Plan


def test_the_lane_loop_keeps_so_many_lanes_busy_and_gives_them_all_back(open_backend: OpenBackend) -> None:
    """Rows, latencies and stage times are told; nothing stays acquired."""
    backend = open_backend(double_plan(), lanes=3)
    loop = LaneLoop(backend, ROW_SHAPES, 8)
    runs = [loop.run(0.3, lanes=1), loop.run(0.05, lanes=3, with_gather=True)]
    for done in runs:
        assert done.rows_per_s > 0
        assert done.latency_s
        assert all(seconds > 0 for seconds in done.latency_s)
    assert {"h2d", "compute", "d2h"} == set(runs[0].stage_seconds[0])  # one batch in a while is timed
    assert backend.busy_lanes == 0


def test_the_ideal_loop_runs_plain_and_as_graphs_and_frees_everything(cuda: SimulatedCuda, tmp_path: Path) -> None:
    """Each batch is two copies in, one execution, two copies out, on every stream in turn."""
    path = tmp_path / "model.plan"
    path.write_bytes(b"plan")
    simulated: Any = cuda
    device = find_device(0, simulated)
    trt = TensorRt(simulated_tensorrt(cuda, double_plan()), FULL, "10.6.0")
    plan = Plan(trt, path, hashlib.sha256(b"plan").hexdigest(), model_spec(8))
    with ideal_loop(simulated, device, plan, ROW_SHAPES, 8, 2) as loop:
        assert loop.has_graphs
        for streams in (1, 2):
            for with_graphs in (False, True):
                before = cuda.launches
                batches, took_s = loop.run(0.02, streams=streams, with_graphs=with_graphs)
                assert batches > 0
                assert took_s >= 0.02
                assert (cuda.launches > before) == with_graphs
    assert cuda.is_clean
