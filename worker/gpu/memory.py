"""A lane's memory: a pinned block on the host and one of the same layout on the device."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.gpu.cuda_runtime import Cuda
from worker.gpu.layout import Layout
from worker.tensors import ModelSpec, Shape


class LaneMemory:
    """Addresses that never change, so that captured graphs stay true. Made by lane_memory()."""

    def __init__(self, pinned: int, device: int, model: ModelSpec, layout: Layout) -> None:
        self.layout = layout
        self._model = model
        self._pinned = pinned
        self._device = device
        block = (ctypes.c_uint8 * layout.size).from_address(pinned)
        self._bytes: NDArray[np.uint8] = np.ctypeslib.as_array(block)

    def clear(self) -> None:
        """Padding that was never written is zero, not what lay there before."""
        self._bytes[:] = 0

    def on_host(self, address: int) -> LaneMemory:
        """The same device memory with another host block of the same layout, pinned by its owner."""
        return LaneMemory(address, self._device, self._model, self.layout)

    def addresses(self) -> dict[str, int]:
        """Tensor name -> device address."""
        names = [spec.name for spec in (*self._model.inputs, *self._model.outputs)]
        regions = (*self.layout.inputs, *self.layout.outputs)
        return {name: self._device + region.offset for name, region in zip(names, regions, strict=True)}

    def input_bytes(self, place: int, start: int, end: int) -> NDArray[np.uint8]:
        """Bytes [start, end) of an input, in pinned memory, writable."""
        offset = self.layout.inputs[place].offset
        return self._bytes[offset + start : offset + end]

    def output(self, place: int, shape: Shape) -> NDArray[Any]:
        """An output of this shape as an array over pinned memory."""
        spec = self._model.outputs[place]
        offset = self.layout.outputs[place].offset
        size = spec.row_bytes(shape)
        return self._bytes[offset : offset + size].view(spec.dtype).reshape(shape)

    def to_device(self, place: int, size: int) -> tuple[int, int, int]:
        """(target, source, bytes) that bring the first `size` bytes of an input to the device."""
        offset = self.layout.inputs[place].offset
        return self._device + offset, self._pinned + offset, size

    def to_host(self, place: int, size: int) -> tuple[int, int, int]:
        """(target, source, bytes) that bring the first `size` bytes of an output back."""
        offset = self.layout.outputs[place].offset
        return self._pinned + offset, self._device + offset, size


@contextmanager
def lane_memory(cuda: Cuda, model: ModelSpec, layout: Layout) -> Iterator[LaneMemory]:
    """Both blocks; freed on exit, when nothing may use them any more.

    Raises:
        CudaError: out of memory.
    """
    pinned = cuda.allocate_pinned(layout.size)
    try:
        device = cuda.allocate_device(layout.size)
        try:
            memory = LaneMemory(pinned, device, model, layout)
            memory.clear()
            yield memory
        finally:
            cuda.free_device(device)
    finally:
        cuda.free_pinned(pinned)
