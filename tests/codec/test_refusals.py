"""What is refused, with which code, and whose id the answer carries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.codec.decoding import GOOD, TWO_INPUTS, decode, refusal
from tests.records import floats, model_of, packed, request_bytes, request_of, spec, tensor


def test_an_id_has_at_most_256_characters() -> None:
    """Characters, not bytes."""
    assert decode(request_bytes(floats((1, 2)), id="é" * 256)).id == "é" * 256
    assert decode(request_bytes(floats((1, 2)), id="")).id == ""
    error = refusal(request_bytes(floats((1, 2)), id="a" * 257))
    assert error.code == "malformed"
    assert "257" in str(error)
    assert "256" in str(error)
    assert error.request_id is None


@pytest.mark.parametrize("identity", [True, 1.5, 7, ["a"], {"a": 1}])
def test_an_id_is_text(identity: Any) -> None:
    error = refusal(request_bytes(floats((1, 2)), id=identity))
    assert (error.code, error.request_id) == ("malformed", None)


@pytest.mark.parametrize(
    "broken", [{"shape": "two"}, {"shape": [1, 2.5]}, {"datatype": "FP99"}, {"name": 7}, {"data": 1}]
)
def test_an_error_carries_the_id_wherever_it_was_readable(broken: dict[str, Any]) -> None:
    """The producer waits for the answer by its id; an answer with another id never reaches it."""
    assert refusal(packed(request_of({**GOOD, **broken}, id="job-7"))).request_id == "job-7"


@pytest.mark.parametrize("parameters", [[1], "text", {"expires_at_ms": "soon"}])
def test_bad_parameters_leave_the_id_readable(parameters: Any) -> None:
    error = refusal(packed(request_of(GOOD, id="job-7", parameters=parameters)))
    assert (error.code, error.request_id) == ("malformed", "job-7")


@pytest.mark.parametrize("tensors", [[{}], [{**GOOD, "shape": "x"}], [{**GOOD, "name": "y"}]])
def test_no_error_carries_an_id_above_the_limit(tensors: list[dict[str, Any]]) -> None:
    """A 4 MB id in a refused request must not come back as a 4 MB answer."""
    error = refusal(packed(request_of(*tensors, id="a" * 100_000)))
    assert error.request_id is None or len(error.request_id) <= 256


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"\xc1",
        b"not msgpack",
        packed(None),
        packed(7),
        packed([GOOD]),
        packed({}),
        packed({"inputs": None}),
        packed({"inputs": {"x": GOOD}}),
        packed(request_of(GOOD))[:-1],
        packed(request_of(GOOD)) + b"\x00",
        packed({"inputs": ["x"]}),
        packed(request_of({"datatype": "FP32", "shape": [1, 2]})),
        b"\x81\xa6inputs\xdd\xff\xff\xff\xff",
        b"\x81\xa1\xff\x01",
    ],
)
def test_what_is_no_request_is_malformed(value: bytes | None) -> None:
    assert refusal(value).code == "malformed"


def test_a_tombstone_is_named_as_such() -> None:
    assert "no value" in str(refusal(None))


def test_an_unknown_input_is_named_with_those_that_exist() -> None:
    error = refusal(request_bytes(floats((1, 2)), name="y", id="a"))
    assert (error.code, error.request_id) == ("unknown_input", "a")
    assert "'y'" in str(error)
    assert "x" in str(error).split("it has")[1]


def test_a_missing_input_is_named() -> None:
    error = refusal(packed(request_of(tensor("scale", floats((1,))), id="a")), TWO_INPUTS)
    assert (error.code, error.request_id) == ("missing_input", "a")
    assert "image" in str(error)
    assert refusal(packed({"inputs": []})).code == "missing_input"


def test_an_input_given_twice_is_malformed() -> None:
    error = refusal(packed(request_of(GOOD, GOOD, id="a")))
    assert (error.code, error.request_id) == ("malformed", "a")
    assert "twice" in str(error)


@pytest.mark.parametrize("datatype", ["FP64", "INT32", "float32", "", "fp32"])
def test_another_datatype_is_refused_and_the_right_one_named(datatype: str) -> None:
    error = refusal(packed(request_of({**GOOD, "datatype": datatype}, id="a")))
    assert (error.code, error.request_id) == ("wrong_datatype", "a")
    assert "send FP32" in str(error)


@pytest.mark.parametrize(
    "shape",
    [
        [],
        [2],
        [1, 3],
        [1, 2, 1],
        [0, 2],
        [-1, 2],
        [1, -2],
        [1, 0],
        [1, 2**63],
        [1, 2**64 - 1],
        [1] * 9,
        [1] * 400,
        [2, 2],
    ],
)
def test_another_shape_is_refused(shape: list[int]) -> None:
    """Also when the data would be as long as the shape says."""
    error = refusal(packed(request_of({**GOOD, "shape": shape}, id="a")))
    assert (error.code, error.request_id) == ("wrong_shape", "a")
    assert len(str(error)) < 500


@pytest.mark.parametrize("shape", [[0, 2], [-1, 2], [1, 0]])
def test_empty_tensors_are_refused(shape: list[int]) -> None:
    """No rows are no request, though no data would be just as long as the shape says."""
    model = model_of(spec("x", "FP32", (-1, -1)))
    assert refusal(packed(request_of({**GOOD, "shape": shape, "data": b""})), model).code == "wrong_shape"


@pytest.mark.parametrize("shape", [[True, 2], [1, None], [1, "2"], [1.5, 2], [-(2**63), 2]])
def test_lengths_are_whole_and_positive(shape: list[Any]) -> None:
    assert refusal(packed(request_of({**GOOD, "shape": shape}))).code in ("malformed", "wrong_shape")


@pytest.mark.parametrize("rows", [2**31, 2**63, 2**64 - 1])
def test_giant_row_counts_are_too_large(rows: int) -> None:
    assert refusal(packed(request_of({**GOOD, "shape": [rows, 2]}))).code == "too_large"


@pytest.mark.parametrize("data", [b"", b"1234567", b"123456789"])
def test_data_is_exactly_as_long_as_its_shape(data: bytes) -> None:
    error = refusal(packed(request_of({**GOOD, "data": data}, id="a")))
    assert (error.code, error.request_id) == ("wrong_shape", "a")
    assert str(len(data)) in str(error)
    assert "8" in str(error)


@pytest.mark.parametrize("lengths", [[1, 2**32], [1, 2**63], [1, 2**64 - 1]])
def test_a_free_axis_does_not_excuse_a_giant_length(lengths: list[int]) -> None:
    """The product is compared, never allocated."""
    model = model_of(spec("x", "FP32", (-1, -1)))
    assert refusal(packed(request_of({**GOOD, "shape": lengths})), model).code == "wrong_shape"


def test_too_many_bytes_are_refused_unread() -> None:
    value = request_bytes(floats((1, 2)), id="a" * 64)
    assert decode(value, max_request_bytes=len(value)).shape.rows == 1
    error = refusal(value + b"\xc1", max_request_bytes=len(value))
    assert error.code == "too_large"
    assert str(len(value) + 1) in str(error)


def test_rows_are_limited_by_the_batch_and_by_the_setting() -> None:
    value = request_bytes(np.zeros((5, 2), np.float32))
    assert decode(value, max_rows=5).shape.rows == 5
    assert refusal(value, max_rows=4).code == "too_large"
    assert decode(value, max_rows=64, max_rows_per_request=5).shape.rows == 5
    assert refusal(value, max_rows=64, max_rows_per_request=4).code == "too_large"
    assert refusal(value, max_rows=4, max_rows_per_request=64).code == "too_large"


def test_the_rank_is_limited() -> None:
    deep = model_of(spec("x", "FP32", (-1, 1, 1, 1)))
    value = request_bytes(np.zeros((1, 1, 1, 1), np.float32))
    assert decode(value, deep, max_rank=4).shape.rows == 1
    assert refusal(value, deep, max_rank=3).code == "wrong_shape"


def test_all_inputs_bring_the_same_rows() -> None:
    tensors = [tensor("image", np.zeros((2, 3), np.uint8)), tensor("scale", floats((1,)))]
    error = refusal(packed(request_of(*tensors, id="a")), TWO_INPUTS)
    assert (error.code, error.request_id) == ("wrong_shape", "a")
    assert "rows" in str(error)


def test_axes_of_one_name_have_one_length() -> None:
    """Else the model would fail, and with it the whole batch."""
    model = model_of(
        spec("ids", "INT64", (-1, -1), ("batch", "sequence")), spec("mask", "INT64", (-1, -1), ("batch", "sequence"))
    )

    def value(ids: int, mask: int) -> bytes:
        shapes = {"ids": (1, ids), "mask": (1, mask)}
        return packed(request_of(*(tensor(name, np.ones(shape, np.int64)) for name, shape in shapes.items())))

    assert decode(value(4, 4), model).shape.row_shapes == ((4,), (4,))
    error = refusal(value(4, 5), model)
    assert error.code == "wrong_shape"
    assert "sequence" in str(error)
