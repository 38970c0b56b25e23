"""How often a row is copied on its way from the record into the lane's memory: once."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest

from tests.batching.bench import FREE, Bench
from tests.records import floats, ints, model_of, spec
from worker.batching.open_batch import OpenBatch
from worker.batching.padding import Padding
from worker.sections import PadSettings
from worker.tensors import ModelSpec, Shape


class NotedView:
    """Host memory of one input that only notes what is written where."""

    def __init__(self) -> None:
        self.writes: list[tuple[int, int, object]] = []  # start, end, source

    def __setitem__(self, where: slice, source: object) -> None:
        self.writes.append((where.start, where.stop, source))


class NotedLane:
    def __init__(self, inputs: int) -> None:
        self.views = [NotedView() for _ in range(inputs)]

    def open(self, row_shapes: Sequence[Shape]) -> tuple[int, list[memoryview]]:
        return 8, cast("list[memoryview]", self.views)

    def release(self) -> None:
        pass


class CountedArray(np.ndarray[Any, Any]):
    """An array that counts the values written into it and into its slices."""

    written = 0

    def __setitem__(self, where: Any, values: Any) -> None:
        type(self).written += self[where].size
        super().__setitem__(where, values)


def open_batch(model: ModelSpec, group: tuple[Shape, ...]) -> OpenBatch[NotedLane]:
    return OpenBatch(NotedLane(len(model.inputs)), model, group, 8, 0.0)


def test_each_input_of_a_request_is_written_once() -> None:
    """Straight from the record's own bytes, one request behind the other, into every input's memory."""
    model = model_of(spec("x"), spec("n", "INT64", (-1, 3)))
    bench = Bench(model)
    requests = [
        bench.request(floats((1, 2), (3, 4)), ints((1, 2, 3), (4, 5, 6))),
        bench.request(floats((5, 6)), ints((7, 8, 9))),
    ]
    batch = open_batch(model, ((2,), (3,)))
    placement = Padding(model, {}).place(requests[0].shape)
    for request in requests:
        batch.add(request, placement)
    for place, (view, row_bytes) in enumerate(zip(batch.lane.views, (8, 24), strict=True)):
        assert [(start, end) for start, end, _ in view.writes] == [(0, 2 * row_bytes), (2 * row_bytes, 3 * row_bytes)]
        assert all(
            source is request.buffers[place] for (_, _, source), request in zip(view.writes, requests, strict=True)
        )


@pytest.mark.parametrize("is_run", [False, True])
def test_the_only_input_of_a_request_is_written_once(is_run: bool) -> None:
    """Models with one input have quicker ways, alone and in runs; they keep the rule."""
    bench = Bench()
    requests = [bench.request(floats((number, 0))) for number in range(4)]
    batch = open_batch(bench.backend.model, ((2,),))
    if is_run:
        batch.add_run(deque(requests))
    else:
        placement = Padding(bench.backend.model, {}).place(requests[0].shape)
        for request in requests:
            batch.add(request, placement)
    (view,) = batch.lane.views
    assert [(start, end) for start, end, _ in view.writes] == [(0, 8), (8, 16), (16, 24), (24, 32)]
    assert all(source is request.buffers[0] for (_, _, source), request in zip(view.writes, requests, strict=True))


def test_a_row_that_is_filled_up_is_written_once() -> None:
    """Its own values and the filling behind them: each value of the lane's memory once."""
    pad = {"x": PadSettings(axis=1, value=-1, buckets=(4,))}
    bench = Bench(FREE, pad=pad)
    request = bench.request(floats((1, 2), (3, 4)))
    lane = bench.backend.acquire()
    assert lane is not None
    batch = OpenBatch(lane, FREE, ((4,),), 8, 0.0)
    CountedArray.written = 0
    batch._arrays[0] = counted = batch._array(0).view(CountedArray)
    batch.add(request, Padding(FREE, pad).place(request.shape))
    assert np.asarray(counted[:2]).tolist() == [[1, 2, -1, -1], [3, 4, -1, -1]]
    assert CountedArray.written == 2 * 4
    lane.release()
