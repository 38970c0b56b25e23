"""Sizes to capture, and when padding to one is the quicker way."""

from __future__ import annotations

import pytest

from tests.gpu.simulated_cuda import SimulatedCuda
from worker.errors import BatchError, GpuError
from worker.gpu.capturing import known_row_shapes, sizes_to_capture
from worker.gpu.graphs import NotCapturable, RowBuckets, auto_rows, capture
from worker.gpu.layout import Profile
from worker.tensors import ModelSpec, TensorSpec


@pytest.mark.parametrize(
    ("max_rows", "rows"),
    [(1, [1]), (2, [1, 2]), (5, [1, 2, 4, 5]), (8, [1, 2, 4, 8]), (100, [1, 2, 4, 8, 16, 32, 64, 100])],
)
def test_auto_is_powers_of_two_and_the_full_batch(max_rows: int, rows: list[int]) -> None:
    """Ascending, each once."""
    assert auto_rows(max_rows) == rows


def test_sizes_below_a_profile_become_its_least() -> None:
    """A graph of fewer rows could not run; the same size is captured once."""
    large = Profile(0, (((16, 4), (64, 4), (64, 4)),))
    sizes = sizes_to_capture("auto", [large], ((4,),), 64)
    assert [rows for rows, _ in sizes] == [16, 32, 64]
    assert sizes_to_capture("off", [large], ((4,),), 64) == []
    assert [rows for rows, _ in sizes_to_capture([64, 128], [large], ((4,),), 64)] == [64]


def test_a_listed_size_is_always_padded_to() -> None:
    """Who lists rows knows the traffic; what is larger than all runs plain."""
    buckets = RowBuckets((2, 8))
    assert [buckets.bucket(rows) for rows in (1, 2, 3, 8, 9)] == [2, 2, 8, 8, None]


def test_auto_pads_only_where_that_is_quicker() -> None:
    """A small model gains by launching less; a large one would compute the filling: 33 rows are not worth 64."""
    sizes = (1, 2, 32, 64)
    small = RowBuckets(sizes, dict.fromkeys(sizes, 50e-6), dict.fromkeys(sizes, 20e-6))
    assert small.bucket(33) == 64
    large = RowBuckets(sizes, {rows: rows * 50e-6 for rows in sizes}, {rows: rows * 49e-6 for rows in sizes})
    assert large.bucket(33) is None
    assert large.bucket(50) is None
    assert large.bucket(63) == 64
    assert large.bucket(64) == 64
    assert large.bucket(32) == 32


def test_row_shapes_are_known_where_every_free_axis_has_buckets() -> None:
    """One set a bucket; none where a length is only seen in the request."""
    ids, mask = (TensorSpec(name, "INT64", (-1, -1), ("rows", "length")) for name in ("ids", "mask"))
    fixed = TensorSpec("x", "FP32", (-1, 3, 8))
    model = ModelSpec("m", "1", (ids, mask), ())
    pads = {"ids": (1, (16, 64)), "mask": (1, (16, 64))}
    assert known_row_shapes(model, pads) == [((16,), (16,)), ((64,), (64,))]
    assert known_row_shapes(model, {"ids": (1, (16, 64))}) == []
    assert known_row_shapes(model, {**pads, "mask": (1, (16,))}) == []
    assert known_row_shapes(ModelSpec("m", "1", (fixed,), ()), {}) == [((3, 8),)]


def test_an_empty_graph_is_no_graph() -> None:
    """What capturing with the wrong device current gives: no error, and nothing in it."""
    cuda = SimulatedCuda()
    stream = cuda.create_stream()
    with pytest.raises(NotCapturable, match="has 0 nodes, 3 at least"):
        capture(cuda, lambda: None, at_least_nodes=3, stream=stream)  # type: ignore[arg-type]  # a stand-in for Cuda
    assert not cuda.graphs


def test_a_failed_capture_ends_capturing() -> None:
    """So that the stream runs plain batches afterwards; a lost context is another matter."""
    cuda = SimulatedCuda()
    stream = cuda.create_stream()

    def refuse() -> None:
        raise BatchError("cannot be captured")

    with pytest.raises(NotCapturable, match="cannot be captured"):
        capture(cuda, refuse, at_least_nodes=1, stream=stream)  # type: ignore[arg-type]  # a stand-in for Cuda
    assert not cuda.capturing
    assert not cuda.graphs
    cuda.lost = "cudaErrorIllegalAddress"
    with pytest.raises(GpuError, match="broke the context"):
        capture(cuda, refuse, at_least_nodes=1, stream=stream)  # type: ignore[arg-type]  # a stand-in for Cuda
