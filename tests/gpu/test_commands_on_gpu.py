"""The commands and the composition on a real GPU, as users come to them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.gpu_fixtures import Bench, assert_near, payload, run
from tests.gpu.onnx_models import write_mlp
from worker.assemble_tensorrt import open_backend
from worker.config import Settings
from worker.errors import EngineError

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parent.parent.parent


def worker(*arguments: str, exit_code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "worker", *arguments], capture_output=True, text=True, cwd=ROOT, timeout=100, check=False
    )
    assert done.returncode == exit_code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_build_select_and_bench(bench: Bench, tmp_path: Path) -> None:
    """One after the other from the command line; the bench's figures are whole."""
    onnx = bench.onnx("mlp", write_mlp)
    root = ("--repository", str(tmp_path / "engines"))
    built = worker(
        "build", "--onnx", str(onnx), "--model", "mlp", "--precision", "fp16", "--profile", "1,256,256", *root
    )
    assert "up to 256 rows" in built
    assert "built for exactly this GPU" in worker("engines", "select", "--model", "mlp", "--onnx", str(onnx), *root)
    assert "refused" in worker(
        "engines", "select", "--model", "mlp", *root, "--gpu", "NVIDIA L4,8.9", "--tensorrt", "10.6.0", exit_code=3
    )
    figures = tmp_path / "figures.json"
    worker(
        "bench", "--model", "mlp", "--rows", "256", "--seconds", "0.1", "--rounds", "2", "--json", str(figures), *root
    )
    told = json.loads(figures.read_text())
    assert 0.3 < told["lanes_share_of_ideal"] < 3
    assert set(told["overlap"]["stage_us"]) == {"h2d", "compute", "d2h"}
    assert told["machine"]["driver"] != "unknown"


def settings(bench: Bench, root: Path, onnx: Path, **engine: Any) -> Settings:
    return Settings(
        model={"name": "mlp", "onnx": onnx},
        engine={"repository": root, "lanes": 2, **engine},
        batching={"max_rows": 32},
        kafka={
            "bootstrap_servers": "nowhere:1",
            "group_id": "g",
            "input_topics": ["in"],
            "output_topic": "out",
            "dead_letter_topic": "dead",
        },
    )


def test_an_engine_that_is_missing_is_built_when_allowed(bench: Bench, tmp_path: Path) -> None:
    """Refused without build_if_missing, with what is there and what this GPU is; built with it, once."""
    onnx = bench.onnx("mlp", write_mlp)
    session = bench.session(onnx)
    with (
        pytest.raises(EngineError, match="build_if_missing: true") as raised,
        open_backend(settings(bench, tmp_path, onnx)),
    ):
        pass
    assert raised.value.exit_code == 3
    for said in ("built now", "built for exactly this GPU"):
        with open_backend(settings(bench, tmp_path, onnx, build_if_missing=True), session.run) as backend:
            assert said in backend.describe()["reason"]
            assert backend.model.max_rows == 32
            arrays = payload(backend, ((256,),), 19, 1)
            assert_near(run(backend, arrays), session.run(arrays), 5e-3)
    other = write_mlp(tmp_path / "other.onnx", seed=1)
    with (
        pytest.raises(EngineError, match="built from another ONNX file"),
        open_backend(settings(bench, tmp_path, other)),
    ):
        pass
