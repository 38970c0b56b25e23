"""The GPU that runs the lanes, found by ordinal or UUID."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from worker.errors import ConfigError, GpuError
from worker.gpu.cuda_runtime import Cuda, CudaError, load_cuda


@dataclass(frozen=True, slots=True)
class Device:
    """One CUDA device of this process."""

    ordinal: int
    uuid: str  # GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx
    name: str
    compute_capability: str  # "9.0"
    memory_bytes: int

    def __str__(self) -> str:
        return f"{self.name} (device {self.ordinal}, {self.uuid})"


def devices(cuda: Cuda | None = None) -> list[Device]:
    """All GPUs this process may use.

    Raises:
        EngineError: cuda-python is not installed.
        GpuError: no driver, or no GPU.
    """
    cuda = cuda or load_cuda()
    try:
        count = cuda.device_count()
    except CudaError as error:
        raise GpuError(f"no usable GPU: {error}; check the NVIDIA driver and CUDA_VISIBLE_DEVICES") from error
    if count == 0:
        raise GpuError("no usable GPU: the driver finds none; check CUDA_VISIBLE_DEVICES")
    return [_device(cuda, ordinal) for ordinal in range(count)]


def find_device(wanted: int | str = 0, cuda: Cuda | None = None) -> Device:
    """The GPU with this ordinal (0, "0") or UUID ("GPU-…", or the beginning of it).

    Raises:
        EngineError: cuda-python is not installed.
        GpuError: no driver, or no GPU.
        ConfigError: GPUs, but not this one; lists those that are there.
    """
    found = devices(cuda)
    text = str(wanted)
    if text.isdigit():
        matches = [device for device in found if device.ordinal == int(text)]
    else:
        matches = [device for device in found if text.startswith("GPU-") and device.uuid.startswith(text)]
    if len(matches) != 1:
        there = ", ".join(str(device) for device in found)
        raise ConfigError(f"engine.device is {wanted}, which is {'none' if not matches else 'several'} of: {there}")
    return matches[0]


def _device(cuda: Cuda, ordinal: int) -> Device:
    name, identity, capability, memory_bytes = cuda.device_facts(ordinal)
    return Device(ordinal, f"GPU-{uuid.UUID(bytes=identity)}", name, capability, memory_bytes)
