"""When a batch opens, what goes into it, and when it leaves."""

from __future__ import annotations

import numpy as np
import pytest

from tests.batching.bench import DELAY_S, FREE, Bench, row
from tests.records import floats, ints, model_of, spec
from worker.batching import micro_batcher
from worker.errors import RecordError


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


def test_an_old_batch_stays_while_only_full_ones_may_leave() -> None:
    """It goes on filling, and leaves when it is full, or when they all may."""
    bench = Bench(max_rows=3)
    bench.add(row(1), at_s=100.0)
    assert bench.batcher.take_due(200.0, only_full=True) == []
    bench.add(row(2), at_s=200.0)
    bench.add(row(3), at_s=200.0)
    assert [batch.rows for batch in bench.batcher.take_due(200.0, only_full=True)] == [3]
    bench.add(row(4), at_s=100.0)
    assert [batch.rows for batch in bench.batcher.take_due(200.0, everything=True, only_full=True)] == [1]


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
