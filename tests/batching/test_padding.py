"""Which axes are filled up, how far, and what of the answers is cut off again."""

from __future__ import annotations

import pytest

from tests.records import model_of, spec
from worker.batching.padding import Cut, Fill, Padding
from worker.errors import ConfigError, RecordError
from worker.sections import PadSettings
from worker.tensors import ModelSpec, RequestShape

AXES = ("batch", "sequence")
BERT = model_of(
    spec("input_ids", "INT64", (-1, -1), AXES),
    spec("attention_mask", "INT64", (-1, -1), AXES),
    outputs=(spec("hidden", "FP32", (-1, -1, 768), (*AXES, "")), spec("pooled", "FP32", (-1, 768), ("batch", ""))),
)
BUCKETS = (16, 32, 128)
BOTH = {
    name: PadSettings(axis=1, value=value, buckets=BUCKETS)
    for name, value in {"input_ids": 1, "attention_mask": 0}.items()
}


def shape_of(*lengths: int) -> RequestShape:
    return RequestShape(2, tuple((length,) for length in lengths), tuple(16 * length for length in lengths))


def test_a_bert_like_model_fills_both_inputs_and_cuts_its_sequence_output() -> None:
    """The output that shares the axis name is cut to the request's own length, the pooled one is left."""
    placement = Padding(BERT, BOTH).place(shape_of(20, 20))
    assert placement.group == ((32,), (32,))
    assert placement.fills == (Fill(0, 1, 1.0), Fill(1, 1, 0.0))
    assert placement.cuts == (Cut(place=0, axis=1, length=20, filled=32),)


def test_a_length_that_is_a_bucket_is_left_alone() -> None:
    placement = Padding(BERT, BOTH).place(shape_of(32, 32))
    assert (placement.group, placement.fills, placement.cuts) == (((32,), (32,)), (), ())


@pytest.mark.parametrize(("length", "bucket"), [(1, 16), (16, 16), (17, 32), (33, 128), (128, 128)])
def test_the_smallest_bucket_that_fits_is_taken(length: int, bucket: int) -> None:
    assert Padding(BERT, BOTH).place(shape_of(length, length)).group == ((bucket,), (bucket,))


def test_past_the_last_bucket_a_request_is_refused() -> None:
    with pytest.raises(RecordError, match="129") as caught:
        Padding(BERT, BOTH).place(shape_of(129, 129))
    assert caught.value.code == "wrong_shape"


def test_an_axis_without_a_name_is_filled_and_nothing_is_cut() -> None:
    """Nobody can know which of the output's axes follows it."""
    model = model_of(spec("x", "FP32", (-1, -1)), outputs=(spec("y", "FP32", (-1, -1)),))
    placement = Padding(model, {"x": PadSettings(axis=1, buckets=(8,))}).place(shape_of(5))
    assert (placement.group, placement.cuts) == (((8,),), ())


def test_without_settings_shapes_stay_as_they_are() -> None:
    placement = Padding(BERT, {}).place(shape_of(5, 5))
    assert (placement.group, placement.fills, placement.cuts) == (((5,), (5,)), (), ())


@pytest.mark.parametrize(
    ("name", "axis", "words"),
    [
        ("tokens", 1, ["tokens", "input_ids, attention_mask"]),
        ("input_ids", 2, ["axis is 2", "2 axes"]),
        ("image", 1, ["axis is 1", "3"]),
    ],
)
def test_settings_that_the_model_contradicts_are_refused_at_the_start(name: str, axis: int, words: list[str]) -> None:
    """The message names the setting, its value, and what the model has."""
    model = BERT if name != "image" else model_of(spec("image", "UINT8", (-1, 3)))
    with pytest.raises(ConfigError) as caught:
        Padding(model, {name: PadSettings(axis=axis, buckets=(8,))})
    assert "batching.pad" in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("datatype", "value"),
    [("INT64", float("nan")), ("INT64", float("inf")), ("INT64", 0.5), ("UINT8", -1), ("UINT8", 256), ("BOOL", 2)],
)
def test_a_value_that_the_datatype_cannot_hold_is_refused_at_the_start(datatype: str, value: float) -> None:
    """In the middle of a batch it would end the process, or fill with something else."""
    model: ModelSpec = model_of(spec("x", datatype, (-1, -1)))
    with pytest.raises(ConfigError, match=r"batching\.pad\.x\.value"):
        Padding(model, {"x": PadSettings(axis=1, value=value, buckets=(8,))})


@pytest.mark.parametrize("others", [{}, {"attention_mask": PadSettings(axis=1, buckets=(64,))}])
def test_inputs_that_share_an_axis_are_filled_alike(others: dict[str, PadSettings]) -> None:
    """Else every request of another length would reach the model with contradicting inputs, and fail there."""
    with pytest.raises(ConfigError, match="sequence"):
        Padding(BERT, {"input_ids": PadSettings(axis=1, buckets=BUCKETS), **others})
