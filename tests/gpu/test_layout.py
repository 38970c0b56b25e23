"""Which profile a batch runs on, how far it is padded, and where its tensors lie."""

from __future__ import annotations

import pytest

from worker.errors import BatchError
from worker.gpu.layout import ALIGNMENT, Profile, choose_profile, input_bytes, make_layout, most_rows
from worker.tensors import ModelSpec, TensorSpec

ROW = ((4,),)


def profile(index: int, least: int, best: int, largest: int, length: tuple[int, int] = (4, 4)) -> Profile:
    return Profile(index, (((least, length[0]), (best, length[1]), (largest, length[1])),))


SMALL, LARGE = profile(0, 1, 8, 8), profile(1, 16, 64, 64)


@pytest.mark.parametrize(
    ("rows", "index", "padded"), [(1, 0, 1), (8, 0, 8), (9, 1, 16), (15, 1, 16), (16, 1, 16), (63, 1, 63), (64, 1, 64)]
)
def test_the_profile_follows_from_the_rows(rows: int, index: int, padded: int) -> None:
    """Rows between two profiles are padded up to the larger one's least."""
    chosen, run_rows = choose_profile([SMALL, LARGE], ROW, rows)
    assert (chosen.index, run_rows) == (index, padded)


def test_of_two_that_fit_the_one_timed_for_the_rows_is_taken() -> None:
    """The nearest best size at or above the rows; a profile timed for less only when nothing else fits."""
    wide = [profile(0, 1, 8, 64), profile(1, 1, 64, 64), profile(2, 1, 32, 64)]
    assert [choose_profile(wide, ROW, rows)[0].index for rows in (1, 8, 9, 32, 33, 64)] == [0, 0, 2, 2, 1, 1]
    assert choose_profile([profile(0, 1, 2, 8)], ROW, 8)[0].index == 0


def test_more_rows_than_any_profile_takes_are_refused() -> None:
    """With the limit."""
    assert most_rows([SMALL, LARGE], ROW) == 64
    with pytest.raises(BatchError, match="65 rows are more than the 64 that the plan takes"):
        choose_profile([SMALL, LARGE], ROW, 65)


def test_lengths_choose_among_profiles_too() -> None:
    """One profile for short rows, one for long ones with fewer rows."""
    short, long = profile(0, 1, 64, 64, (1, 128)), profile(1, 1, 8, 8, (129, 512))
    assert most_rows([short, long], ((100,),)) == 64
    assert most_rows([short, long], ((200,),)) == 8
    with pytest.raises(BatchError, match="no profile for rows of shape 513"):
        most_rows([short, long], ((513,),))
    with pytest.raises(BatchError, match="no profile for rows of shape 1x2"):
        most_rows([short, long], ((1, 2),))


def test_tensors_lie_aligned_and_apart() -> None:
    """TensorRT wants 256 bytes; inputs first, then outputs."""
    layout = make_layout([1, 257, 0], [512, 3])
    regions = [*layout.inputs, *layout.outputs]
    assert [region.offset for region in regions] == [0, 256, 768, 1024, 1536]
    assert all(region.offset % ALIGNMENT == 0 for region in regions)
    assert layout.size == 1792


def test_memory_is_for_full_batches_and_no_more() -> None:
    """Up to max_rows and max_bytes; but never less than the least that a profile runs."""
    model = ModelSpec("m", "1", (TensorSpec("x", "FP32", (-1, 4)),), ())
    assert input_bytes(model, [SMALL, LARGE], max_rows=32, max_bytes=1 << 20) == [32 * 16]
    assert input_bytes(model, [SMALL, LARGE], max_rows=4, max_bytes=1 << 20) == [16 * 16]
    assert input_bytes(model, [SMALL], max_rows=8, max_bytes=50) == [50]
    assert input_bytes(model, [LARGE], max_rows=64, max_bytes=50) == [16 * 16]
