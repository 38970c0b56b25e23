"""A lane: one stream with its contexts, memory and graphs; one batch at a time sits in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.errors import BatchError, GpuError
from worker.gpu.batches import BatchBook, CapturedBatch, Opening, PreparedBatch, RowShapes
from worker.gpu.cuda_runtime import Cuda, CudaError, Handle
from worker.gpu.graphs import RowBuckets, capture
from worker.gpu.stages import StageClock
from worker.tensors import Shape

EVERYWHERE = range(1 << 64)  # all addresses


class TensorRtLane:
    """protocols.Lane on a GPU; made by loading.open_tensorrt_backend()."""

    def __init__(
        self,
        cuda: Cuda,
        device: int,
        book: BatchBook,
        clock: StageClock,
        *,
        stream: Handle,
        copies_in_graphs: bool = True,
    ) -> None:
        """Args:
        cuda: the CUDA runtime.
        device: ordinal that is made current before anything is enqueued.
        book: what to enqueue for a batch; holds this lane's memory and contexts.
        clock: times a batch now and then.
        stream: of this lane alone.
        copies_in_graphs: False: a graph only computes, so that sit() may change where the copies come from.
        """
        self._cuda = cuda
        self._device = device
        self._book = self._own_book = book
        self._seats: dict[int, BatchBook] = {}  # address of the host memory -> the book over it
        self._seat: int | None = None  # address of the seat taken; None: the lane's own memory
        self._copies_in_graphs = copies_in_graphs
        self._clock = clock
        self._stream = stream
        self._opening: Opening | None = None
        self._last: Opening | None = None
        self._last_shapes: Sequence[Shape] = ()
        self._batch: PreparedBatch | None = None
        self._failure: BatchError | None = None
        self.is_running = False
        self.launched: Callable[[TensorRtLane], None] = lambda _lane: None  # the backend puts its own here
        self.give_back: Callable[[TensorRtLane], None] = lambda _lane: None  # and here

    @property
    def padded_rows(self) -> int:
        return 0 if self._batch is None else self._batch.run_rows - self._batch.rows

    @property
    def stage_seconds(self) -> Mapping[str, float]:
        return self._clock.seconds

    def sit(self, memory: NDArray[np.uint8]) -> None:
        """Have the next batches in this host memory, which is pinned and as large as the backend's seat_bytes."""
        address: int = memory.__array_interface__["data"][0]
        book = self._seats.get(address)
        if book is None:
            book = self._seats[address] = self._own_book.on_host(address)
        self._book, self._seat, self._last = book, address, None

    def stand_up(self, addresses: range = EVERYWHERE) -> None:
        """Forget the seats there; a lane that sits on one waits for what it runs, and has its own memory again."""
        if self._seat is not None and self._seat in addresses:
            if self.is_running:
                with suppress(GpuError):  # a lost context runs nothing any more
                    self._cuda.synchronize(self._stream)
            self._opening = self._last = self._batch = None
            self._book, self._seat = self._own_book, None
        for address in [seat for seat in self._seats if seat in addresses]:
            self._seats.pop(address).clear()

    def open(self, row_shapes: Sequence[Shape]) -> tuple[int, list[memoryview]]:
        opening = self._last
        if opening is None or self._last_shapes is not row_shapes:  # the same object again, most of the time
            self._last = opening = self._book.opening(tuple(row_shapes))
            self._last_shapes = row_shapes
        self._opening = opening
        return opening.rows, opening.views

    def launch(self, rows: int) -> None:
        self._failure = None
        self._batch = None
        self.is_running = True
        try:
            self._cuda.set_device(self._device)
            opening = self._opened()
            self._batch = batch = opening.batches.get(rows) or self._book.batch(opening, rows)
            for tail in batch.tails:
                tail[:] = 0
            if self._clock.is_due(time.monotonic()):
                # Plain, also where there is a graph (they give the same): a graph's stages cannot be told apart.
                self._enqueue(batch, self._clock.mark)
            elif batch.graph is not None:
                self._replay(batch, batch.graph)
            else:
                self._enqueue(batch)
        except BatchError as error:
            self._failure = error
        except CudaError as error:
            self._failure = self._survived(error)
        self.launched(self)

    def is_done(self) -> bool:
        """Whether the launched batch has ended, well or not.

        The stream carries one batch at a time, so it is idle exactly when the batch's last copy has completed.

        Raises:
            GpuError: the context is lost.
        """
        try:
            if not self._cuda.is_idle(self._stream):
                return False
            if self._clock.is_marked:
                self._clock.read()
        except CudaError as error:
            self._failure = self._survived(error)
        self.is_running = False
        return True

    def wait(self) -> None:
        """Block until the launched batch has ended.

        Raises:
            GpuError: the context is lost.
        """
        try:
            self._cuda.synchronize(self._stream)
        except CudaError as error:
            self._failure = self._survived(error)
        self.is_running = False

    def outputs(self) -> list[NDArray[Any]]:
        if self._failure is not None:
            raise self._failure
        if self._batch is None:
            raise BatchError("nothing was launched on this lane")
        return self._batch.outputs

    def release(self) -> None:
        if self.is_running:
            self.wait()
        self._opening = None
        self.give_back(self)

    def try_out(self, rows: int, *, graph_rows: int | None = None) -> list[NDArray[Any]]:
        """Run the rows that were written after open() now.

        Args:
            rows: how many were written.
            graph_rows: run them as the graph that was captured for so many; None: plain.

        Returns:
            Copies of the outputs.

        Raises:
            BatchError: this batch failed.
            GpuError: the context is lost.
        """
        self._cuda.set_device(self._device)
        opening = self._opened()
        book = self._book
        batch = book.plain(opening, rows) if graph_rows is None else book.padded(opening, rows, graph_rows)
        for tail in batch.tails:
            tail[:] = 0
        if batch.graph is not None:
            self._replay(batch, batch.graph)
        else:
            self._enqueue(batch)
        self._cuda.synchronize(self._stream)
        return [output.copy() for output in batch.outputs]

    def capture(self, row_shapes: RowShapes, rows: int, new_context: Callable[[], Any]) -> None:
        """Make a graph of the batch of exactly this many rows.

        Args:
            row_shapes: known up front.
            rows: what the graph runs, not below the least of the profile it runs on.
            new_context: makes a context for the graph alone, on that profile.

        Raises:
            NotCapturable: it runs plain only.
            BatchError: the plan does not take it.
        """
        self._cuda.set_device(self._device)
        opening = self._book.opening(row_shapes)
        context = new_context()
        batch = self._book.plain(opening, rows, context)
        self._enqueue(batch)  # once without capture, so that TensorRT has set itself up
        self._cuda.synchronize(self._stream)
        copies = len(batch.to_device) + len(batch.to_host) if self._copies_in_graphs else 0
        enqueue = self._enqueue if self._copies_in_graphs else self._compute
        graph = capture(self._cuda, lambda: enqueue(batch), at_least_nodes=1 + copies, stream=self._stream)
        self._book.captured[row_shapes, rows] = CapturedBatch(graph, context)

    def use_buckets(self, buckets: Mapping[RowShapes, RowBuckets]) -> None:
        """Which batches run as which graph; nothing runs as a graph before this."""
        self._book.use_buckets(buckets)

    def close(self) -> None:
        """Wait for what is running, then free graphs and contexts; stream and memory are the maker's."""
        with suppress(GpuError):  # a lost context has no device to choose
            self._cuda.set_device(self._device)
        self.drop_graphs()
        self.stand_up()
        self._opening = self._last = self._batch = None
        self._book.clear()

    def lay_out(self, row_shapes: Sequence[Shape]) -> tuple[int, list[int]]:
        """Most rows of a batch of such rows, and where each input starts in host memory; open() need not be called.

        Raises:
            BatchError: no profile takes such rows.
        """
        return self._own_book.opening(tuple(row_shapes)).rows, self._own_book.input_offsets

    def drop_graphs(self) -> None:
        """Wait for what is running and free all graphs; batches run plain from now on."""
        with suppress(GpuError):  # a lost context runs nothing any more
            self._cuda.synchronize(self._stream)
        self._book.use_buckets({})
        while self._book.captured:
            _, captured = self._book.captured.popitem()
            self._cuda.destroy_graph(captured.graph)

    def _opened(self) -> Opening:
        if self._opening is None:
            raise BatchError("the lane is not open")
        return self._opening

    def _enqueue(self, batch: PreparedBatch, mark: Callable[..., None] | None = None) -> None:
        """Put one batch on the stream; `mark` is called at the borders of its stages."""
        stream = self._stream
        batch.context.set_shapes(batch.shapes)
        if mark:
            mark(0, stream=stream)
        self._copy_in(batch)
        if mark:
            mark(1, stream=stream)
        batch.context.execute(stream=stream)
        if mark:
            mark(2, stream=stream)
        self._copy_out(batch)
        if mark:
            mark(3, stream=stream)

    def _replay(self, batch: PreparedBatch, graph: Handle) -> None:
        """The same with the batch's graph."""
        if self._copies_in_graphs:
            self._cuda.launch_graph(graph, stream=self._stream)
            return
        self._copy_in(batch)
        self._cuda.launch_graph(graph, stream=self._stream)
        self._copy_out(batch)

    def _compute(self, batch: PreparedBatch) -> None:
        batch.context.set_shapes(batch.shapes)
        batch.context.execute(stream=self._stream)

    def _copy_in(self, batch: PreparedBatch) -> None:
        for target, source, size in batch.to_device:
            self._cuda.copy_to_device(target, source, size, stream=self._stream)

    def _copy_out(self, batch: PreparedBatch) -> None:
        for target, source, size in batch.to_host:
            self._cuda.copy_to_host(target, source, size, stream=self._stream)

    def _survived(self, error: CudaError) -> BatchError:
        """The error as one of this batch alone.

        Raises:
            GpuError: it has poisoned the context.
        """
        if self._cuda.is_usable():
            return BatchError(str(error))
        raise GpuError(f"the CUDA context is lost: {error}; the process must be restarted") from error
