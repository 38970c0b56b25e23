"""A CUDA runtime that runs on the host, so that lanes can be tested without a GPU.

Device memory is host memory and a stream is a list of things still to be done: what was enqueued happens when somebody
waits for the stream, or asks for it often enough.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.gpu.cuda_runtime import CudaError

Work = Callable[[], None]


class Copy(NamedTuple):
    """One enqueued copy."""

    kind: str  # to_device or to_host
    host: int  # its address there
    size: int


class SimulatedCuda:
    """worker.gpu.cuda_runtime.Cuda without a GPU."""

    def __init__(self, *, polls: int = 2, free_bytes: int = 1 << 30) -> None:
        self.polls = polls  # how often a stream is asked before its work is done
        self.free_bytes = free_bytes
        self.promised_bytes = 0  # what memory_info() calls free and nobody can have
        self.pinned_bytes = 1 << 30  # what the host lets be page-locked
        self.blocks: dict[int, NDArray[np.uint8]] = {}
        self.streams: dict[int, list[Work]] = {}
        self.asked: dict[int, int] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.events: set[int] = set()
        self.pinned: dict[int, int] = {}  # address -> bytes
        self.registered: dict[int, int] = {}  # pinned memory of others: address -> bytes
        self.capturing: dict[int, list[Work]] = {}
        self.copies: list[Copy] = []
        self.launches = 0
        self.device = 0
        self.lost = ""  # the sticky error, once there is one
        self.fail_next: str = ""  # an error of the next call that enqueues
        self.fail_capture = ""  # an error of every end of a capture
        self._next_handle = 1

    def _handle(self) -> int:
        self._next_handle += 1
        return self._next_handle

    def enqueue(self, stream: int, work: Work) -> None:
        if self.lost:
            raise CudaError(f"simulated: {self.lost}", self.lost)
        if self.fail_next:
            name, self.fail_next = self.fail_next, ""
            raise CudaError(f"simulated: {name}", name)
        self.capturing.get(stream, self.streams[stream]).append(work)

    def device_count(self) -> int:
        return 2

    def device_facts(self, ordinal: int) -> tuple[str, bytes, str, int]:
        return "Simulated GPU", bytes([0, *([ordinal] * 15)]), "9.0", 1 << 30

    def set_device(self, ordinal: int) -> None:
        self.device = ordinal

    def memory_info(self) -> tuple[int, int]:
        return self.free_bytes + self.promised_bytes, 1 << 34

    def is_usable(self) -> bool:
        return not self.lost

    def allocate_device(self, size: int) -> int:
        if size > self.free_bytes:
            raise CudaError(f"cudaMalloc of {size} bytes failed", "cudaErrorMemoryAllocation")
        block = np.full(size + 256, 0xAB, np.uint8)
        address = -(-block.ctypes.data // 256) * 256
        self.blocks[address] = block
        self.free_bytes -= size
        return address

    def free_device(self, address: int) -> None:
        self.free_bytes += len(self.blocks.pop(address)) - 256

    def allocate_pinned(self, size: int) -> int:
        if size > self.pinned_bytes:
            raise CudaError(f"cudaHostAlloc of {size} bytes failed", "cudaErrorMemoryAllocation")
        self.pinned_bytes -= size
        block = np.full(size + 256, 0xCD, np.uint8)
        self.blocks[block.ctypes.data] = block
        self.pinned[block.ctypes.data] = size
        return block.ctypes.data

    def free_pinned(self, address: int) -> None:
        del self.blocks[address]
        self.pinned_bytes += self.pinned.pop(address)

    def register_pinned(self, address: int, size: int) -> None:
        self.registered[address] = size

    def unregister_pinned(self, address: int) -> None:
        del self.registered[address]

    def copy_to_device(self, target: int, source: int, size: int, *, stream: int) -> None:
        self._note_copy(Copy("to_device", source, size))
        self.enqueue(stream, lambda: _move(target, source, size))

    def copy_to_host(self, target: int, source: int, size: int, *, stream: int) -> None:
        self._note_copy(Copy("to_host", target, size))
        self.enqueue(stream, lambda: _move(target, source, size))

    def _note_copy(self, copy: Copy) -> None:
        """Of other memory than pinned, CUDA would make a copy of its own first."""
        places = {**self.pinned, **self.registered}
        assert any(start <= copy.host and copy.host + copy.size <= start + size for start, size in places.items())
        self.copies.append(copy)

    def create_stream(self) -> int:
        stream = self._handle()
        self.streams[stream] = []
        return stream

    def destroy_stream(self, stream: int) -> None:
        del self.streams[stream]

    def is_idle(self, stream: int) -> bool:
        if self.lost:
            raise CudaError(f"simulated: {self.lost}", self.lost)
        if self.streams[stream]:
            self.asked[stream] = self.asked.get(stream, 0) + 1
            if self.asked[stream] < self.polls:
                return False
            self.synchronize(stream)
        return True

    def synchronize(self, stream: int) -> None:
        if self.lost:
            raise CudaError(f"simulated: {self.lost}", self.lost)
        self.asked[stream] = 0
        works, self.streams[stream] = self.streams[stream], []
        for work in works:
            work()

    def create_event(self, *, has_timing: bool) -> int:
        event = self._handle()
        self.events.add(event)
        return event

    def destroy_event(self, event: int) -> None:
        self.events.remove(event)

    def record(self, event: int, *, stream: int) -> None:
        self.enqueue(stream, lambda: None)

    def elapsed_s(self, start: int, end: int) -> float:
        return (end - start) * 1e-6

    def begin_capture(self, *, stream: int) -> None:
        self.capturing[stream] = []

    def end_capture(self, *, stream: int) -> tuple[int, int]:
        captured = self.capturing.pop(stream)
        if self.fail_capture:
            raise CudaError(f"simulated: {self.fail_capture}", self.fail_capture)
        graph = self._handle()
        self.graphs[graph] = captured
        return graph, len(self.graphs[graph])

    def launch_graph(self, graph: int, *, stream: int) -> None:
        self.launches += 1
        for work in self.graphs[graph]:
            self.enqueue(stream, work)

    def destroy_graph(self, graph: int) -> None:
        del self.graphs[graph]

    @property
    def is_clean(self) -> bool:
        """Everything that was created has been destroyed."""
        return not (self.blocks or self.streams or self.graphs or self.events or self.registered)


def _move(target: int, source: int, size: int) -> None:
    ctypes.memmove(target, source, size)
