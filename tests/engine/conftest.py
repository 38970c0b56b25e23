"""Small ONNX files, made-up manifests, and the TensorRT-RTX builder, which needs no GPU."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.onnx_models import write_mlp
from worker.engine.gpu_key import Gpu, Runtime, gpu_key
from worker.engine.manifest import Manifest
from worker.engine.repository import Entry, Repository

H200 = Gpu("NVIDIA H200", "9.0")
H100 = Gpu("NVIDIA H100 80GB HBM3", "9.0")
L4 = Gpu("NVIDIA L4", "8.9")
T4 = Gpu("Tesla T4", "7.5")
TRT = Runtime("tensorrt", "10.6.0")
ONNX_SHA256 = "a" * 64


def manifest(gpu: Gpu | None = H200, runtime: Runtime = TRT, **changes: Any) -> Manifest:
    """A manifest as a build for this GPU would write it."""
    recipe = {
        "onnx_sha256": ONNX_SHA256,
        "precision": "as-is",
        "profiles": [{"x": [[1, 4], [8, 4], [8, 4]]}],
        **changes.pop("recipe", {}),
    }
    return Manifest.model_validate(
        {
            "model": "mlp",
            "version": "1",
            "plan_sha256": "b" * 64,
            "plan_bytes": 4,
            "flavour": runtime.makes,
            "tensorrt_version": runtime.version,
            "gpu_name": gpu.name if gpu else None,
            "compute_capability": gpu.compute_capability if gpu else None,
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4], "axis_names": ["rows", ""]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
            "recipe": recipe,
            "build_seconds": 1.0,
            "built_at": "2026-01-01T00:00:00+00:00",
            "tool_version": "0",
            **changes,
        }
    )


def entry(gpu: Gpu | None = H200, runtime: Runtime = TRT, **changes: Any) -> Entry:
    """An entry that is nowhere on disk."""
    key = gpu_key(gpu, runtime)
    return Entry("mlp", "1", key, Path("nowhere") / key, manifest(gpu, runtime, **changes))


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "engines")


@pytest.fixture(scope="session")
def mlp_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mlp(tmp_path_factory.mktemp("onnx") / "mlp.onnx")


@pytest.fixture(scope="session")
def rtx() -> Any:
    """TensorRT-RTX; its parser and builder run without a GPU."""
    if not any(importlib.util.find_spec(name) for name in ("tensorrt_rtx", "tensorrt_rtx_bindings")):
        reason = "needs TensorRT-RTX: install the extra `rtx`"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}; with CI=true that is a failure", pytrace=False)
        pytest.skip(reason)
    from worker.gpu.flavour import RTX, load_tensorrt

    return load_tensorrt(RTX)
