"""CUDA graphs: one captured batch each, replayed with a single call."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf

from worker.errors import BatchError, GpuError, WorkerError
from worker.gpu.cuda_runtime import Cuda, CudaError, Handle


class NotCapturable(WorkerError):
    """This plan's batches cannot be captured; they run plain."""


def capture(cuda: Cuda, enqueue: Callable[[], None], *, at_least_nodes: int, stream: Handle) -> Handle:
    """Capture what `enqueue` puts on the stream; the caller destroys the graph.

    The same shapes and addresses must have run once without capture, or TensorRT would set itself up inside it.

    Raises:
        NotCapturable: something in it cannot be captured, or the graph came out without its work.
        GpuError: the context is lost.
    """
    try:
        cuda.begin_capture(stream=stream)
        try:
            enqueue()
        except BaseException:
            with suppress(CudaError):  # a capture that something broke ends with an error of its own
                graph, _ = cuda.end_capture(stream=stream)
                cuda.destroy_graph(graph)
            raise
        graph, nodes = cuda.end_capture(stream=stream)
    except (CudaError, BatchError) as error:
        if not cuda.is_usable():
            raise GpuError(f"capturing a CUDA graph broke the context: {error}") from error
        raise NotCapturable(str(error)) from error
    if nodes < at_least_nodes:  # what capturing with the wrong device current gives, without an error
        cuda.destroy_graph(graph)
        raise NotCapturable(f"the captured graph has {nodes} nodes, {at_least_nodes} at least were enqueued")
    return graph


def auto_rows(max_rows: int) -> list[int]:
    """Powers of two up to max_rows, and max_rows itself."""
    rows = [1 << power for power in range(max_rows.bit_length()) if 1 << power <= max_rows]
    return rows if rows[-1] == max_rows else [*rows, max_rows]


@dataclass(frozen=True, slots=True)
class RowBuckets:
    """Which captured size a batch is padded to, if that is quicker than running it as it is."""

    sizes: Sequence[int]  # ascending
    plain_s: Mapping[int, float] = field(default_factory=dict)  # measured seconds of each size; empty: always pad
    graph_s: Mapping[int, float] = field(default_factory=dict)

    def bucket(self, rows: int) -> int | None:
        """The captured size to run this many rows as; None: run them plain."""
        place = bisect_left(self.sizes, rows)
        if place == len(self.sizes):
            return None
        bucket = self.sizes[place]
        if bucket == rows or bucket not in self.graph_s:
            return bucket
        return bucket if self.graph_s[bucket] <= self._plain_estimate_s(place, rows) else None

    def _plain_estimate_s(self, place: int, rows: int) -> float:
        """Seconds of a plain run, between the measured sizes on either side."""
        upper = self.sizes[place]
        if place == 0:
            return self.plain_s.get(upper, inf)
        lower = self.sizes[place - 1]
        share = (rows - lower) / (upper - lower)
        return self.plain_s[lower] + share * (self.plain_s[upper] - self.plain_s[lower])
