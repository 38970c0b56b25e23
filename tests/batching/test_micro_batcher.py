"""When a batch opens, what goes into it, and when it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.records import FakeRecord, FakeTicket, floats, ints, model_of, packed, request_of, spec, tensor
from tests.scripted_backend import Batch, ScriptedBackend, ScriptedLane
from worker.batching import micro_batcher
from worker.batching.micro_batcher import MicroBatcher
from worker.batching.open_batch import OpenBatch
from worker.codec.decode import RequestDecoder
from worker.errors import RecordError
from worker.records import Request
from worker.sections import LimitSettings, PadSettings
from worker.tensors import ModelSpec

FLAT = model_of(spec("x"))
FREE = model_of(spec("x", "FP32", (-1, -1)))
DELAY_S = 5.0


class Bench:
    """A batcher on scripted lanes, and a decoder that makes its requests; time is what the test says."""

    def __init__(
        self,
        model: ModelSpec = FLAT,
        *,
        max_rows: int = 4,
        lanes: int = 2,
        max_bytes: int = 4096,
        pad: Mapping[str, PadSettings] | None = None,
    ) -> None:
        self.backend = ScriptedBackend(model, lanes=lanes, max_rows=max_rows, max_bytes=max_bytes)
        self.batcher: MicroBatcher[ScriptedLane] = MicroBatcher(
            model, self.backend.acquire, max_rows=max_rows, max_delay_s=DELAY_S, pad=pad or {}
        )
        self.decoder = RequestDecoder(model, LimitSettings(), max_rows=64)

    def request(self, *arrays: NDArray[Any], at_s: float = 0.0) -> Request:
        names = [each.name for each in self.backend.model.inputs]
        content = request_of(*(tensor(name, array) for name, array in zip(names, arrays, strict=True)))
        return self.decoder.decode(FakeTicket(FakeRecord(packed(content))), at_s)

    def add(self, *arrays: NDArray[Any], at_s: float = 0.0) -> bool:
        return self.batcher.add(self.request(*arrays, at_s=at_s))

    def due(self, now_s: float = 0.0, *, everything: bool = False) -> list[OpenBatch[ScriptedLane]]:
        return self.batcher.take_due(now_s, everything=everything)

    def launch(self, batch: OpenBatch[ScriptedLane]) -> Batch:
        """What the backend would see of it."""
        batch.lane.launch(batch.rows)
        return self.backend.batches[-1]


def row(value: float, width: int = 2, rows: int = 1) -> NDArray[np.float32]:
    return np.full((rows, width), value, np.float32)


def test_rows_lie_in_the_order_they_came() -> None:
    bench = Bench()
    first, second = floats((1, 2), (3, 4)), floats((5, 6))
    assert bench.add(first)
    assert bench.add(second)
    (batch,) = bench.due(everything=True)
    assert batch.rows == 3
    assert [request.shape.rows for request in batch.requests] == [2, 1]
    assert bench.launch(batch).inputs[0].tolist() == [[1, 2], [3, 4], [5, 6]]


def test_several_inputs_are_gathered_each_for_itself() -> None:
    bench = Bench(model_of(spec("x"), spec("n", "INT64", (-1, 3)), spec("b", "BOOL", (-1,))))
    bench.add(floats((1, 2)), ints((1, 2, 3)), np.array([True]))
    bench.add(floats((3, 4)), ints((4, 5, 6)), np.array([False]))
    seen = bench.launch(bench.due(everything=True)[0])
    assert [array.tolist() for array in seen.inputs] == [[[1, 2], [3, 4]], [[1, 2, 3], [4, 5, 6]], [True, False]]


def test_a_full_batch_leaves_at_once() -> None:
    bench = Bench(max_rows=4)
    for value in range(3):
        bench.add(row(value))
    assert bench.due() == []
    bench.add(row(3))
    (batch,) = bench.due()
    assert batch.rows == 4
    assert bench.due() == []


def test_a_batch_leaves_when_its_oldest_record_is_old_enough() -> None:
    """The age of the oldest, not of the youngest; not a moment before."""
    bench = Bench()
    bench.add(row(1), at_s=100.0)
    bench.add(row(2), at_s=104.0)
    assert bench.batcher.due_s == 100.0 + DELAY_S
    assert bench.due(104.9) == []
    (batch,) = bench.due(105.0)
    assert batch.rows == 2
    assert batch.opened_s == 100.0
    assert bench.batcher.due_s is None


def test_the_next_batch_has_an_age_of_its_own() -> None:
    bench = Bench()
    bench.add(row(1), at_s=100.0)
    bench.due(105.0)
    bench.add(row(2), at_s=103.0)
    assert bench.due(107.9) == []
    assert len(bench.due(108.0)) == 1


def test_nothing_waits_when_nothing_is_there() -> None:
    bench = Bench()
    assert bench.batcher.due_s is None
    assert bench.due(everything=True) == []
    assert not bench.batcher.has_retries
    assert bench.backend.busy_lanes == 0


def test_a_full_batch_is_due_in_the_past() -> None:
    """The poll must not sleep on it."""
    bench = Bench(max_rows=2)
    bench.add(row(1), at_s=100.0)
    bench.add(row(1), at_s=100.0)
    assert bench.batcher.due_s is not None
    assert bench.batcher.due_s <= 100.0


def test_a_request_that_does_not_fit_opens_the_next_batch() -> None:
    """Requests are never cut in two; the batch it did not fit leaves."""
    bench = Bench(max_rows=4)
    bench.add(row(1, rows=3))
    assert bench.add(row(2, rows=2))
    (batch,) = bench.due()
    assert batch.rows == 3
    (rest,) = bench.due(everything=True)
    assert bench.launch(rest).inputs[0].tolist() == [[2, 2], [2, 2]]


def test_a_request_waits_while_no_lane_is_free_and_is_not_lost() -> None:
    """add() says no, and says yes to the same request once a lane came back."""
    bench = Bench(max_rows=2, lanes=1)
    waiting = bench.request(row(3))
    assert bench.add(row(1, rows=2))
    assert not bench.batcher.add(waiting)
    (batch,) = bench.due()
    assert batch.rows == 2
    assert not bench.batcher.add(waiting)
    batch.lane.release()
    assert bench.batcher.add(waiting)
    (batch,) = bench.due(everything=True)
    assert batch.requests == [waiting]


def test_each_shape_has_a_batch_of_its_own() -> None:
    bench = Bench(FREE)
    bench.add(row(1, width=2))
    bench.add(row(2, width=3))
    bench.add(row(3, width=2))
    batches = {batch.requests[0].shape.row_shapes: batch.rows for batch in bench.due(everything=True)}
    assert batches == {((2,),): 2, ((3,),): 1}


def test_the_oldest_batch_leaves_early_when_its_lane_is_needed() -> None:
    """More shapes than lanes: without this, the third shape would wait for the first one's delay."""
    bench = Bench(FREE, lanes=2)
    bench.add(row(1, width=2), at_s=2.0)
    bench.add(row(1, width=3), at_s=1.0)
    assert not bench.add(row(1, width=4), at_s=3.0)
    (batch,) = bench.due(3.0)
    assert batch.requests[0].shape.row_shapes == ((3,),)
    batch.lane.release()
    assert bench.add(row(1, width=4), at_s=3.0)
    assert bench.batcher.due_s == 2.0 + DELAY_S


