"""The forms that are easier to send: numbers as lists, msgpack-numpy arrays, keys as bytes."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any, Literal

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.codec.decoding import taken_in
from tests.records import FakeRecord, FakeTicket, model_of, packed, request_of, spec
from worker.codec.decode import RequestDecoder
from worker.errors import RecordError
from worker.records import Request
from worker.sections import LimitSettings
from worker.tensors import DATATYPES, ModelSpec

WIDE = model_of(spec("x", "FP32", (-1, 2, 3)))
NUMPY_KINDS = {name: dtype for name, dtype in DATATYPES.items() if name != "BF16"}


def decode(content: Any, model: ModelSpec = WIDE, **limits: Any) -> Request:
    decoder = RequestDecoder(model, LimitSettings(**limits), max_rows=64)
    return taken_in(decoder, FakeTicket(FakeRecord(packed(content))))


def refusal(content: Any, model: ModelSpec = WIDE, **limits: Any) -> RecordError:
    with pytest.raises(RecordError) as caught:
        decode(content, model, **limits)
    return caught.value


def only_array(request: Request, model: ModelSpec) -> NDArray[Any]:
    shape = (request.shape.rows, *request.shape.row_shapes[0])
    return np.frombuffer(request.buffers[0], model.inputs[0].dtype).reshape(shape)


def listed(data: Any, shape: list[int], datatype: str = "FP32") -> dict[str, Any]:
    return {"name": "x", "datatype": datatype, "shape": shape, "data": data}


def numpy_map(array: NDArray[Any], *, as_bytes: bool = True) -> dict[Any, Any]:
    """What msgpack-numpy's encode() makes of a plain array: keys are bytes, `kind` is there and empty."""
    fields = {"nd": True, "type": array.dtype.str, "kind": b"", "shape": array.shape, "data": array.tobytes()}
    return {key.encode(): value for key, value in fields.items()} if as_bytes else fields


# numbers as lists


@pytest.mark.parametrize("is_flat", [True, False])
@pytest.mark.parametrize("datatype", DATATYPES)
def test_a_list_means_the_same_as_its_bytes(datatype: str, is_flat: bool) -> None:
    """Flat in C order, or nested as the shape says."""
    values = np.array([[0, 1, 1], [1, 0, 0]])
    model = model_of(spec("x", datatype, (-1, 3)))
    numbers: Any = values.astype(bool if datatype == "BOOL" else int)
    request = decode(request_of(listed((numbers.ravel() if is_flat else numbers).tolist(), [2, 3], datatype)), model)
    assert only_array(request, model).tobytes() == values.astype(DATATYPES[datatype]).tobytes()


def test_lists_nest_as_deep_as_the_shape() -> None:
    values = np.arange(12, dtype=np.float32).reshape(2, 2, 3) / 7
    assert (only_array(decode(request_of(listed(values.tolist(), [2, 2, 3]))), WIDE) == values).all()
    assert (only_array(decode(request_of(listed(values.ravel().tolist(), [2, 2, 3]))), WIDE) == values).all()


def test_a_nested_list_whose_rows_are_single_numbers() -> None:
    """As many rows as numbers: the length alone does not tell flat from nested."""
    model = model_of(spec("x", "INT32", (-1, 1)))
    assert only_array(decode(request_of(listed([[1], [2]], [2, 1], "INT32")), model), model).tolist() == [[1], [2]]
    assert only_array(decode(request_of(listed([1, 2], [2, 1], "INT32")), model), model).tolist() == [[1], [2]]


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_what_is_no_finite_number_survives(datatype: str) -> None:
    """Infinity that was sent is infinity; only a number that becomes infinity is refused."""
    model = model_of(spec("x", datatype, (-1, 4)))
    values = [[float("inf"), float("-inf"), float("nan"), -0.0]]
    array = only_array(decode(request_of(listed(values, [1, 4], datatype)), model), model)
    assert array.tobytes() == np.array(values, DATATYPES[datatype]).tobytes()


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        ([[1, 2, 3], [4, 5, 6]], [1, 2, 3]),
        ([[[1, 2, 3], [4, 5]]], [1, 2, 3]),
        ([[[1, 2, 3], [4, 5, 6], [7, 8, 9]]], [1, 2, 3]),
        ([1, 2, 3, 4, 5], [1, 2, 3]),
        ([1, 2, 3, 4, 5, 6, 7], [1, 2, 3]),
        ([], [1, 2, 3]),
        ([[[1, 2, "3"], [4, 5, 6]]], [1, 2, 3]),
        ([1, 2, 3, 4, 5, None], [1, 2, 3]),
        ([[[[1], [2], [3]], [[4], [5], [6]]]], [1, 2, 3]),
        ({"0": 1}, [1, 2, 3]),
        ("123456", [1, 2, 3]),
        (None, [1, 2, 3]),
        (6, [1, 2, 3]),
        ([], []),
        ([1], [0]),
        ([1], [-1]),
    ],
)
def test_a_list_that_contradicts_its_shape_is_refused(data: Any, shape: list[int]) -> None:
    assert refusal(request_of(listed(data, shape))).code in ("malformed", "wrong_shape")


