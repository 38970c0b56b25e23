"""What goes wrong on a real GPU: too little memory, a lost context, a batch that TensorRT refuses, and leaks."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.gpu.gpu_fixtures import Bench, assert_near, launch, manifest_of, payload, run
from tests.gpu.onnx_models import write_mlp
from worker.errors import BatchError, GpuError
from worker.gpu import loading
from worker.gpu.capturing import sizes_to_capture
from worker.gpu.cuda_runtime import load_cuda
from worker.gpu.plan import Plan

pytestmark = pytest.mark.gpu

MLP_ROW = ((256,),)
MIB = 1 << 20


def test_a_thousand_lanes_leave_no_memory_behind(bench: Bench) -> None:
    """Streams, events, contexts, graphs and both kinds of memory: started, run and stopped 1,000 times."""
    entry = bench.build(bench.onnx("mlp", write_mlp), (1, 8, 8), (1, 256, 256))
    manifest, device, cuda = manifest_of(entry), bench.machine.device, load_cuda()
    assert device is not None
    cuda.set_device(device.ordinal)
    plan = Plan(bench.machine.trt, entry.plan, manifest.plan_sha256, manifest.model_spec())
    layout = loading._layout(cuda, plan, 256, 1 << 20)
    free: list[int] = []
    for cycle in range(1_000):
        with loading._lane(cuda, device, plan, layout, 256, 1 << 20) as (lane, make):
            for rows, profile in sizes_to_capture([64], plan.profiles, MLP_ROW, 256):
                lane.capture(MLP_ROW, rows, partial(make, profile))
            lane.open(MLP_ROW)
            lane.try_out(64, graph_rows=64)
        if cycle in {99, 999}:
            free.append(cuda.memory_info()[0])
    plan.close()
    assert free[0] - free[1] <= 2 * MIB, f"{(free[0] - free[1]) / MIB:.1f} MiB are gone after 900 more cycles"


def test_out_of_memory_says_what_a_lane_takes_and_how_many_fit(bench: Bench) -> None:
    """With nearly all of the GPU taken, three lanes of 1 GiB buffers cannot be had; then everything is free again."""
    entry = bench.build(bench.onnx("mlp_wide", write_mlp), (1, 1_000_000, 1_000_000))
    cuda = load_cuda()
    cuda.set_device(0)
    free_before, _ = cuda.memory_info()
    taken = cuda.allocate_device(free_before - (6 << 30))
    try:
        with (
            pytest.raises(GpuError, match=r"a lane takes \d+ MiB .* [01] would fit") as raised,
            bench.open(entry, lanes=3, max_bytes=2 << 30),
        ):
            pass
    finally:
        cuda.free_device(taken)
    assert raised.value.exit_code == 5
    assert cuda.memory_info()[0] >= free_before - 256 * MIB


def test_a_refused_enqueue_costs_only_its_batch(bench: Bench) -> None:
    """An address taken away makes execute_async_v3 say False; outputs() raises, and the lane answers the next batch."""
    onnx = bench.onnx("mlp", write_mlp)
    entry = bench.build(onnx, (1, 8, 8), (1, 256, 256))
    with bench.open(entry, lanes=1, cuda_graphs="off") as backend:
        arrays = payload(backend, MLP_ROW, 100, 1)
        expected = run(backend, arrays)
        context = backend._lanes[0]._book._contexts[1]._context
        address = context.get_tensor_address("y")
        context.set_tensor_address("y", 0)
        lane = launch(backend, arrays)
        assert lane in backend.finished(5.0)
        with pytest.raises(BatchError, match="TensorRT cannot run the batch"):
            lane.outputs()
        lane.release()
        context.set_tensor_address("y", address)
        assert_near(run(backend, arrays), expected, 0.0)


LOSE_THE_CONTEXT = """
import sys
import torch
from tests.gpu.gpu_fixtures import Bench, launch, payload
from tests.gpu.onnx_models import write_mlp
from worker.assemble_tensorrt import this_machine
from worker.errors import FatalError
from pathlib import Path

bench = Bench(this_machine(0), Path(sys.argv[1]))
entry = bench.build(bench.onnx("mlp", write_mlp), (1, 8, 8), (1, 256, 256))
with bench.open(entry, cuda_graphs=sys.argv[2]) as backend:
    running = launch(backend, payload(backend, ((256,),), 64, 1))
    while not backend.finished(1.0):
        pass
    running.release()
    bad = torch.zeros(4, device="cuda")[torch.tensor([10**6], device="cuda")]  # asserts on the device: sticky
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        pass
    try:
        lane = launch(backend, payload(backend, ((256,),), 64, 1))
        while not backend.finished(1.0):
            pass
        print("answered:", lane.outputs()[0].sum())
    except FatalError as error:
        print(type(error).__name__, error)
        sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("graphs", ["off", "auto"])
def test_a_lost_context_exits_5_and_answers_nothing(bench: Bench, graphs: str) -> None:
    """A sticky error made for real, in a process of its own; closing afterwards neither hangs nor hides it."""
    if find_spec("torch") is None:
        pytest.skip("needs torch, which can break a context on purpose")
    done = subprocess.run(
        [sys.executable, "-c", LOSE_THE_CONTEXT, str(bench.folder), graphs],
        capture_output=True, text=True, timeout=100, cwd=Path(__file__).parent.parent.parent, check=False,
    )  # fmt: skip
    assert "answered" not in done.stdout
    assert done.returncode == 5, done.stdout + done.stderr[-2000:]
    assert "GpuError" in done.stdout
