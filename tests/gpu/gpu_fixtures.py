"""What the tests on a real GPU share: this machine, an engine repository, and models built into it once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.assemble_tensorrt import Machine, build_engine, choose_engine
from worker.cpu.onnx_session import OnnxSession
from worker.engine.building import Order
from worker.engine.manifest import Manifest, Precision
from worker.engine.profiles import RowRange
from worker.engine.repository import Entry, Repository
from worker.gpu.backend import TensorRtBackend
from worker.gpu.lane import TensorRtLane
from worker.gpu.loading import open_tensorrt_backend
from worker.gpu.seeded import seeded_rows

KEEP = "TRT_WORKER_TEST_ENGINES"  # a folder in which exported models and built engines outlive the run


@dataclass
class Bench:
    """A machine with a repository."""

    machine: Machine
    folder: Path
    sessions: dict[Path, OnnxSession] = field(default_factory=dict)

    @property
    def repository(self) -> Repository:
        return Repository(self.folder / "engines")

    def onnx(self, name: str, write: Callable[[Path], Path]) -> Path:
        """The model file, written by the first test that needs it."""
        path = self.folder / f"{name}.onnx"
        if not path.exists():
            aside = path.with_suffix(".part.onnx")
            write(aside)
            aside.rename(path)
        return path

    def build(self, onnx: Path, *rows: tuple[int, int, int], precision: Precision = "as-is", **options: Any) -> Entry:
        order = Order(onnx, onnx.stem, "1", precision=precision, rows=[RowRange(*each) for each in rows], **options)
        return build_engine(self.repository, order, self.machine)

    def session(self, onnx: Path) -> OnnxSession:
        """The model in ONNX Runtime on the CPU, the judge of all answers."""
        if onnx not in self.sessions:
            self.sessions[onnx] = OnnxSession(onnx, name=onnx.stem, version="1", threads=os.cpu_count() or 1)
        return self.sessions[onnx]

    def open(self, entry: Entry, **options: Any) -> AbstractContextManager[TensorRtBackend]:
        """A backend on the entry's plan; by default 2 lanes, graphs by auto, and as many rows as the plan takes."""
        manifest, device = manifest_of(entry), self.machine.device
        assert device is not None
        settings: dict[str, Any] = {
            "lanes": 2,
            "cuda_graphs": "auto",
            "max_rows": manifest.max_rows,
            "max_bytes": 1 << 30,
            "tolerance": 0.05 if manifest.recipe.precision == "fp16" else None,
            "device": device,
        }
        settings |= options
        return open_tensorrt_backend(
            self.machine.trt,
            settings.pop("device"),
            entry.plan,
            manifest.plan_sha256,
            manifest.model_spec(),
            **settings,
        )

    def choose(self, model: str, **options: Any) -> Entry | None:
        return choose_engine(
            self.repository, model, "1", self.machine, **{"onnx": None, "allow_host_code": False, **options}
        ).entry


def manifest_of(entry: Entry) -> Manifest:
    assert entry.manifest is not None, entry.problem
    return entry.manifest


def payload(
    backend: TensorRtBackend, row_shapes: Sequence[tuple[int, ...]], rows: int, seed: int
) -> list[NDArray[Any]]:
    return seeded_rows(backend.model, row_shapes, rows, seed)


def launch(backend: TensorRtBackend, arrays: Sequence[NDArray[Any]]) -> TensorRtLane:
    """Write the arrays into a free lane and start it."""
    lane = backend.acquire()
    assert lane is not None
    _, views = lane.open(tuple(array.shape[1:] for array in arrays))
    for view, array in zip(views, arrays, strict=True):
        view[: array.nbytes] = array.tobytes()
    lane.launch(len(arrays[0]))
    return lane


def run(backend: TensorRtBackend, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """One batch from start to end; copies of its outputs."""
    lane = launch(backend, arrays)
    while lane not in backend.finished(1.0):
        pass
    outputs = [array.copy() for array in lane.outputs()]
    lane.release()
    return outputs


def assert_near(got: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]], tolerance: float) -> None:
    """Off by no more than `tolerance` of the largest expected value."""
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        off = np.max(np.abs(a.astype(np.float64) - b.astype(np.float64))) / max(
            1e-6, float(np.max(np.abs(b.astype(np.float64))))
        )
        assert off <= tolerance, f"off by {off:.5f}"
