"""The one import point of CUDA: every call checked, handles instead of objects, sizes in bytes."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

from worker.errors import EngineError, GpuError

HOST_ALLOCATION = "cudaHostAlloc"
Handle = Any  # an opaque stream, event or executable graph; belongs to whoever created it


class CudaError(GpuError):
    """A CUDA call failed; whether the context survived, Cuda.is_usable() says."""

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name  # such as cudaErrorMemoryAllocation

    @property
    def is_out_of_memory(self) -> bool:
        return self.name == "cudaErrorMemoryAllocation"

    @property
    def is_host_memory(self) -> bool:
        """What ran out is memory of the host that can be page-locked; the GPU may have plenty."""
        return self.is_out_of_memory and str(self).startswith(HOST_ALLOCATION)


class Cuda:
    """The CUDA runtime of this process. What enqueues takes a stream and returns at once."""

    def __init__(self) -> None:
        """Raises:
        EngineError: cuda-python is not installed.
        """
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise EngineError(
                f"CUDA cannot be used from Python ({error}); install the extra `gpu`, or set engine.backend: cpu"
            ) from error
        self._runtime: Any = runtime
        self._not_ready = int(runtime.cudaError_t.cudaErrorNotReady)
        self._to_device = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._to_host = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost

    def _check(self, result: Any, call: str) -> Any:
        """The value a call returned; raises CudaError unless its status is success."""
        status = result[0]
        if status:
            name, text = self._name(status)
            self._runtime.cudaGetLastError()  # an error of one call must not be found again by the next
            raise CudaError(f"{call} failed: {text} ({name})", name)
        return result[1] if len(result) == 2 else result[1:]

    def _release(self, result: Any, call: str) -> None:
        """Like _check, but a context that is lost has nothing left to free."""
        if result[0] and self.is_usable():
            self._check(result, call)

    def _name(self, status: Any) -> tuple[str, str]:
        name = self._runtime.cudaGetErrorName(status)[1]
        text = self._runtime.cudaGetErrorString(status)[1]
        return name.decode(), text.decode()

    def device_count(self) -> int:
        return int(self._check(self._runtime.cudaGetDeviceCount(), "cudaGetDeviceCount"))

    def device_facts(self, ordinal: int) -> tuple[str, bytes, str, int]:
        """(name, UUID, compute capability, memory in bytes)."""
        properties = self._check(self._runtime.cudaGetDeviceProperties(ordinal), "cudaGetDeviceProperties")
        uuid = ctypes.string_at(properties.uuid.getPtr(), 16)  # its .bytes would end at the first zero
        capability = f"{properties.major}.{properties.minor}"
        return properties.name.decode(), uuid, capability, int(properties.totalGlobalMem)

    def driver_version(self) -> str:
        """CUDA version the driver supports, such as 13.0."""
        number = int(self._check(self._runtime.cudaDriverGetVersion(), "cudaDriverGetVersion"))
        return f"{number // 1000}.{number % 1000 // 10}"

    def set_device(self, ordinal: int) -> None:
        """Make the device current for the calling thread."""
        if (result := self._runtime.cudaSetDevice(ordinal))[0]:
            self._check(result, "cudaSetDevice")

    def memory_info(self) -> tuple[int, int]:
        """(free, total) bytes of the current device."""
        free, total = self._check(self._runtime.cudaMemGetInfo(), "cudaMemGetInfo")
        return int(free), int(total)

    def is_usable(self) -> bool:
        """False once an error has poisoned the context: then every call fails, and only a new process helps."""
        self._runtime.cudaGetLastError()
        return not self._runtime.cudaMemGetInfo()[0] and not self._runtime.cudaGetLastError()[0]

    def allocate_device(self, size: int) -> int:
        """Address of new device memory, 256-byte aligned; the caller frees it."""
        return int(self._check(self._runtime.cudaMalloc(size), f"cudaMalloc of {size} bytes"))

    def free_device(self, address: int) -> None:
        """Waits for the device; nothing may be using the memory."""
        self._release(self._runtime.cudaFree(address), "cudaFree")

    def allocate_pinned(self, size: int) -> int:
        """Address of new page-locked host memory, usable from every device; the caller frees it."""
        flags = self._runtime.cudaHostAllocPortable
        return int(self._check(self._runtime.cudaHostAlloc(size, flags), f"{HOST_ALLOCATION} of {size} bytes"))

    def free_pinned(self, address: int) -> None:
        self._release(self._runtime.cudaFreeHost(address), "cudaFreeHost")

    def register_pinned(self, address: int, size: int) -> None:
        """Page-lock memory that somebody else allocated, for every device; unregister_pinned() before it is freed."""
        flags = self._runtime.cudaHostRegisterPortable
        self._check(self._runtime.cudaHostRegister(address, size, flags), f"cudaHostRegister of {size} bytes")

    def unregister_pinned(self, address: int) -> None:
        """Nothing may be copying from or to the memory."""
        self._release(self._runtime.cudaHostUnregister(address), "cudaHostUnregister")

    def copy_to_device(self, target: int, source: int, size: int, *, stream: Handle) -> None:
        """Enqueue a copy; `source` (pinned) must stay as it is until the stream has come by."""
        if (result := self._runtime.cudaMemcpyAsync(target, source, size, self._to_device, stream))[0]:
            self._check(result, "cudaMemcpyAsync to the device")

    def copy_to_host(self, target: int, source: int, size: int, *, stream: Handle) -> None:
        """Enqueue a copy; `target` (pinned) holds it once the stream has come by."""
        if (result := self._runtime.cudaMemcpyAsync(target, source, size, self._to_host, stream))[0]:
            self._check(result, "cudaMemcpyAsync to the host")

    def create_stream(self) -> Handle:
        """A stream of the current device that does not wait for the default stream."""
        flags = self._runtime.cudaStreamNonBlocking
        return self._check(self._runtime.cudaStreamCreateWithFlags(flags), "cudaStreamCreateWithFlags")

    def destroy_stream(self, stream: Handle) -> None:
        self._release(self._runtime.cudaStreamDestroy(stream), "cudaStreamDestroy")

    def is_idle(self, stream: Handle) -> bool:
        """Whether everything enqueued on the stream has completed."""
        status = (result := self._runtime.cudaStreamQuery(stream))[0]
        if not status:
            return True
        if int(status) == self._not_ready:
            return False
        self._check(result, "a batch on the GPU")
        return False

    def synchronize(self, stream: Handle) -> None:
        """Wait until everything enqueued on the stream has completed."""
        self._check(self._runtime.cudaStreamSynchronize(stream), "cudaStreamSynchronize")

    def create_event(self, *, has_timing: bool) -> Handle:
        flags = 0 if has_timing else self._runtime.cudaEventDisableTiming
        return self._check(self._runtime.cudaEventCreateWithFlags(flags), "cudaEventCreateWithFlags")

    def destroy_event(self, event: Handle) -> None:
        self._release(self._runtime.cudaEventDestroy(event), "cudaEventDestroy")

    def record(self, event: Handle, *, stream: Handle) -> None:
        if (result := self._runtime.cudaEventRecord(event, stream))[0]:
            self._check(result, "cudaEventRecord")

    def elapsed_s(self, start: Handle, end: Handle) -> float:
        """Seconds between two events that have been reached."""
        return float(self._check(self._runtime.cudaEventElapsedTime(start, end), "cudaEventElapsedTime")) / 1e3

    def begin_capture(self, *, stream: Handle) -> None:
        """Record what this thread enqueues on the stream instead of running it."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._check(self._runtime.cudaStreamBeginCapture(stream, mode), "cudaStreamBeginCapture")

    def end_capture(self, *, stream: Handle) -> tuple[Handle, int]:
        """(executable graph, number of its nodes); the caller destroys it.

        Raises:
            CudaError: something in between cannot be captured.
        """
        graph = self._check(self._runtime.cudaStreamEndCapture(stream), "cudaStreamEndCapture")
        try:
            _, nodes = self._check(self._runtime.cudaGraphGetNodes(graph), "cudaGraphGetNodes")
            return self._check(self._runtime.cudaGraphInstantiate(graph, 0), "cudaGraphInstantiate"), int(nodes)
        finally:
            self._release(self._runtime.cudaGraphDestroy(graph), "cudaGraphDestroy")

    def launch_graph(self, graph: Handle, *, stream: Handle) -> None:
        if (result := self._runtime.cudaGraphLaunch(graph, stream))[0]:
            self._check(result, "cudaGraphLaunch")

    def destroy_graph(self, graph: Handle) -> None:
        self._release(self._runtime.cudaGraphExecDestroy(graph), "cudaGraphExecDestroy")


@functools.cache
def load_cuda() -> Cuda:
    """The process's CUDA runtime; see Cuda for what it raises."""
    return Cuda()
