"""The bound that lanes are measured against: the same plan on static pinned inputs, with nothing else to do."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np

from worker.gpu.batches import RowShapes
from worker.gpu.cuda_runtime import Cuda, Handle
from worker.gpu.device import Device
from worker.gpu.graphs import NotCapturable, capture
from worker.gpu.layout import Profile, choose_profile, make_layout
from worker.gpu.memory import LaneMemory, lane_memory
from worker.gpu.plan import Context, Plan
from worker.gpu.seeded import seeded_rows

WARM_UP_BATCHES = 20


@dataclass(slots=True)
class _Seat:
    """One stream with everything a batch needs."""

    stream: Handle
    context: Context
    to_device: list[tuple[int, int, int]]
    to_host: list[tuple[int, int, int]]
    graph: Handle | None = None


class IdealLoop:
    """Batches of one size round and round on k streams. Made by ideal_loop()."""

    def __init__(self, cuda: Cuda, seats: Sequence[_Seat]) -> None:
        self._cuda = cuda
        self._seats = seats

    @property
    def has_graphs(self) -> bool:
        return all(seat.graph is not None for seat in self._seats)

    def run(self, seconds: float, *, streams: int, with_graphs: bool) -> tuple[int, float]:
        """(batches, seconds they took): each stream is waited for, then gets its next batch."""
        cuda, seats = self._cuda, self._seats[:streams]
        for number in range(WARM_UP_BATCHES):
            self._enqueue(seats[number % streams], with_graphs)
        for seat in seats:
            cuda.synchronize(seat.stream)
        batches = 0
        started_s = time.perf_counter()
        until_s = started_s + seconds
        while time.perf_counter() < until_s:
            for seat in seats:
                cuda.synchronize(seat.stream)
                self._enqueue(seat, with_graphs)
            batches += streams
        for seat in seats:
            cuda.synchronize(seat.stream)
        return batches, time.perf_counter() - started_s

    def _enqueue(self, seat: _Seat, with_graphs: bool) -> None:
        if with_graphs:
            self._cuda.launch_graph(seat.graph, stream=seat.stream)
        else:
            _enqueue(self._cuda, seat)


def _enqueue(cuda: Cuda, seat: _Seat) -> None:
    for target, source, size in seat.to_device:
        cuda.copy_to_device(target, source, size, stream=seat.stream)
    seat.context.execute(stream=seat.stream)
    for target, source, size in seat.to_host:
        cuda.copy_to_host(target, source, size, stream=seat.stream)


@contextmanager
def ideal_loop(
    cuda: Cuda, device: Device, plan: Plan, row_shapes: RowShapes, rows: int, streams: int
) -> Iterator[IdealLoop]:
    """Set up `streams` seats for batches of exactly `rows` rows; frees them on exit.

    Raises:
        BatchError: the plan does not take such batches.
        GpuError: out of memory.
    """
    cuda.set_device(device.ordinal)
    profile, run_rows = choose_profile(plan.profiles, row_shapes, rows)
    with ExitStack() as stack:
        seats = [_make_seat(cuda, stack, plan, profile, row_shapes, run_rows) for _ in range(streams)]
        try:
            for seat in seats:
                nodes = len(seat.to_device) + 1 + len(seat.to_host)
                seat.graph = capture(cuda, partial(_enqueue, cuda, seat), at_least_nodes=nodes, stream=seat.stream)
                stack.callback(cuda.destroy_graph, seat.graph)
        except NotCapturable:
            pass  # then the bound is the best plain run
        yield IdealLoop(cuda, seats)
        for seat in seats:
            cuda.synchronize(seat.stream)


def _make_seat(cuda: Cuda, stack: ExitStack, plan: Plan, profile: Profile, row_shapes: RowShapes, rows: int) -> _Seat:
    shapes = tuple((rows, *row_shape) for row_shape in row_shapes)
    stream = cuda.create_stream()
    stack.callback(cuda.destroy_stream, stream)
    outputs = plan.context(profile, {}, None, stream=stream).set_shapes(shapes)
    input_sizes = [spec.row_bytes(shape) for spec, shape in zip(plan.model.inputs, shapes, strict=True)]
    output_sizes = [spec.row_bytes(shape) for spec, shape in zip(plan.model.outputs, outputs, strict=True)]
    memory = stack.enter_context(lane_memory(cuda, plan.model, make_layout(input_sizes, output_sizes)))
    _fill(memory, plan, row_shapes, rows)
    activation = cuda.allocate_device(max(plan.activation_bytes, 256))
    stack.callback(cuda.free_device, activation)
    seat = _Seat(
        stream,
        plan.context(profile, memory.addresses(), activation, stream=stream),
        [memory.to_device(place, size) for place, size in enumerate(input_sizes)],
        [memory.to_host(place, size) for place, size in enumerate(output_sizes)],
    )
    seat.context.set_shapes(shapes)
    _enqueue(cuda, seat)
    cuda.synchronize(stream)
    return seat


def _fill(memory: LaneMemory, plan: Plan, row_shapes: RowShapes, rows: int) -> None:
    for place, array in enumerate(seeded_rows(plan.model, row_shapes, rows, seed=1)):
        data = np.frombuffer(array.tobytes(), np.uint8)
        memory.input_bytes(place, 0, len(data))[:] = data
