"""Graphs for all lanes at start-up: which sizes, captured, proved equal to plain runs, and when they pay."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Literal

from worker.errors import EngineError
from worker.gpu.batches import RowShapes
from worker.gpu.graphs import NotCapturable, RowBuckets, auto_rows
from worker.gpu.lane import TensorRtLane
from worker.gpu.layout import Profile, choose_profile
from worker.gpu.plan import Context
from worker.gpu.self_test import GraphDiffers, Trial, check_graph, check_plain
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
    model: ModelSpec,
    sizes: Mapping[RowShapes, Sequence[tuple[int, Profile]]],
    trials: Mapping[RowShapes, Sequence[Trial]],
    new_context: Sequence[NewContext],
    *,
    is_auto: bool,
) -> str:
    """Capture, prove and put to use; returns what came of it, in words.

    Args:
        lanes: all lanes.
        model: what the plan takes and gives.
        sizes: per row shapes: ascending sizes and the profile each runs on.
        trials: per row shapes: payloads for the proof.
        new_context: per lane: makes a context on a profile.
        is_auto: run plain where graphs cannot be had, and pad only where that is quicker.

    Raises:
        EngineError: graphs were asked for by size and cannot be had, or a graph gives wrong answers.
    """
    count = sum(len(pairs) for pairs in sizes.values())
    if count == 0:
        return "off: no batch shape is known before the first request (set batching.pad)"
    if count > MOST_GRAPHS and is_auto:
        return f"off: {count} graphs a lane are more than {MOST_GRAPHS}; list the rows in engine.cuda_graphs"
    started_s = time.monotonic()
    try:
        for lane, make in zip(lanes, new_context, strict=True):
            for row_shapes, pairs in sizes.items():
                for rows, profile in pairs:
                    lane.capture(row_shapes, rows, partial(make, profile))
                    _prove(lane, model, row_shapes, rows, trials[row_shapes])
    except (NotCapturable, GraphDiffers) as error:
        for lane in lanes:
            lane.drop_graphs()
        if not is_auto:
            raise EngineError(
                f"engine.cuda_graphs asks for graphs, but {error}; set engine.cuda_graphs: off"
            ) from error
        log.warning("CUDA graphs are off: %s", error)
        return f"off: {error}"
    buckets = {
        row_shapes: _buckets(lanes[0], row_shapes, [rows for rows, _ in pairs], is_auto)
        for row_shapes, pairs in sizes.items()
    }
    for lane in lanes:
        lane.use_buckets(buckets)
    log.info("captured %d CUDA graphs a lane in %.1f s", count, time.monotonic() - started_s)
    return f"{count} a lane"


def _prove(lane: TensorRtLane, model: ModelSpec, row_shapes: RowShapes, rows: int, trials: Sequence[Trial]) -> None:
    """The graph gives bit for bit what a plain run gives."""
    held, _ = lane.open(row_shapes)
    if rows <= held:
        plain = check_plain(lane, model, row_shapes, rows, [Trial(trial.inputs, None) for trial in trials], None)
        check_graph(lane, row_shapes, rows, trials, plain)


def _buckets(lane: TensorRtLane, row_shapes: RowShapes, sizes: Sequence[int], is_auto: bool) -> RowBuckets:
    """Where nobody asked for certain sizes, measure when padding to one is quicker than running plain."""
    if not is_auto:
        return RowBuckets(tuple(sizes))
    held, _ = lane.open(row_shapes)
    times = [
        {rows: _seconds(lane, rows, with_graph=with_graph) for rows in sizes if rows <= held}
        for with_graph in (False, True)
    ]
    return RowBuckets(tuple(rows for rows in sizes if rows <= held), *times)


def _seconds(lane: TensorRtLane, rows: int, *, with_graph: bool) -> float:
    """Median time of one batch, alone on the GPU."""
    seconds = []
    for _ in range(TIMED_RUNS):
        started_s = time.perf_counter()
        lane.try_out(rows, with_graph=with_graph)
        seconds.append(time.perf_counter() - started_s)
    return median(seconds)
