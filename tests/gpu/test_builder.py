"""What reaches TensorRT's builder of an order, and what the next build gets from the last one. No GPU needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.gpu.onnx_models import write_mlp
from tests.gpu.simulated_builder import Config, Flag, Level, Pool, simulated_builder
from worker.assemble_tensorrt import Machine, build_engine
from worker.engine.building import Order
from worker.engine.profiles import RowRange
from worker.engine.repository import Entry, Repository
from worker.gpu.flavour import FULL, TensorRt


class Builds:
    """A repository, and a builder that notes what it is told."""

    def __init__(self, folder: Path) -> None:
        self.module, self.told = simulated_builder()
        self.repository = Repository(folder / "engines")
        self._onnx = write_mlp(folder / "mlp.onnx")

    def build(self, **options: Any) -> Config:
        self.order(**options)
        return self.told[-1]

    def order(self, **options: Any) -> Entry:
        order = Order(self._onnx, "mlp", "1", **options)
        machine = Machine(TensorRt(self.module, FULL, "10.6.0"), None)
        return build_engine(self.repository, order, machine, is_forced=True)


@pytest.fixture
def builds(tmp_path: Path) -> Builds:
    return Builds(tmp_path)


def test_every_option_of_an_order_reaches_the_builder(builds: Builds) -> None:
    """Each by itself, so that none can stand in for another; and nothing that was not ordered."""
    plain = builds.build()
    assert (plain.limits, plain.flags, plain.max_aux_streams) == ({}, set(), -1)
    assert plain.hardware_compatibility_level == Level.NONE
    assert builds.build(workspace_mib=64).limits == {Pool.WORKSPACE: 64 << 20}
    assert builds.build(max_aux_streams=0).max_aux_streams == 0
    assert builds.build(max_aux_streams=3).max_aux_streams == 3
    assert builds.build(version_compatible=True).flags == {Flag.VERSION_COMPATIBLE}
    for name, level in (("ampere_plus", Level.AMPERE_PLUS), ("same_compute_capability", Level.SAME_COMPUTE_CAPABILITY)):
        assert builds.build(hardware_compatibility=name).hardware_compatibility_level == level
    profiles = builds.build(rows=[RowRange(1, 2, 4), RowRange(8, 16, 32)]).profiles
    assert [profile.shapes["x"] for profile in profiles] == [
        ((1, 256), (2, 256), (4, 256)),
        ((8, 256), (16, 256), (32, 256)),
    ]


def test_a_build_starts_from_what_the_last_one_measured(builds: Builds) -> None:
    """The first has nothing; the second gets the first one's cache, of whatever model, and the third both."""
    key = builds.order().key
    assert builds.told[-1].caches == [b""]
    kept = builds.repository.timing_cache(key)
    assert kept.read_bytes() == b"measured;"
    assert builds.build(workspace_mib=64).caches == [b"measured;"]
    assert builds.build().caches == [b"measured;measured;"]


def test_a_timing_cache_of_another_gpu_is_replaced(builds: Builds, caplog: pytest.LogCaptureFixture) -> None:
    """TensorRT refuses it; the build starts from an empty one, says so, and keeps what it measured."""
    kept = builds.repository.timing_cache(builds.order().key)
    kept.write_bytes(b"foreign")
    assert builds.build().caches == [b"foreign", b""]
    assert "the timing cache does not fit this GPU or TensorRT" in caplog.text
    assert kept.read_bytes() == b"measured;"
