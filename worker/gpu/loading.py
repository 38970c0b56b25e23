"""A plan file -> a backend that is ready: plan, lanes, self-test, graphs; freed in reverse order."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from worker.errors import BatchError, EngineError
from worker.gpu.backend import TensorRtBackend
from worker.gpu.batches import BatchBook, RowShapes
from worker.gpu.capturing import (
    Buckets,
    GraphRows,
    NewContext,
    graphs_refused,
    known_row_shapes,
    sizes_to_capture,
    use_graphs,
)
from worker.gpu.cuda_runtime import Cuda, CudaError, load_cuda
from worker.gpu.device import Device
from worker.gpu.flavour import TensorRt
from worker.gpu.graphs import NotCapturable
from worker.gpu.lane import TensorRtLane
from worker.gpu.layout import Layout, Profile, input_bytes, make_layout
from worker.gpu.memory import lane_memory
from worker.gpu.plan import Plan
from worker.gpu.self_test import Reference, SelfTest, make_self_test
from worker.gpu.shortage import MIB, LaneDemand, is_out_of_memory, no_room_for_plan
from worker.gpu.stages import stage_clock
from worker.tensors import ModelSpec

log = logging.getLogger(__name__)


@contextmanager
def open_tensorrt_backend(
    trt: TensorRt,
    device: Device,
    plan_path: Path,
    sha256: str,
    model: ModelSpec,
    *,
    lanes: int,
    cuda_graphs: GraphRows,
    max_rows: int,
    max_bytes: int,
    buckets: Buckets | None = None,
    reference: Reference | None = None,
    tolerance: float | None = None,
    allow_host_code: bool = False,
    copies_in_graphs: bool = True,
    fit: str = "exact",
    reason: str = "",
    cuda: Cuda | None = None,
) -> Iterator[TensorRtBackend]:
    """Load a plan, prove it, and serve it; everything is freed on exit.

    Args:
        trt: from load_tensorrt().
        device: from find_device(); made current for the calling thread, which must be the one that runs the lanes.
        plan_path: the plan.
        sha256: of the plan, as its manifest says.
        model: inputs and outputs, as its manifest says.
        lanes: batches that can be on the GPU at once.
        cuda_graphs: "auto", "off", or the row counts to capture.
        max_rows: most rows of a batch (batching.max_rows).
        max_bytes: most input bytes of a batch (batching.max_bytes).
        buckets: per padded input: axis and lengths (batching.pad); what graphs of free axes are captured for.
        reference: the same model on something else, for the self-test.
        tolerance: how far off the reference the plan may be, in shares of an output's largest value; None: by datatype.
        allow_host_code: engine.allow_host_code.
        copies_in_graphs: False: lanes may sit on memory of others; then graphs only compute.
        fit: how well this plan fits the GPU; for the labels.
        reason: why this plan was chosen; for the labels.
        cuda: the CUDA runtime; None: the process's.

    Raises:
        EngineError: the plan cannot be loaded, or fails the self-test.
        GpuError: out of memory (the message says how much a lane takes and how many would fit), or the GPU failed.
    """
    started_s = time.monotonic()
    cuda = cuda or load_cuda()
    with ExitStack() as stack:
        cuda.set_device(device.ordinal)
        free_bytes, _ = cuda.memory_info()
        try:
            plan = Plan(trt, plan_path, sha256, model, allow_host_code=allow_host_code)
            stack.callback(plan.close)
            layout = _layout(cuda, plan, max_rows, max_bytes)
        except (CudaError, EngineError) as error:
            if not is_out_of_memory(error):
                raise
            raise no_room_for_plan(device, plan_path.stat().st_size, free_bytes, error) from error
        lane_bytes = layout.size + plan.activation_bytes
        demand = LaneDemand(device, lanes, layout.size, lane_bytes, cuda.memory_info()[0])
        if demand.is_too_much:
            raise demand.refusal()
        seats: list[TensorRtLane] = []
        new_context: list[NewContext] = []
        try:
            tests = _self_tests(plan, buckets or {}, reference, tolerance)
            for _ in range(lanes):
                lane, make = stack.enter_context(
                    _lane(cuda, device, plan, layout, max_rows, max_bytes, copies_in_graphs=copies_in_graphs)
                )
                _test(lane, plan, tests)
                seats.append(lane)
                new_context.append(make)
            known = known_row_shapes(plan.model, buckets or {})
            graphs = _use_graphs(plan, seats, new_context, {shapes: tests[shapes] for shapes in known}, cuda_graphs)
        except (CudaError, EngineError, BatchError, NotCapturable) as error:
            if is_out_of_memory(error):
                raise demand.failure(len(seats), error) from error
            if isinstance(error, BatchError):
                raise EngineError(f"the self-test of {plan_path} cannot run: {error}") from error
            raise
        load_seconds = time.monotonic() - started_s
        labels = {
            "gpu": device.name,
            "compute_capability": device.compute_capability,
            "tensorrt": f"{trt.flavour} {trt.version}",
            "plan": model.tag,
            "fit": fit,
            "reason": reason,
            "device": device.uuid,
            "cuda_graphs": graphs,
        }
        log.info(
            "%s is ready on %s in %.1f s: %d lanes of %.0f MiB, CUDA graphs %s",
            model.name, device, load_seconds, lanes, lane_bytes / MIB, graphs,
        )  # fmt: skip
        backend = TensorRtBackend(
            model, seats, labels, load_seconds, stack.pop_all().close, cuda=cuda, seat_bytes=layout.size
        )
    try:
        yield backend
    finally:
        backend.close()


def _layout(cuda: Cuda, plan: Plan, max_rows: int, max_bytes: int) -> Layout:
    stream = cuda.create_stream()
    try:
        outputs = plan.output_bytes(max_rows, stream=stream)
        cuda.synchronize(stream)
    finally:
        cuda.destroy_stream(stream)
    return make_layout(input_bytes(plan.model, plan.profiles, max_rows, max_bytes), outputs)


@contextmanager
def _lane(
    cuda: Cuda,
    device: Device,
    plan: Plan,
    layout: Layout,
    max_rows: int,
    max_bytes: int,
    *,
    copies_in_graphs: bool = True,
) -> Iterator[tuple[TensorRtLane, NewContext]]:
    """One lane and what makes further contexts on its memory; frees both."""
    with ExitStack() as stack:
        memory = stack.enter_context(lane_memory(cuda, plan.model, layout))
        activation = cuda.allocate_device(max(plan.activation_bytes, 256))
        stack.callback(cuda.free_device, activation)
        stream = cuda.create_stream()
        stack.callback(cuda.destroy_stream, stream)
        clock = stack.enter_context(stage_clock(cuda))
        make = partial(plan.context, addresses=memory.addresses(), activation=activation, stream=stream)
        contexts = [make(profile) for profile in plan.profiles]
        cuda.synchronize(stream)
        book = BatchBook(plan, memory, contexts, max_rows=max_rows, max_bytes=max_bytes)
        lane = TensorRtLane(cuda, device.ordinal, book, clock, stream=stream, copies_in_graphs=copies_in_graphs)
        stack.callback(lane.close)
        del contexts
        yield lane, make


def _self_tests(
    plan: Plan, buckets: Buckets, reference: Reference | None, tolerance: float | None
) -> dict[RowShapes, SelfTest]:
    """One for each shape of rows that is known beforehand, and for the best of each profile."""
    shapes = [*known_row_shapes(plan.model, buckets), *(_best_rows(profile) for profile in plan.profiles)]
    return {each: make_self_test(plan.model, each, reference, tolerance) for each in dict.fromkeys(shapes)}


def _test(lane: TensorRtLane, plan: Plan, tests: Mapping[RowShapes, SelfTest]) -> None:
    """Every context of the lane, at the ends of its profile and full."""
    for row_shapes, test in tests.items():
        held, _ = lane.open(row_shapes)
        sizes = {size for profile in plan.profiles for size in (profile.least_rows, profile.best_rows, held)}
        for rows in sorted({min(size, held) for size in sizes}):
            test.check_plain(lane, rows)


def _use_graphs(
    plan: Plan,
    lanes: Sequence[TensorRtLane],
    new_context: Sequence[NewContext],
    tests: Mapping[RowShapes, SelfTest],
    cuda_graphs: GraphRows,
) -> str:
    """Graphs for the shapes that are known beforehand; returns what came of it."""
    if cuda_graphs == "off":
        return "off"
    is_auto = cuda_graphs == "auto"
    if plan.uncapturable:
        if not is_auto:
            raise graphs_refused(plan.uncapturable)
        log.warning("CUDA graphs are off: %s", plan.uncapturable)
        return f"off: {plan.uncapturable}"
    sizes: Mapping[RowShapes, list[tuple[int, Profile]]] = {
        shapes: sizes_to_capture(cuda_graphs, plan.profiles, shapes, lanes[0].open(shapes)[0]) for shapes in tests
    }
    return use_graphs(lanes, sizes, tests, new_context, is_auto=is_auto)


def _best_rows(profile: Profile) -> RowShapes:
    return tuple(best[1:] for _, best, _ in profile.shapes)
