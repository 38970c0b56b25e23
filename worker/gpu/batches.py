"""What is to be enqueued for a batch of given shapes and rows, worked out once and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from worker.errors import BatchError
from worker.gpu.cuda_runtime import Handle
from worker.gpu.graphs import RowBuckets
from worker.gpu.layout import choose_profile, most_rows
from worker.gpu.memory import LaneMemory
from worker.gpu.plan import Context, Plan
from worker.tensors import Shape

RowShapes = tuple[Shape, ...]  # one per model input
REMEMBERED = 256  # distinct row shapes a lane keeps prepared


@dataclass(slots=True)
class PreparedBatch:
    """Everything known beforehand about a batch of so many rows of these shapes."""

    rows: int
    run_rows: int  # rows that the engine runs: padded to a captured size or to a profile's least
    shapes: tuple[Shape, ...]  # whole shapes, run_rows each
    context: Context
    to_device: list[tuple[int, int, int]]  # (target, source, bytes)
    to_host: list[tuple[int, int, int]]
    tails: list[NDArray[Any]]  # pinned memory of the padded rows
    outputs: list[NDArray[Any]]  # views of pinned memory, `rows` rows each
    graph: Handle | None = None


@dataclass(slots=True)
class Opening:
    """A way the lane's memory can be laid out, for rows of certain shapes."""

    row_shapes: RowShapes
    row_bytes: list[int]  # per input
    held_rows: int  # rows there is memory for, padding included
    rows: int  # rows a batch may have
    views: list[memoryview]
    batches: dict[int, PreparedBatch] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CapturedBatch:
    graph: Handle
    context: Context  # lives as long as the graph, which points into it


class BatchBook:
    """The openings and prepared batches of one lane."""

    def __init__(
        self, plan: Plan, memory: LaneMemory, contexts: Sequence[Context], *, max_rows: int, max_bytes: int
    ) -> None:
        """Args:
        plan: what is run.
        memory: the lane's.
        contexts: one per profile of the plan.
        max_rows: most rows of a batch.
        max_bytes: most input bytes of a batch.
        """
        self.captured: dict[tuple[RowShapes, int], CapturedBatch] = {}
        self._buckets: Mapping[RowShapes, RowBuckets] = {}
        self._plan = plan
        self._memory = memory
        self._contexts = contexts
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._openings: dict[RowShapes, Opening] = {}

    @property
    def input_offsets(self) -> list[int]:
        """Where each input starts in the host block, whatever its shape."""
        return [region.offset for region in self._memory.layout.inputs]

    def opening(self, row_shapes: RowShapes) -> Opening:
        """Raises:
        BatchError: no profile takes such rows, or one of them is larger than a batch may be.
        """
        opening = self._openings.get(row_shapes)
        if opening is None:
            if len(self._openings) >= REMEMBERED:
                self._openings.clear()
            opening = self._openings[row_shapes] = self._lay_out(row_shapes)
        return opening

    def batch(self, opening: Opening, rows: int) -> PreparedBatch:
        """The batch as it runs in service: as a graph where there is one and it is the quicker way.

        Raises:
            BatchError: the plan does not take so many rows.
        """
        batch = opening.batches.get(rows)
        if batch is None:
            buckets = self._buckets.get(opening.row_shapes)
            size = buckets.bucket(rows) if buckets is not None else None
            if size is None or (opening.row_shapes, size) not in self.captured:
                batch = self.plain(opening, rows)
            else:
                batch = self.padded(opening, rows, size)
            opening.batches[rows] = batch
        return batch

    def plain(self, opening: Opening, rows: int, context: Context | None = None) -> PreparedBatch:
        """The batch without a graph; on the given context or on that of its profile."""
        if not 1 <= rows <= opening.held_rows:
            raise BatchError(f"{rows} rows were launched; the lane was opened for {opening.rows}")
        profile, run_rows = choose_profile(self._plan.profiles, opening.row_shapes, rows)
        return self._prepare(opening, rows, run_rows, context or self._contexts[profile.index])

    def padded(self, opening: Opening, rows: int, size: int) -> PreparedBatch:
        """The batch as the graph that was captured for `size` rows."""
        profile, _ = choose_profile(self._plan.profiles, opening.row_shapes, size)
        batch = self._prepare(opening, rows, size, self._contexts[profile.index])
        batch.graph = self.captured[opening.row_shapes, size].graph
        return batch

    def on_host(self, address: int) -> BatchBook:
        """The same batches, contexts and graphs over another host block; the graphs must hold no copies."""
        memory = self._memory.on_host(address)
        book = BatchBook(self._plan, memory, self._contexts, max_rows=self._max_rows, max_bytes=self._max_bytes)
        book.captured = self.captured
        book.use_buckets(self._buckets)
        return book

    def use_buckets(self, buckets: Mapping[RowShapes, RowBuckets]) -> None:
        """Decide anew which batches run as which graph."""
        self._buckets = buckets
        for opening in self._openings.values():
            opening.batches.clear()

    def clear(self) -> None:
        """Let go of all contexts and of every view of the lane's memory."""
        self._openings.clear()
        self._contexts = ()

    def _lay_out(self, row_shapes: RowShapes) -> Opening:
        most = min(self._max_rows, most_rows(self._plan.profiles, row_shapes))
        inputs = self._plan.model.inputs
        row_bytes = [spec.row_bytes(shape) for spec, shape in zip(inputs, row_shapes, strict=True)]
        regions = self._memory.layout.inputs
        held = min(region.size // size for region, size in zip(regions, row_bytes, strict=True))
        rows = min(most, held, self._max_bytes // sum(row_bytes))
        if rows < 1:
            raise BatchError(
                f"one row takes {sum(row_bytes)} bytes, a batch may have {self._max_bytes} (batching.max_bytes)"
            )
        views = [self._memory.input_bytes(place, 0, rows * size).data for place, size in enumerate(row_bytes)]
        return Opening(row_shapes, row_bytes, held, rows, views)

    def _prepare(self, opening: Opening, rows: int, run_rows: int, context: Context) -> PreparedBatch:
        memory, specs = self._memory, self._plan.model.outputs
        if run_rows > opening.held_rows:
            raise BatchError(f"{rows} rows run as {run_rows}, the lane has memory for {opening.held_rows}")
        shapes = tuple((run_rows, *row_shape) for row_shape in opening.row_shapes)
        outputs = [(rows, *shape[1:]) for shape in context.set_shapes(shapes)]
        for region, spec, shape in zip(memory.layout.outputs, specs, outputs, strict=True):
            if (needed := spec.row_bytes((run_rows, *shape[1:]))) > region.size:
                raise BatchError(f"output {spec.name!r} takes {needed} bytes, the lane has {region.size} for it")
        sizes = list(enumerate(opening.row_bytes))
        return PreparedBatch(
            rows=rows,
            run_rows=run_rows,
            shapes=shapes,
            context=context,
            to_device=[memory.to_device(place, run_rows * size) for place, size in sizes],
            to_host=[memory.to_host(place, specs[place].row_bytes(shape)) for place, shape in enumerate(outputs)],
            tails=[memory.input_bytes(place, rows * size, run_rows * size) for place, size in sizes if run_rows > rows],
            outputs=[memory.output(place, shape) for place, shape in enumerate(outputs)],
        )
