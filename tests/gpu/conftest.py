"""A small simulated model, and what opens a backend on it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.gpu.gpu_fixtures import KEEP, Bench
from tests.gpu.simulated_cuda import SimulatedCuda
from tests.gpu.simulated_tensorrt import SimulatedPlan, simulated_tensorrt
from worker.assemble_tensorrt import this_machine
from worker.gpu.backend import TensorRtBackend
from worker.gpu.device import find_device
from worker.gpu.flavour import FULL, TensorRt
from worker.gpu.loading import open_tensorrt_backend
from worker.tensors import ModelSpec, TensorSpec

OpenBackend = Callable[..., TensorRtBackend]

WIDTH = 6


def doubled(arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    """y = 2x + flag, and the sum of each row: two inputs and two outputs of different datatypes."""
    x, flag = arrays["x"], arrays["flag"]
    return {"y": (2 * x + flag).astype(np.float32), "total": x.sum(axis=1, keepdims=True).astype(np.float16)}


def model_spec(max_rows: int) -> ModelSpec:
    return ModelSpec(
        "double",
        "1",
        (TensorSpec("x", "FP32", (-1, WIDTH)), TensorSpec("flag", "INT64", (-1, 1))),
        (TensorSpec("y", "FP32", (-1, WIDTH)), TensorSpec("total", "FP16", (-1, 1))),
        max_rows,
        "0" * 12,
    )


def profile(least: int, best: int, largest: int) -> Mapping[str, Any]:
    return {
        "x": ((least, WIDTH), (best, WIDTH), (largest, WIDTH)),
        "flag": ((least, 1), (best, 1), (largest, 1)),
    }


def double_plan(*profiles: Mapping[str, Any]) -> SimulatedPlan:
    return SimulatedPlan(
        {"x": ("FP32", (-1, WIDTH)), "flag": ("INT64", (-1, 1))},
        {"y": ("FP32", (-1, WIDTH)), "total": ("FP16", (-1, 1))},
        list(profiles) or [profile(1, 8, 8)],
        doubled,
    )


@pytest.fixture
def cuda() -> SimulatedCuda:
    return SimulatedCuda()


@pytest.fixture
def open_backend(cuda: SimulatedCuda, tmp_path: Path) -> Iterator[OpenBackend]:
    """Opens backends over simulated plans; closes them and looks for leaks at the end."""
    with ExitStack() as stack:

        def open_it(plan: SimulatedPlan, model: ModelSpec | None = None, **options: Any) -> TensorRtBackend:
            path = tmp_path / "model.plan"
            path.write_bytes(options.pop("content", b"plan"))
            settings: dict[str, Any] = {"lanes": 2, "cuda_graphs": "off", "max_rows": 8, "max_bytes": 1 << 20}
            sha256 = options.pop("sha256", hashlib.sha256(b"plan").hexdigest())
            settings |= options
            return stack.enter_context(
                open_tensorrt_backend(
                    TensorRt(simulated_tensorrt(cuda, plan), FULL, "10.6.0"),
                    find_device(0, cuda),  # type: ignore[arg-type]  # a stand-in for Cuda
                    path,
                    sha256,
                    model or model_spec(8),
                    cuda=cuda,  # type: ignore[arg-type]  # a stand-in for Cuda
                    **settings,
                )
            )

        yield open_it
    assert cuda.is_clean, "the backend leaked"


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """This machine's GPU and TensorRT with an engine repository; for tests with the mark gpu."""
    kept = os.environ.get(KEEP)
    folder = Path(kept) if kept else tmp_path_factory.mktemp("bench")
    folder.mkdir(parents=True, exist_ok=True)
    return Bench(this_machine(0), folder)
