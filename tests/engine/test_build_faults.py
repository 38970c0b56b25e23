"""What the disk refuses during a build, and what it costs: a line, not the plan. No TensorRT needed."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import H200, TRT
from worker.engine import building
from worker.engine.building import Order, build
from worker.engine.gpu_key import gpu_key
from worker.engine.repository import Entry, Repository
from worker.errors import EngineError


@dataclass
class Built:
    plan: bytes = b"plan"
    timing_cache: bytes = b"measured"
    datatypes: Mapping[str, str] = field(default_factory=lambda: {"x": "FP32", "y": "FP32"})


def full(*_: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def order(repository: Repository, onnx: Path, **options: Any) -> Entry:
    return build(repository, Order(onnx, "mlp", "1", **options), H200, TRT, lambda *_: Built())


def test_a_timing_cache_that_cannot_be_written_costs_a_warning(
    repository: Repository, mlp_onnx: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Minutes of building must not be lost for what only saves time."""
    monkeypatch.setattr(building, "write_durably", full)
    with caplog.at_level(logging.WARNING, "worker.engine"):
        there = order(repository, mlp_onnx)
    assert there.verify() == ""
    assert there.plan.read_bytes() == b"plan"
    assert f"cannot keep the timing cache {repository.timing_cache(there.key)}: No space left" in caplog.text


def test_a_timing_cache_that_cannot_be_read_costs_a_warning(
    repository: Repository, mlp_onnx: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Here a folder lies in its place; the plan is built and kept."""
    repository.timing_cache(gpu_key(H200, TRT)).mkdir(parents=True)
    with caplog.at_level(logging.WARNING, "worker.engine"):
        assert order(repository, mlp_onnx).verify() == ""
    assert "cannot read the timing cache" in caplog.text


def root_is_a_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root.write_bytes(b"")


def lock_is_a_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "mlp" / "1" / f".{gpu_key(H200, TRT)}.lock").mkdir(parents=True)


def no_room_for_temporary_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "mkdtemp", full)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (root_is_a_file, "lock: Not a directory; the engine repository must be a folder that can be written"),
        (lock_is_a_folder, "lock: Is a directory; the engine repository must be a folder that can be written"),
        (no_room_for_temporary_files, "as FP16: [Errno 28] No space left on device; make room there, or set TMPDIR"),
    ],
)
def test_what_the_disk_refuses_is_one_line(
    repository: Repository,
    mlp_onnx: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path, pytest.MonkeyPatch], None],
    said: str,
) -> None:
    """Exit 3, with the place and the remedy."""
    damage(repository.root, monkeypatch)
    with pytest.raises(EngineError) as raised:
        order(repository, mlp_onnx, precision="fp16")
    assert str(raised.value).endswith(said)
    assert "\n" not in str(raised.value)


def test_a_lock_is_held_though_the_disk_is_full(
    repository: Repository, mlp_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who holds it cannot be written into it; the lock itself needs no room."""
    monkeypatch.setattr(os, "pwrite", full)
    assert order(repository, mlp_onnx).verify() == ""
