"""Out of memory, in words: what a lane takes, how many would fit, and what to do."""

from __future__ import annotations

from dataclasses import dataclass

from worker.errors import GpuError
from worker.gpu.cuda_runtime import CudaError
from worker.gpu.device import Device

MIB = 1 << 20
SAID = ("out of memory", "outofmemory", "memoryallocation", "could not be allocated")  # by CUDA and by TensorRT
SMALLER = "lower batching.max_rows, or build the plan for fewer rows"


def is_out_of_memory(error: Exception) -> bool:
    """Whether this is what memory that ran out looks like; TensorRT only says so in its log."""
    if isinstance(error, CudaError):
        return error.is_out_of_memory
    text = str(error).lower()
    return any(phrase in text for phrase in SAID)


@dataclass(frozen=True, slots=True)
class LaneDemand:
    """What the lanes of a start ask for."""

    device: Device
    lanes: int
    host_bytes: int  # pinned, of one lane
    device_bytes: int  # buffers and activations of one lane
    free_bytes: int  # on the device, before the first lane

    @property
    def is_too_much(self) -> bool:
        """Plain arithmetic says that they cannot fit."""
        return self.lanes * self.device_bytes > self.free_bytes

    def refusal(self) -> GpuError:
        """Before any lane is opened."""
        return GpuError(f"{self._balance} are free; {_remedy(self.free_bytes // self.device_bytes)}")

    def failure(self, opened: int, error: Exception) -> GpuError:
        """After so many lanes were opened and tested, when the next one, or a graph of them, found no memory."""
        if isinstance(error, CudaError) and error.is_host_memory:
            takes = (
                f"a lane takes {_mib(self.host_bytes)} of it, {self.lanes} lanes {_mib(self.lanes * self.host_bytes)}"
            )
            return GpuError(
                f"out of pinned host memory: {takes}; lane {opened + 1} failed ({error}); {_remedy(opened)}"
            )
        if opened < self.lanes:
            return GpuError(f"{self._balance} were free, but lane {opened + 1} failed ({error}); {_remedy(opened)}")
        return GpuError(
            f"{self._balance} were free; {opened} would fit, but not their CUDA graphs ({error}): "
            "list fewer rows in engine.cuda_graphs, or lower engine.lanes"
        )

    @property
    def _balance(self) -> str:
        return (
            f"out of memory on {self.device}: a lane takes {_mib(self.device_bytes)} (buffers and activations), "
            f"{self.lanes} lanes {_mib(self.lanes * self.device_bytes)}, and {_mib(self.free_bytes)}"
        )


def no_room_for_plan(device: Device, plan_bytes: int, free_bytes: int, error: Exception) -> GpuError:
    """The plan itself does not fit, so that a lane's share is not even known."""
    return GpuError(
        f"out of memory on {device}: the plan has {_mib(plan_bytes)}, {_mib(free_bytes)} were free before it was "
        f"loaded ({error}); no lane would fit: end what else uses this GPU, or take one with more memory"
    )


def _remedy(fitting: int) -> str:
    return f"{fitting} would fit: {f'set engine.lanes: {fitting}' if fitting else SMALLER}"


def _mib(size: int) -> str:
    return f"{size / MIB:.0f} MiB"