def test_a_batch_is_not_sent_off_early_while_a_full_one_is_leaving() -> None:
    """The full one gives its lane back soon enough."""
    bench = Bench(FREE, lanes=2, max_rows=2)
    bench.add(row(1, width=2, rows=2))
    bench.add(row(1, width=3))
    assert not bench.add(row(1, width=4))
    assert [batch.rows for batch in bench.due()] == [2]


def test_a_lane_that_holds_fewer_rows_makes_smaller_batches() -> None:
    """batching.max_bytes counts as much as max_rows."""
    bench = Bench(max_rows=8, max_bytes=3 * 8)
    for value in range(3):
        bench.add(row(value))
    (batch,) = bench.due()
    assert batch.rows == batch.max_rows == 3


def test_a_request_larger_than_any_batch_is_too_large() -> None:
    """And its lane is free again."""
    bench = Bench(max_rows=8, max_bytes=3 * 8)
    with pytest.raises(RecordError) as caught:
        bench.add(row(1, rows=4))
    assert caught.value.code == "too_large"
    assert bench.backend.busy_lanes == 0
    assert bench.add(row(1, rows=3))


def test_a_shape_that_the_engine_cannot_run_costs_its_request_alone() -> None:
    bench = Bench(FREE)
    bench.backend.cannot_run = lambda row_shapes: "above the profile" if row_shapes[0][0] > 5 else ""
    bench.add(row(1, width=5))
    with pytest.raises(RecordError, match="above the profile") as caught:
        bench.add(row(1, width=6))
    assert caught.value.code == "wrong_shape"
    assert bench.backend.busy_lanes == 1
    assert [batch.rows for batch in bench.due(everything=True)] == [1]


def test_the_memory_of_known_shapes_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro_batcher, "REMEMBERED", 10)
    bench = Bench(FREE, lanes=1)
    for width in range(1, 50):
        bench.add(row(1, width=width))
        for batch in bench.due(everything=True):
            batch.lane.release()
    assert len(bench.batcher._placements) <= 10


# retries


def halves(bench: Bench, *values: float) -> list[Request]:
    """Requests that were in a batch which failed."""
    for value in values:
        assert bench.add(row(value))
    (batch,) = bench.due(everything=True)
    batch.lane.release()
    return batch.requests


