"""A batch that is being filled: requests copied row by row into the lane's host memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from worker.batching.padding import Cut, Placement
from worker.records import Request
from worker.tensors import ModelSpec, Shape


class FillableLane(Protocol):
    """The part of a lane that batching uses; protocols.Lane says what the methods promise."""

    def open(self, row_shapes: Sequence[Shape]) -> tuple[int, list[memoryview]]: ...

    def release(self) -> None: ...


LaneT = TypeVar("LaneT", bound=FillableLane)


class OpenBatch(Generic[LaneT]):
    """Owns its lane from construction until the pipeline releases it."""

    __slots__ = (
        "_arrays",
        "_group",
        "_model",
        "_only",
        "_row_bytes",
        "_views",
        "cuts",
        "lane",
        "launched_s",
        "max_rows",
        "opened_s",
        "requests",
        "rows",
    )

    def __init__(self, lane: LaneT, model: ModelSpec, group: tuple[Shape, ...], max_rows: int, opened_s: float) -> None:
        """Args:
        lane: a free lane.
        model: what the rows are for.
        group: row shapes of this batch, one per model input.
        max_rows: most rows the service wants in a batch; the lane may hold fewer.
        opened_s: monotonic time at which the oldest record was taken in.

        Raises:
            BatchError: the lane cannot run these shapes.
        """
        held, self._views = lane.open(group)
        self.lane = lane
        self.max_rows = min(max_rows, held)
        self.opened_s = opened_s
        self.launched_s = 0.0  # monotonic time at which it left for the backend
        self.requests: list[Request] = []
        self.rows = 0
        self.cuts: dict[int, tuple[Cut, ...]] = {}  # place in `requests` -> what of its answer is only filling
        self._model = model
        self._group = group
        self._row_bytes = [spec.row_bytes(row_shape) for spec, row_shape in zip(model.inputs, group, strict=True)]
        self._only = (self._views[0], self._row_bytes[0]) if len(self._views) == 1 else None  # the common case
        self._arrays: dict[int, NDArray[Any]] = {}

    def add(self, request: Request, placement: Placement) -> None:
        """Copy a request's rows behind the ones that are there; the caller has seen that they fit."""
        start = self.rows
        end = start + request.shape.rows
        if placement.fills:
            self._add_filled(request, placement, start, end)
        elif self._only is not None:
            view, size = self._only
            view[start * size : end * size] = request.buffers[0]
        else:
            for view, size, buffer in zip(self._views, self._row_bytes, request.buffers, strict=True):
                view[start * size : end * size] = buffer
        if placement.cuts:
            self.cuts[len(self.requests)] = placement.cuts
        self.requests.append(request)
        self.rows = end

    def add_run(self, requests: deque[Request]) -> None:
        """Move requests from the left, as long as they have the first one's shape, no deadline, and room.

        The caller has seen that this shape needs nothing filled up. Of a model with several inputs none is moved.
        """
        if self._only is None or not requests:
            return
        shape, (view, row_bytes) = requests[0].shape, self._only
        size, start = shape.rows * row_bytes, self.rows * row_bytes
        room = (self.max_rows - self.rows) // shape.rows
        keep, take = self.requests.append, requests.popleft
        while room and requests and (request := requests[0]).shape is shape and request.expires_at_ms is None:
            view[start : (start := start + size)] = request.buffers[0]
            keep(take())
            room -= 1
        self.rows = start // row_bytes

    def _add_filled(self, request: Request, placement: Placement, start: int, end: int) -> None:
        fills = {fill.place: fill for fill in placement.fills}
        for place, (view, size, buffer) in enumerate(zip(self._views, self._row_bytes, request.buffers, strict=True)):
            fill = fills.get(place)
            if fill is None:
                view[start * size : end * size] = buffer
                continue
            rows = self._array(place)[start:end]
            dtype = self._model.inputs[place].dtype
            source = np.frombuffer(buffer, dtype).reshape(end - start, *request.shape.row_shapes[place])
            length = source.shape[fill.axis]
            before = (slice(None),) * fill.axis
            rows[(*before, slice(0, length))] = source
            rows[(*before, slice(length, None))] = fill.value

    def _array(self, place: int) -> NDArray[Any]:
        """A whole input of the lane as an array of shape (held rows, …)."""
        array = self._arrays.get(place)
        if array is None:
            dtype = self._model.inputs[place].dtype
            array = np.frombuffer(self._views[place], dtype).reshape(-1, *self._group[place])
            self._arrays[place] = array
        return array
