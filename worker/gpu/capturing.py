"""Graphs for all lanes at start-up: which sizes, captured, proved equal to plain runs, and when they pay."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Literal

from worker.errors import BatchError, EngineError
from worker.gpu.batches import RowShapes
from worker.gpu.cuda_runtime import CudaError
from worker.gpu.graphs import NotCapturable, RowBuckets, auto_rows
from worker.gpu.lane import TensorRtLane
from worker.gpu.layout import Profile, choose_profile
from worker.gpu.plan import Context
from worker.gpu.self_test import GraphDiffers, SelfTest
from worker.gpu.shortage import is_out_of_memory
from worker.tensors import ModelSpec

log = logging.getLogger(__name__)

NewContext = Callable[[Profile], Context]
GraphRows = Literal["auto", "off"] | Sequence[int]
Buckets = Mapping[str, tuple[int, Sequence[int]]]  # input -> (axis of the whole tensor, ascending lengths)

MOST_GRAPHS = 32  # of one lane; each has a context and some memory of its own
TIMED_RUNS = 5


def known_row_shapes(model: ModelSpec, buckets: Buckets) -> list[RowShapes]:
    """The row shapes that batches can have, as far as they are known before the first request.

    One for a model of fixed rows; one per bucket where every free axis is padded to buckets; else none.
    """
    counts = {len(lengths) for _, lengths in buckets.values()}
    if len(counts) > 1:
        return []
    shapes: list[RowShapes] = []
    for place in range(counts.pop() if counts else 1):
        rows = []
        for spec in model.inputs:
            axis, lengths = buckets.get(spec.name, (-1, ()))
            rows.append(tuple(lengths[place] if axis == at else length for at, length in enumerate(spec.shape))[1:])
        shapes.append(tuple(rows))
    return [row_shapes for row_shapes in shapes if all(length >= 0 for shape in row_shapes for length in shape)]


def sizes_to_capture(
    rows: GraphRows, profiles: Sequence[Profile], row_shapes: RowShapes, max_rows: int
) -> list[tuple[int, Profile]]:
    """Ascending (rows, profile) to make graphs of, for rows of these shapes."""
    wanted = auto_rows(max_rows) if rows == "auto" else [] if rows == "off" else list(rows)
    sizes: dict[int, Profile] = {}
    for size in wanted:
        if size <= max_rows:
            profile, run_rows = choose_profile(profiles, row_shapes, size)
            sizes[run_rows] = profile
    return sorted(sizes.items(), key=lambda item: item[0])


def use_graphs(
    lanes: Sequence[TensorRtLane],
    sizes: Mapping[RowShapes, Sequence[tuple[int, Profile]]],
    tests: Mapping[RowShapes, SelfTest],
    new_context: Sequence[NewContext],
    *,
    is_auto: bool,
) -> str:
    """Capture, prove and put to use; returns what came of it, in words.

    Args:
        lanes: all lanes.
        sizes: per row shapes: ascending sizes and the profile each runs on.
        tests: per row shapes: the proof.
        new_context: per lane: makes a context on a profile.
        is_auto: run plain where graphs cannot be had, and pad only where that is quicker.

    Raises:
        EngineError: graphs were asked for by size and cannot be had, or a graph gives wrong answers.
        CudaError, BatchError, NotCapturable: no memory for graphs that were asked for by size.
    """
    count = sum(len(pairs) for pairs in sizes.values())
    if count == 0:
        why = (
            "the listed rows are more than a batch has (batching.max_rows, batching.max_bytes)"
            if sizes
            else "no batch shape is known before the first request (set batching.pad)"
        )
        if not is_auto:
            raise graphs_refused(why)
        return f"off: {why}"
    if count > MOST_GRAPHS and is_auto:
        return f"off: {count} graphs a lane are more than {MOST_GRAPHS}; list the rows in engine.cuda_graphs"
    started_s = time.monotonic()
    try:
        for lane, make in zip(lanes, new_context, strict=True):
            for row_shapes, pairs in sizes.items():
                for rows, profile in pairs:
                    lane.capture(row_shapes, rows, partial(make, profile))
                    tests[row_shapes].check_graph(lane, rows)
        buckets = {
            row_shapes: _buckets(lanes[0], row_shapes, [rows for rows, _ in pairs], is_auto)
            for row_shapes, pairs in sizes.items()
        }
    except (NotCapturable, BatchError, CudaError, EngineError) as error:
        is_short = is_out_of_memory(error)
        if not is_short and not isinstance(error, (NotCapturable, GraphDiffers)):
            raise
        for lane in lanes:
            lane.drop_graphs()
        if not is_auto:
            if is_short:
                raise
            raise graphs_refused(str(error)) from error
        log.warning("CUDA graphs are off: %s", error)
        return f"off: {error}"
    for lane in lanes:
        lane.use_buckets(buckets)
    log.info("captured %d CUDA graphs a lane in %.1f s", count, time.monotonic() - started_s)
    return f"{count} a lane"


def graphs_refused(reason: str) -> EngineError:
    """For graphs that were asked for by size."""
    return EngineError(f"engine.cuda_graphs asks for graphs, but {reason}; set engine.cuda_graphs: off")


def _buckets(lane: TensorRtLane, row_shapes: RowShapes, sizes: Sequence[int], is_auto: bool) -> RowBuckets:
    """Where nobody asked for certain sizes, measure when padding to one is quicker than running plain."""
    if not is_auto:
        return RowBuckets(tuple(sizes))
    held, _ = lane.open(row_shapes)
    plain_s = {size: _seconds(lane, min(size, held)) for size in sizes}
    graph_s = {size: _seconds(lane, min(size, held), graph_rows=size) for size in sizes}
    return RowBuckets(tuple(sizes), plain_s, graph_s)


def _seconds(lane: TensorRtLane, rows: int, *, graph_rows: int | None = None) -> float:
    """Median time of one batch, alone on the GPU."""
    seconds = []
    for _ in range(TIMED_RUNS):
        started_s = time.perf_counter()
        lane.try_out(rows, graph_rows=graph_rows)
        seconds.append(time.perf_counter() - started_s)
    return median(seconds)
