"""Rows and shapes as the command line gives them, and the profiles they make."""

from __future__ import annotations

import pytest

from worker.engine.profiles import RowRange, full_batches, make_profiles, parse_rows, parse_shape, shapes_of_buckets
from worker.errors import ConfigError
from worker.tensors import Shape, TensorSpec

IDS = TensorSpec("ids", "INT64", (-1, -1), ("rows", "length"))
MASK = TensorSpec("mask", "INT64", (-1, -1), ("rows", "length"))
IMAGE = TensorSpec("image", "FP32", (-1, 3, 8, 8), ("rows", "", "", ""))
FIXED = TensorSpec("x", "FP32", (4, 16), ("", ""))


def test_rows_and_shapes_are_read() -> None:
    """As --profile and --shape show them."""
    assert parse_rows("1,8,64") == RowRange(1, 8, 64)
    assert parse_shape("ids=1x16,8x128,64x512") == ("ids", ((1, 16), (8, 128), (64, 512)))
    assert parse_shape("a=b=1,2,3") == ("a=b", ((1,), (2,), (3,)))  # ONNX names may hold anything


@pytest.mark.parametrize("text", ["", "1,2", "1,2,3,4", "8,4,1", "0,1,2", "a,b,c", "1;2;3", "1,1.5,2"])
def test_bad_rows_are_refused(text: str) -> None:
    """With the text and what would be right."""
    with pytest.raises(ConfigError, match="--profile is"):
        parse_rows(text)


@pytest.mark.parametrize(
    "text", ["ids", "ids=", "=1,2,3", "ids=1x2,3x4", "ids=1x2,3x4,5", "ids=2x2,1x1,3x3", "ids=0,1,2"]
)
def test_bad_shapes_are_refused(text: str) -> None:
    """With the text and what would be right."""
    with pytest.raises(ConfigError, match="--shape is"):
        parse_shape(text)


def test_each_row_range_is_a_profile() -> None:
    """Only the batch axis is free here."""
    profiles = make_profiles([IMAGE], [RowRange(1, 4, 4), RowRange(8, 32, 64)], {})
    assert profiles == (
        {"image": ((1, 3, 8, 8), (4, 3, 8, 8), (4, 3, 8, 8))},
        {"image": ((8, 3, 8, 8), (32, 3, 8, 8), (64, 3, 8, 8))},
    )


def test_without_rows_they_come_from_the_shape_or_the_default() -> None:
    """--profile is the shorter way to say it."""
    shape = {"ids": ((2, 16), (4, 64), (8, 128))}
    assert make_profiles([IDS], [], shape) == ({"ids": shape["ids"]},)
    assert make_profiles([IMAGE], [], {})[0]["image"][2] == (64, 3, 8, 8)


def test_an_axis_of_the_same_name_has_the_same_range() -> None:
    """attention_mask need not repeat what was said of input_ids; --profile gives the rows of both."""
    (profile,) = make_profiles([IDS, MASK], [RowRange(1, 8, 32)], {"ids": ((1, 16), (1, 64), (1, 128))})
    assert profile["ids"] == profile["mask"] == ((1, 16), (8, 64), (32, 128))


def test_a_free_axis_without_a_range_is_refused_with_an_example() -> None:
    """The message can be copied."""
    with pytest.raises(ConfigError, match=r"input 'ids' leaves axis 1 \('length'\) free.*ids=1x16,8x128,64x512"):
        make_profiles([IDS], [RowRange(1, 2, 4)], {})


@pytest.mark.parametrize(
    ("spec", "largest"),
    [
        (IMAGE, {"image": (48, 3, 8, 8)}),
        (FIXED, None),
        (TensorSpec("ids", "INT64", (4, -1), ("", "length")), {"ids": (4, 128)}),
    ],
    ids=["free", "fixed", "only the rows are fixed"],
)
def test_a_service_gets_a_profile_of_its_full_batches(spec: TensorSpec, largest: dict[str, Shape] | None) -> None:
    """--max-rows and engine.build_if_missing; it does not matter whether the model leaves the rows open."""
    shapes = {"ids": ((4, 16), (4, 64), (4, 128))} if spec.name == "ids" else {}
    made = make_profiles([spec], full_batches([spec], 48), shapes)
    assert [{name: ends[2] for name, ends in profile.items()} for profile in made] == ([largest] if largest else [])


def test_fixed_shapes_need_no_profile() -> None:
    """And take none."""
    assert make_profiles([FIXED], [], {}) == ()
    with pytest.raises(ConfigError, match="fixed at 4 rows"):
        make_profiles([FIXED], [RowRange(1, 2, 4)], {})


def test_shapes_must_fit_the_model() -> None:
    """Unknown inputs, other ranks, and other lengths than the model fixes."""
    with pytest.raises(ConfigError, match="names input 'id'; the model has ids, mask"):
        make_profiles([IDS, MASK], [], {"id": ((1, 1), (1, 1), (1, 1))})
    with pytest.raises(ConfigError, match="does not fit the model, which has anyx3x8x8"):
        make_profiles([IMAGE], [], {"image": ((1, 3, 8, 9), (1, 3, 8, 9), (1, 3, 8, 9))})
    with pytest.raises(ConfigError, match="does not fit the model"):
        make_profiles([IDS], [], {"ids": ((1,), (1,), (1,))})


def test_padding_buckets_become_ranges() -> None:
    """From the shortest bucket to the longest, timed for the longest."""
    assert shapes_of_buckets([IDS, MASK], {"ids": (1, (16, 64, 128))}) == {"ids": ((1, 16), (1, 128), (1, 128))}
