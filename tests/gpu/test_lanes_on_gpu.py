"""Lanes with the real TensorRT on a real GPU: right answers whatever the rows, the path and the neighbours."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.gpu.gpu_fixtures import Bench, assert_near, launch, payload, run
from tests.gpu.onnx_models import write_bert_base, write_datatypes, write_mlp, write_resnet50, write_tokens
from worker.errors import BatchError
from worker.gpu.device import devices, find_device
from worker.gpu.lane import TensorRtLane

pytestmark = pytest.mark.gpu

MLP_ROW = ((256,),)
FP32_TOLERANCE = 5e-3  # TF32 on the GPU against FP32 on the CPU


@pytest.mark.parametrize("graphs", ["off", "auto", [1, 8, 40]])
def test_every_number_of_rows_is_answered(bench: Bench, graphs: Any) -> None:
    """Two profiles with a gap between them: 1…8 and 16…64; every size, in the gap too, on graphs and plain."""
    onnx = bench.onnx("mlp_gap", write_mlp)
    entry = bench.build(onnx, (1, 8, 8), (16, 64, 64))
    session = bench.session(onnx)
    with bench.open(entry, cuda_graphs=graphs, reference=session.run) as backend:
        arrays = payload(backend, MLP_ROW, 64, seed=3)
        expected = session.run(arrays)
        for rows in [*range(1, 65), *range(64, 0, -7)]:
            assert_near(
                run(backend, [array[:rows] for array in arrays]), [array[:rows] for array in expected], FP32_TOLERANCE
            )
        lane = backend.acquire()
        assert lane is not None
        assert lane.open(MLP_ROW)[0] == 64
        lane.launch(65)
        while not backend.finished(1.0):
            pass
        with pytest.raises(BatchError):
            lane.outputs()
        lane.release()
        assert_near(run(backend, arrays), expected, FP32_TOLERANCE)


def test_ten_thousand_batches_with_graphs_each_get_their_own_answer(bench: Bench) -> None:
    """Payloads and sizes alternate over four lanes; an answer must be, bit for bit, what the plain run gave for it."""
    entry = bench.build(bench.onnx("mlp", write_mlp), (1, 8, 8), (1, 256, 256))
    sizes = (1, 7, 8, 33, 64, 100, 256)
    buckets = (1, 8, 64, 128, 256)
    with bench.open(entry, cuda_graphs="off", lanes=1) as backend:
        payloads = {(seed, rows): payload(backend, MLP_ROW, rows, seed) for seed in (1, 2) for rows in sizes}
        plain: dict[tuple[int, int], bytes] = {}
        for key, arrays in payloads.items():  # padded as the graphs pad, so that the same kernels run
            bucket = next(size for size in buckets if size >= key[1])
            padded = np.zeros((bucket, 256), np.float32)
            padded[: key[1]] = arrays[0]
            plain[key] = run(backend, [padded])[0][: key[1]].tobytes()
    assert len(set(plain.values())) == len(plain)
    order = [(1 + number % 2, sizes[number * 5 % len(sizes)]) for number in range(10_000)]
    seen = 0
    with bench.open(entry, cuda_graphs=list(buckets), lanes=4) as backend:
        assert backend.describe()["cuda_graphs"] == f"{len(buckets)} a lane"
        running: dict[TensorRtLane, tuple[int, int]] = {}
        waiting = iter(order)
        is_over = False
        while running or not is_over:
            while not is_over and backend.busy_lanes < backend.lane_count:
                following = next(waiting, None)
                if following is None:
                    is_over = True
                else:
                    running[launch(backend, payloads[following])] = following
            for lane in backend.finished(1.0):
                key = running.pop(lane)
                assert lane.outputs()[0].tobytes() == plain[key], f"batch {seen} of payload and rows {key}"
                lane.release()
                seen += 1
    assert seen == len(order)


def answer_of(array: NDArray[Any]) -> NDArray[Any]:
    """What the model of write_datatypes() makes of an input."""
    if array.dtype == np.bool_:
        return ~array
    if array.dtype == np.uint8:
        return array + np.uint8(1)
    return -array if array.dtype == np.int8 else array + array


def test_all_datatypes_and_several_inputs_and_outputs(bench: Bench) -> None:
    """FP32, FP16, BF16, INT64, INT32, UINT8, INT8, BOOL in and out, exactly."""
    onnx = bench.onnx("all_datatypes", write_datatypes)
    entry = bench.build(onnx, (1, 4, 4))
    random = np.random.default_rng(5)
    with bench.open(entry) as backend:
        assert len(backend.model.inputs) == len(backend.model.outputs) == 8
        arrays: list[NDArray[Any]] = []
        for spec in backend.model.inputs:
            numbers = random.integers(0, 2 if spec.datatype == "BOOL" else 100, (3, 8))
            arrays.append(numbers.astype(spec.dtype))
        arrays[3][0, 0] = (1 << 40) + 1  # INT64 is no INT32 in disguise
        outputs = run(backend, arrays)
    for spec, got, a in zip(backend.model.outputs, outputs, arrays, strict=True):
        assert got.dtype == spec.dtype
        np.testing.assert_array_equal(got, answer_of(a).astype(spec.dtype), err_msg=spec.name)


def test_a_free_axis_runs_at_any_length_and_as_graphs_in_its_buckets(bench: Bench) -> None:
    """Lengths 16 and 32 are captured, 23 runs plain; each answer is ONNX Runtime's."""
    onnx = bench.onnx("tokens", write_tokens)
    entry = bench.build(onnx, (1, 8, 8), shapes={"ids": ((1, 4), (8, 32), (8, 64))})
    session = bench.session(onnx)
    pad = {"ids": (1, (16, 32)), "mask": (1, (16, 32))}
    with bench.open(entry, buckets=pad, cuda_graphs=[1, 8], reference=session.run) as backend:
        assert backend.describe()["cuda_graphs"] == "4 a lane"
        random = np.random.default_rng(1)
        for number, length in enumerate([16, 32, 23, 64, 4, 32, 16] * 4):
            rows = 1 + number % 8
            arrays = [
                random.integers(0, 100, (rows, length)),
                (np.arange(length) < 3 + number).astype(np.int64) + np.zeros((rows, 1), np.int64),
            ]
            assert_near(run(backend, arrays), session.run(arrays), FP32_TOLERANCE)
        lane = backend.acquire()
        assert lane is not None
        with pytest.raises(BatchError, match="no profile for rows of shape 65, 65"):
            lane.open(((65,), (65,)))
        lane.release()


