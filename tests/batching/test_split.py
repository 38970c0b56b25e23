"""Batched outputs, cut into the parts of each request."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from worker.batching.padding import Cut
from worker.batching.split import Part, split
from worker.tensors import DATATYPES


def array_of(part: Part, dtype: Any) -> NDArray[Any]:
    shape, data = part
    return np.frombuffer(data, dtype).reshape(shape)


def test_each_request_gets_its_own_rows() -> None:
    output = np.arange(12, dtype=np.float32).reshape(6, 2)
    parts = split([output], [1, 3, 2], {})
    assert [part[0][0] for part in parts] == [(1, 2), (3, 2), (2, 2)]
    assert [array_of(part[0], np.float32).tolist() for part in parts] == [
        [[0, 1]],
        [[2, 3], [4, 5], [6, 7]],
        [[8, 9], [10, 11]],
    ]


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=8),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(list(DATATYPES)),
)
def test_the_parts_together_are_the_whole(rows: list[int], inner: list[int], datatype: str) -> None:
    """Any row counts, any inner shape (also an empty one), any datatype."""
    dtype = DATATYPES[datatype]
    output = np.arange(sum(rows) * int(np.prod(inner, dtype=int))).astype(dtype).reshape(sum(rows), *inner)
    parts = split([output, output[:, ...]], rows, {})
    assert len(parts) == len(rows)
    for place in (0, 1):
        pieces = [array_of(part[place], dtype) for part in parts]
        assert [piece.shape for piece in pieces] == [(count, *inner) for count in rows]
        assert np.concatenate(pieces).tobytes() == output.tobytes()


def test_parts_are_views_not_copies() -> None:
    """The encoder copies once; a copy here would be a second one."""
    output = np.zeros((4, 3), np.float32)
    parts = split([output], [1, 3], {})
    output[:] = 7
    assert array_of(parts[1][0], np.float32).tolist() == [[7] * 3] * 3


@pytest.mark.parametrize("rows", [3, 5])
def test_another_number_of_rows_is_a_value_error(rows: int) -> None:
    """One answer too many or too few would give every later request its neighbour's."""
    good, bad = np.zeros((4, 2), np.float32), np.zeros((rows, 2), np.float32)
    with pytest.raises(ValueError, match=f"output 1 has {rows} rows; the batch has 4"):
        split([good, bad], [1, 3], {})


def test_outputs_of_zero_size_are_empty_parts() -> None:
    parts = split([np.zeros((3, 0, 4), np.float32)], [1, 2], {})
    assert [(part[0][0], bytes(part[0][1])) for part in parts] == [((1, 0, 4), b""), ((2, 0, 4), b"")]


def test_what_was_only_filling_is_cut_off_for_that_request_alone() -> None:
    output = np.arange(24, dtype=np.int64).reshape(3, 4, 2)
    parts = split([output, output], [1, 2], {1: (Cut(place=0, axis=1, length=2, filled=4),)})
    assert (array_of(parts[0][0], np.int64) == output[:1]).all()
    assert (array_of(parts[1][0], np.int64) == output[1:, :2]).all()
    assert (array_of(parts[1][1], np.int64) == output[1:]).all()


def test_several_axes_of_one_output_are_cut() -> None:
    """An attention map is (rows, heads, sequence, sequence)."""
    output = np.arange(32, dtype=np.float32).reshape(2, 1, 4, 4)
    cuts = (Cut(0, 2, 3, 4), Cut(0, 3, 3, 4))
    parts = split([output], [1, 1], {0: cuts})
    assert (array_of(parts[0][0], np.float32) == output[:1, :, :3, :3]).all()
    assert parts[0][0][0] == (1, 1, 3, 3)


def test_an_axis_of_another_length_is_left_alone() -> None:
    """The model gave something else under that name, such as a pooled sequence."""
    output = np.arange(4, dtype=np.float32).reshape(2, 2)
    parts = split([output], [2], {0: (Cut(0, 1, 1, 4),)})
    assert parts[0][0][0] == (2, 2)


@pytest.mark.parametrize("datatype", ["BF16", "BOOL", "FP16"])
def test_cutting_keeps_the_bits_of_every_datatype(datatype: str) -> None:
    dtype = DATATYPES[datatype]
    output = np.array([[1, 0, 1, 0], [0, 1, 1, 1]]).astype(dtype)
    parts = split([output], [1, 1], {0: (Cut(0, 1, 3, 4),)})
    assert bytes(parts[0][0][1]) == output[0, :3].tobytes()


def test_an_empty_output_can_be_cut() -> None:
    output = np.zeros((1, 4, 0), np.float32)
    assert split([output], [1], {0: (Cut(0, 1, 2, 4),)})[0][0][0] == (1, 2, 0)