@pytest.mark.parametrize(
    ("datatype", "number"),
    [
        ("UINT8", 256),
        ("UINT8", -1),
        ("INT8", 128),
        ("UINT16", 65_536),
        ("INT32", 2**31),
        ("UINT32", -1),
        ("INT64", 2**63),
        ("UINT64", -1),
        ("FP16", 65_536.0),
        ("FP32", 1e39),
        ("BF16", 1e39),
    ],
)
def test_a_number_that_the_datatype_cannot_hold_is_refused(datatype: str, number: float) -> None:
    """Never wrapped, never turned into infinity."""
    error = refusal(request_of(listed([number], [1, 1], datatype), id="a"), model_of(spec("x", datatype, (-1, 1))))
    assert (error.code, error.request_id) == ("wrong_datatype", "a")
    assert datatype in str(error)


def test_extremes_of_integers_arrive() -> None:
    for datatype, numbers in {"UINT64": [0, 2**64 - 1], "INT64": [-(2**63), 2**63 - 1]}.items():
        model = model_of(spec("x", datatype, (-1, 2)))
        assert only_array(decode(request_of(listed(numbers, [1, 2], datatype)), model), model).tolist() == [numbers]


def test_long_lists_are_too_large_and_bytes_are_the_remedy() -> None:
    model = model_of(spec("x", "FP32", (-1, 5)))
    assert decode(request_of(listed([0] * 5, [1, 5])), model, max_list_numbers=5).shape.rows == 1
    error = refusal(request_of(listed([0] * 5, [1, 5]), id="a"), model, max_list_numbers=4)
    assert (error.code, error.request_id) == ("too_large", "a")
    assert "bytes" in str(error)


def test_forms_may_be_mixed_in_one_request() -> None:
    """One input as bytes, one as a list, one as an array."""
    model = model_of(spec("a", "INT8", (-1, 1)), spec("b", "INT8", (-1, 1)), spec("c", "INT8", (-1, 1)))
    request = decode(
        request_of(
            {"name": "c", "data": numpy_map(np.array([[3]], np.int8))},
            {"name": "a", "datatype": "INT8", "shape": [1, 1], "data": b"\x01"},
            {"name": "b", "datatype": "INT8", "shape": [1, 1], "data": [2]},
        ),
        model,
    )
    assert [bytes(buffer) for buffer in request.buffers] == [b"\x01", b"\x02", b"\x03"]


# msgpack-numpy


@pytest.mark.parametrize("as_bytes", [True, False])
@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("datatype", NUMPY_KINDS)
def test_a_numpy_map_is_taken_in_both_byte_orders(
    datatype: str, order: Literal["little", "big"], as_bytes: bool
) -> None:
    """Whole tensors, and the `data` of a tensor; the datatype follows from the array."""
    values = np.array([[0, 1, 1], [1, 0, 1]]).astype(NUMPY_KINDS[datatype])
    sent = numpy_map(values.astype(values.dtype.newbyteorder(order)), as_bytes=as_bytes)
    model = model_of(spec("x", datatype, (-1, 3)))
    forms: list[Mapping[Any, Any]] = [{"name": "x", **sent}, {"name": "x", "data": sent}, sent, {"data": sent}]
    for form in forms:
        request = decode({"inputs": [form]}, model)
        assert only_array(request, model).tobytes() == values.tobytes()
        assert request.shape.rows == 2


def test_the_array_decides_not_what_stands_beside_it() -> None:
    """A datatype and a shape beside a numpy map say nothing new."""
    values = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    content = request_of({"name": "x", "datatype": "FP32", "shape": [1, 2, 3], "data": numpy_map(values)})
    assert (only_array(decode(content), WIDE) == values).all()


def test_a_tensor_without_a_name_needs_a_model_with_one_input() -> None:
    two = model_of(spec("a", "INT8", (-1, 1)), spec("b", "INT8", (-1, 1)))
    error = refusal({"inputs": [numpy_map(np.array([[1]], np.int8))], "id": "a"}, two)
    assert (error.code, error.request_id) == ("malformed", "a")
    assert "name" in str(error)


class Bomb:
    """Goes off when it is unpickled."""

    went_off = False

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (Bomb, "went_off", True)