def test_retried_requests_run_as_a_batch_of_their_own() -> None:
    """Not among new requests: else a guilty one would be tried with ever new neighbours."""
    bench = Bench()
    requests = halves(bench, 1, 2, 3)
    bench.add(row(9))
    bench.batcher.retry(requests[:2])
    waited = bench.batcher.has_retries
    (batch,) = bench.due()
    assert (waited, bench.batcher.has_retries) == (True, False)
    assert batch.requests == requests[:2]
    assert bench.launch(batch).inputs[0].tolist() == [[1, 1], [2, 2]]


def test_retries_leave_at_once_in_the_order_they_were_given() -> None:
    bench = Bench(lanes=3)
    requests = halves(bench, 1, 2, 3)
    bench.batcher.retry(requests[:1])
    bench.batcher.retry(requests[1:])
    assert [batch.requests for batch in bench.due()] == [requests[:1], requests[1:]]


def test_retries_wait_for_lanes_and_take_them_before_new_requests() -> None:
    """A filling batch leaves early to make room for one."""
    bench = Bench(lanes=1)
    requests = halves(bench, 1, 2)
    bench.add(row(9))
    bench.batcher.retry(requests)
    (batch,) = bench.due()
    assert batch.requests[0] not in requests
    assert bench.batcher.has_retries
    assert bench.due() == []
    batch.lane.release()
    assert [batch.requests for batch in bench.due()] == [requests]


def test_abandoned_retries_are_forgotten() -> None:
    """Those of revoked partitions; their batch-mates stay."""
    bench = Bench()
    requests = halves(bench, 1, 2, 3)
    bench.batcher.retry(requests[:2])
    bench.batcher.retry(requests[2:])
    bench.batcher.abandon(lambda request: request in requests[1:])
    (batch,) = bench.due()
    assert batch.requests == requests[:1]
    assert not bench.batcher.has_retries


# padding


def test_padded_requests_of_different_length_share_a_batch() -> None:
    """Filled up to the bucket with the value of the setting, along that axis alone."""
    bench = Bench(FREE, pad={"x": PadSettings(axis=1, value=-1, buckets=(4, 8))})
    bench.add(floats((1, 2), (3, 4)))
    bench.add(floats((5, 6, 7, 8)))
    (batch,) = bench.due(everything=True)
    assert bench.launch(batch).inputs[0].tolist() == [[1, 2, -1, -1], [3, 4, -1, -1], [5, 6, 7, 8]]


def test_padding_overwrites_what_the_lane_held_before() -> None:
    """A lane's memory is never clean; here it is full of garbage."""
    bench = Bench(model_of(spec("x", "INT64", (-1, -1, 2))), pad={"x": PadSettings(axis=1, value=7, buckets=(3,))})
    bench.add(np.ones((1, 1, 2), np.int64))
    assert bench.launch(bench.due(everything=True)[0]).inputs[0].tolist() == [[[1, 1], [7, 7], [7, 7]]]


def test_padded_memory_is_counted_after_filling() -> None:
    """The lane holds rows of the bucket's length, not of the request's."""
    bench = Bench(FREE, max_rows=8, max_bytes=2 * 8 * 4, pad={"x": PadSettings(axis=1, buckets=(8,))})
    assert bench.add(row(1, width=1))
    assert bench.add(row(2, width=1))
    (batch,) = bench.due()
    assert batch.rows == 2


def test_buckets_apart_do_not_mix() -> None:
    bench = Bench(FREE, pad={"x": PadSettings(axis=1, buckets=(4, 8))})
    bench.add(row(1, width=4))
    bench.add(row(1, width=5))
    assert sorted(batch.rows for batch in bench.due(everything=True)) == [1, 1]
    assert bench.backend.busy_lanes == 2


def test_an_axis_longer_than_its_largest_bucket_is_refused() -> None:
    bench = Bench(FREE, pad={"x": PadSettings(axis=1, buckets=(4, 8))})
    with pytest.raises(RecordError) as caught:
        bench.add(row(1, width=9))
    assert caught.value.code == "wrong_shape"
    assert "9" in str(caught.value)
    assert "8" in str(caught.value)
    assert bench.backend.busy_lanes == 0


def test_retried_requests_are_padded_again() -> None:
    bench = Bench(FREE, pad={"x": PadSettings(axis=1, value=-1, buckets=(4,))})
    bench.add(floats((1, 2)))
    bench.add(floats((3, 4, 5)))
    (batch,) = bench.due(everything=True)
    batch.lane.release()
    bench.batcher.retry(batch.requests)
    (again,) = bench.due()
    assert bench.launch(again).inputs[0].tolist() == [[1, 2, -1, -1], [3, 4, 5, -1]]
    assert again.rows == 2