@pytest.mark.timeout(900)  # BERT-base builds for more than a minute
@pytest.mark.parametrize(("name", "tolerance"), [("resnet50", 0.02), ("bert_base", 0.05)])
def test_large_models_agree_with_onnx_runtime(bench: Bench, name: str, tolerance: float) -> None:
    """Random weights, exported here; FP16 on the GPU against FP32 on the CPU."""
    if find_spec("torchvision" if name == "resnet50" else "transformers") is None:
        pytest.skip("needs torch, torchvision and transformers for the export")
    onnx = bench.onnx(name, write_resnet50 if name == "resnet50" else write_bert_base)
    entry = bench.build(onnx, (1, 64, 64), precision="fp16")
    session = bench.session(onnx)
    with bench.open(entry, lanes=3, reference=session.run) as backend:
        row_shapes = tuple(spec.row_shape for spec in backend.model.inputs)
        arrays = payload(backend, row_shapes, 5, seed=9)
        assert_near(run(backend, arrays), session.run(arrays), tolerance)


def test_stage_times_and_busy_seconds_are_told(bench: Bench) -> None:
    """From events on the lane's own stream."""
    entry = bench.build(bench.onnx("mlp", write_mlp), (1, 8, 8), (1, 256, 256))
    with bench.open(entry, lanes=1) as backend:
        lane = launch(backend, payload(backend, MLP_ROW, 256, 1))
        while not backend.finished(1.0):
            pass
        assert set(lane.stage_seconds) == {"h2d", "compute", "d2h"}
        assert all(0 < seconds < 0.1 for seconds in lane.stage_seconds.values())
        lane.release()
        assert 0 < backend.busy_seconds < 10


def test_the_device_is_found_by_ordinal_and_uuid(bench: Bench) -> None:
    """As nvidia-smi names it."""
    import subprocess

    first = find_device(0)
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    assert first.uuid in listed
    assert find_device(first.uuid) == first == find_device(first.uuid[:12])


def test_the_second_gpu_answers_while_the_first_is_current(bench: Bench) -> None:
    """Lanes make their own device current; what the thread had before does not matter."""
    from worker.gpu.cuda_runtime import load_cuda

    if len(devices()) < 2:
        pytest.skip("needs two GPUs")
    onnx = bench.onnx("mlp", write_mlp)
    entry = bench.build(onnx, (1, 8, 8), (1, 256, 256))
    session, cuda = bench.session(onnx), load_cuda()
    for graphs in ("off", [1, 64, 256]):
        cuda.set_device(0)
        free_before, _ = cuda.memory_info()
        with bench.open(entry, device=find_device(1), cuda_graphs=graphs, lanes=3) as backend:
            for number in range(50):
                cuda.set_device(0)
                arrays = payload(backend, MLP_ROW, 1 + number * 5, number)
                assert_near(run(backend, arrays), session.run(arrays), FP32_TOLERANCE)
            cuda.set_device(0)
            assert cuda.memory_info()[0] >= free_before - (64 << 20), "the lanes took memory on device 0"