@pytest.mark.parametrize(
    "kind", ["|O", "O", "|O8", b"|O", "|V8", "V4", "|S3", "<U4", "<M8[ns]", "<m8[s]", "<c8", "(", "f4,", "{", "M8[zz]"]
)
def test_arrays_of_other_kinds_are_refused(kind: Any) -> None:
    """Plain numbers only; objects (kind O) are pickles, and nothing is ever unpickled."""
    sent = {"nd": True, "type": kind, "kind": b"O", "shape": [1, 2, 3], "data": pickle.dumps(Bomb())}
    error = refusal(request_of({"name": "x", **sent}, id="a"))
    assert (error.code, error.request_id) == ("wrong_datatype", "a")
    assert not Bomb.went_off
    assert refusal(request_of({"name": "x", "data": sent})).code == "wrong_datatype"
    assert not Bomb.went_off


def test_the_bomb_would_go_off() -> None:
    """Else the test above would prove nothing."""
    pickle.loads(pickle.dumps(Bomb()))
    assert Bomb.went_off
    Bomb.went_off = False


def test_structured_arrays_are_refused() -> None:
    """Kind V as msgpack-numpy writes it: `type` is a list of fields."""
    sent = {"nd": True, "type": [["a", "<f4"], ["b", "<i4"]], "kind": b"V", "shape": [1, 2, 3], "data": bytes(48)}
    assert refusal(request_of({"name": "x", **sent})).code in ("malformed", "wrong_datatype")


def test_long_double_and_half_existing_types_are_refused() -> None:
    for kind in ("<f16", "f3", "<i7", "?4", "<u99", "=b9"):
        fields = {"nd": True, "type": kind, "shape": [1, 2, 3], "data": bytes(96)}
        assert refusal(request_of({"name": "x", **fields})).code == "wrong_datatype"


@pytest.mark.parametrize(
    ("changes", "codes"),
    [
        ({"nd": False}, ["malformed"]),
        ({"nd": "yes"}, ["malformed"]),
        ({"nd": None}, ["malformed"]),
        ({"shape": [1, 2]}, ["wrong_shape"]),
        ({"shape": [1, 2, 4]}, ["wrong_shape"]),
        ({"shape": [2, 2, 3]}, ["wrong_shape"]),
        ({"shape": [2**63, 2, 3]}, ["too_large"]),
        ({"shape": 6}, ["malformed"]),
        ({"data": bytes(23)}, ["wrong_shape"]),
        ({"data": b""}, ["wrong_shape"]),
        ({"type": ">f4", "data": bytes(23)}, ["wrong_shape"]),
        ({"type": ">f4", "data": b""}, ["wrong_shape"]),
        ({"data": [1, 2, 3]}, ["malformed"]),
        ({"type": "<f8", "data": bytes(48)}, ["wrong_datatype"]),
        ({"type": None}, ["malformed", "wrong_datatype"]),
        ({"type": b"\xff"}, ["malformed", "wrong_datatype"]),
    ],
)
def test_a_numpy_map_is_checked_like_any_tensor(changes: dict[str, Any], codes: list[str]) -> None:
    values = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    error = refusal(request_of({"name": "x", **numpy_map(values, as_bytes=False), **changes}))
    assert error.code in codes


@pytest.mark.parametrize("gone", ["type", "shape", "data"])
def test_a_numpy_map_is_complete(gone: str) -> None:
    sent = numpy_map(np.zeros((1, 2, 3), np.float32), as_bytes=False)
    del sent[gone]
    assert refusal(request_of({"name": "x", **sent})).code == "malformed"


def test_a_numpy_scalar_is_no_tensor() -> None:
    """msgpack-numpy writes scalars with nd false."""
    scalar = {b"nd": False, b"type": "<f4", b"data": bytes(4)}
    assert refusal(request_of({"name": "x", "data": scalar})).code == "malformed"


# keys as bytes


def test_keys_may_be_bytes() -> None:
    """Packers that know one kind of string write the map's keys, and the names in it, as bin."""
    values = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    inner = {b"name": b"x", b"datatype": b"FP32", b"shape": [1, 2, 3], b"data": values.tobytes()}
    request = decode({b"inputs": [inner], b"id": "job", b"later": 1})
    assert request.id == "job"
    assert (only_array(request, WIDE) == values).all()


@pytest.mark.parametrize("key", [1, None, True, 1.5, (), (1, 2), b"\xff"])
def test_other_keys_are_refused(key: Any) -> None:
    assert refusal({"inputs": [{"name": "x", key: 1}]}).code == "malformed"
    assert refusal({key: 1, "inputs": []}).code in ("malformed", "missing_input")


def test_bf16_lists_are_rounded_like_the_hardware_does() -> None:
    """To the nearest BF16, not cut off."""
    model = model_of(spec("x", "BF16", (-1, 1)))
    (number,) = only_array(decode(request_of(listed([1.00781], [1, 1], "BF16")), model), model).ravel()
    assert number == ml_dtypes.bfloat16(1.0078125)
