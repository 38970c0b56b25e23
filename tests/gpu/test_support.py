"""Progress of a build, TensorRT's log, finding devices, and a TensorRT that is not there."""

from __future__ import annotations

import logging
import types

import pytest

from tests.gpu.simulated_cuda import SimulatedCuda
from worker.errors import ConfigError, EngineError, GpuError
from worker.gpu.cuda_runtime import CudaError
from worker.gpu.device import devices, find_device
from worker.gpu.flavour import load_tensorrt
from worker.gpu.logger import make_logger
from worker.gpu.progress import PhaseTree


def test_nested_phases_add_up_and_never_go_back() -> None:
    """A child fills one step of its parent; a phase that ends early does not lower the share."""
    tree = PhaseTree()
    tree.start("build", None, 4)
    assert tree.fraction == 0
    tree.step("build", 0)
    assert tree.fraction == 0.25
    tree.start("time kernels", "build", 10)
    tree.step("time kernels", 4)
    assert tree.fraction == pytest.approx(0.25 + 0.25 * 0.5)
    tree.finish("time kernels")
    assert tree.fraction == pytest.approx(0.375)
    tree.step("never started", 3)
    tree.step("build", 3)
    assert tree.fraction == 1


class Severity:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


def test_tensorrts_messages_keep_their_severity_and_errors_are_remembered(caplog: pytest.LogCaptureFixture) -> None:
    """In the log under worker.tensorrt; the errors since clear() explain a None."""
    module = types.ModuleType("trt")
    module.__dict__["ILogger"] = type("ILogger", (), {"Severity": Severity})
    logger = make_logger(module)
    assert make_logger(module) is logger
    say = logger.log  # type: ignore[attr-defined]  # TensorRT's side of it
    with caplog.at_level(logging.INFO, "worker.tensorrt"):
        for severity in (Severity.INTERNAL_ERROR, Severity.ERROR, Severity.WARNING, Severity.INFO, Severity.VERBOSE):
            say(severity, f"message {severity}\n")
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO]
    assert logger.errors() == "message 0; message 1"
    logger.clear()
    assert logger.errors() == "TensorRT gave no reason"


def test_devices_are_found_by_ordinal_and_uuid() -> None:
    """A UUID with zeros in it too; what is not there is told apart from no GPU at all."""
    cuda = SimulatedCuda()
    first, second = devices(cuda)  # type: ignore[arg-type]  # a stand-in for Cuda
    assert second.uuid == "GPU-00010101-0101-0101-0101-010101010101"
    assert find_device("1", cuda) == second  # type: ignore[arg-type]
    assert find_device(second.uuid, cuda) == second  # type: ignore[arg-type]
    assert find_device(0, cuda) == first  # type: ignore[arg-type]
    for wanted in ("2", "GPU-ff", "MIG-1", "GPU-0", "nonsense"):
        with pytest.raises(ConfigError, match=r"engine\.device is .* of: Simulated GPU \(device 0"):
            find_device(wanted, cuda)  # type: ignore[arg-type]


def test_no_driver_is_told_in_one_line() -> None:
    """Exit 5, with what to look at."""

    class NoDriver(SimulatedCuda):
        def device_count(self) -> int:
            raise CudaError("cudaGetDeviceCount failed: driver too old", "cudaErrorInsufficientDriver")

    with pytest.raises(GpuError, match="check the NVIDIA driver and CUDA_VISIBLE_DEVICES") as raised:
        find_device(0, NoDriver())  # type: ignore[arg-type]  # a stand-in for Cuda
    assert raised.value.exit_code == 5


def test_a_flavour_that_is_not_there_is_refused_with_the_remedy() -> None:
    """Exit 3, with what to install."""
    with pytest.raises(EngineError, match=r"tensorrt_nano cannot be used .* install the extra"):
        load_tensorrt("tensorrt_nano")
