"""Requests of different length in one batch, filled up to the bucket."""

from __future__ import annotations

import numpy as np
import pytest

from tests.batching.bench import FREE, Bench, row
from tests.records import floats, model_of, spec
from worker.errors import RecordError
from worker.sections import PadSettings


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
