"""Requests as any producer may write them, with msgpack alone, against the typed decoder."""

from __future__ import annotations

import time
from typing import Any

import ml_dtypes
import msgpack
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.records import FakeRecord, FakeTicket, floats, model_of, packed, request_bytes, request_of, spec, tensor
from worker.codec.decode import RequestDecoder
from worker.codec.shapes import REMEMBERED, RequestShapes
from worker.errors import RecordError
from worker.records import Headers, Request
from worker.sections import LimitSettings
from worker.tensors import DATATYPES, ModelSpec

ONE_INPUT = model_of(spec("x"))
TWO_INPUTS = model_of(spec("image", "UINT8", (-1, 3)), spec("scale", "FP32", (-1, 1)))
GOOD = tensor("x", floats((1, 2)))


def decode(
    value: bytes | None,
    model: ModelSpec = ONE_INPUT,
    *,
    headers: Headers | None = None,
    created_ms: int | None = None,
    max_rows: int = 64,
    **limits: Any,
) -> Request:
    record = FakeRecord(value, partition=2, offset=41, headers=headers, created_ms=created_ms)
    return RequestDecoder(model, LimitSettings(**limits), max_rows=max_rows).decode(FakeTicket(record), 12.5)


def refusal(value: bytes | None, model: ModelSpec = ONE_INPUT, **options: Any) -> RecordError:
    with pytest.raises(RecordError) as caught:
        decode(value, model, **options)
    return caught.value


def arrays_of(request: Request, model: ModelSpec) -> list[NDArray[Any]]:
    return [
        np.frombuffer(buffer, input_spec.dtype).reshape(request.shape.rows, *row_shape)
        for buffer, input_spec, row_shape in zip(request.buffers, model.inputs, request.shape.row_shapes, strict=True)
    ]


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_arrives_bit_for_bit(datatype: str) -> None:
    """C order, little-endian, len == prod(shape) * itemsize."""
    values = np.array([[0, 1, 1], [1, 0, 1]]).astype(DATATYPES[datatype])
    model = model_of(spec("x", datatype, (-1, 3)))
    request = decode(request_bytes(values), model)
    (array,) = arrays_of(request, model)
    assert array.tobytes() == values.tobytes()
    assert (request.shape.rows, request.shape.row_shapes) == (2, ((3,),))
    assert request.shape.total_bytes == values.nbytes


def test_bf16_travels_as_its_two_bytes() -> None:
    """BF16 is the upper half of an FP32: 1.0 is 0x3f80, little-endian."""
    model = model_of(spec("x", "BF16", (-1, 1)))
    request = decode(packed(request_of({"name": "x", "datatype": "BF16", "shape": [1, 1], "data": b"\x80\x3f"})), model)
    assert arrays_of(request, model)[0].astype(np.float32).tolist() == [[1.0]]
    assert arrays_of(request, model)[0].dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize("is_reversed", [False, True])
def test_inputs_come_in_any_order(is_reversed: bool) -> None:
    """The request's order is the producer's; the buffers' order is the model's."""
    image, scale = np.array([[1, 2, 3], [4, 5, 6]], np.uint8), floats((0.5,), (0.25,))
    tensors = [tensor("image", image), tensor("scale", scale)]
    request = decode(packed(request_of(*(reversed(tensors) if is_reversed else tensors))), TWO_INPUTS)
    assert [array.tolist() for array in arrays_of(request, TWO_INPUTS)] == [image.tolist(), scale.tolist()]
    assert list(request.shape.input_bytes) == [6, 8]


def test_unknown_keys_are_ignored_at_every_level() -> None:
    """Also where they hold what the wire format has no use for."""
    odd = {"extra": [1, {"deep": None}], "more": b"bytes", "ext": msgpack.ExtType(5, b"?")}
    value = packed(request_of({**GOOD, **odd}, id="a", parameters={"priority": 3, **odd}, **odd))
    assert decode(value).id == "a"


def test_equal_forms_share_one_shape_object() -> None:
    """Batching hashes shapes by identity."""
    decoder = RequestDecoder(ONE_INPUT, LimitSettings(), max_rows=64)
    value = request_bytes(floats((1, 2), (3, 4)))
    shapes = {decoder.decode(FakeTicket(FakeRecord(value)), 0.0).shape for _ in range(3)}
    assert len(shapes) == 1


def test_buffers_are_views_of_the_records_value() -> None:
    """Nothing is copied before the rows go into the lane."""
    value = request_bytes(floats((1, 2)))
    (buffer,) = decode(value).buffers
    assert buffer.obj is value
    assert buffer.readonly


def test_the_request_knows_its_ticket_and_when_it_was_taken() -> None:
    request = decode(request_bytes(floats((1, 2))))
    assert request.ticket.record.offset() == 41
    assert request.taken_s == 12.5


# ids


def test_an_absent_id_becomes_the_records_source() -> None:
    """Absent -> topic/partition/offset; nil counts as absent."""
    assert decode(request_bytes(floats((1, 2)))).id == "requests/2/41"
    assert decode(request_bytes(floats((1, 2)), id=None)).id == "requests/2/41"


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


# the error codes


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


def test_the_memory_of_known_shapes_stays_bounded() -> None:
    """A producer that sends ever new shapes must not fill the worker's memory."""
    shapes = RequestShapes([spec("x", "FP32", (-1, -1))], max_rows=64, max_rank=8)
    for length in range(1, 3 * REMEMBERED):
        shapes.find((("x", "FP32", (1, length)),))
    assert len(shapes._checked) <= REMEMBERED
    shape, order = shapes.find((("x", "FP32", (2, 7)),))
    assert (shape.rows, shape.row_shapes, order) == (2, ((7,),), (0,))


# expiry


def in_ms(seconds: float) -> float:
    return (time.time() + seconds) * 1000


@pytest.mark.parametrize("kind", [str, float, int])
def test_an_expired_parameter_is_answered_expired(kind: type) -> None:
    moment = in_ms(-1)
    if kind is str:
        headers: Headers = [("expires_at_ms", str(int(moment)).encode())]
        error = refusal(request_bytes(floats((1, 2)), id="a"), headers=headers)
    else:
        error = refusal(request_bytes(floats((1, 2)), id="a", parameters={"expires_at_ms": kind(moment)}))
    assert (error.code, error.request_id) == ("expired", "a")


def test_a_request_that_is_still_wanted_is_decoded() -> None:
    later = in_ms(60)
    assert decode(request_bytes(floats((1, 2)), parameters={"expires_at_ms": later})).expires_at_ms == later
    header: Headers = [("other", b"1"), ("expires_at_ms", b"4102444800000"), ("expires_at_ms", None)]
    assert decode(request_bytes(floats((1, 2))), headers=header).expires_at_ms == 4102444800000
    assert decode(request_bytes(floats((1, 2)))).expires_at_ms is None


def test_the_earliest_of_header_parameter_and_setting_counts() -> None:
    soon, late = in_ms(30), in_ms(60)
    both = request_bytes(floats((1, 2)), parameters={"expires_at_ms": late})
    assert decode(both, headers=[("expires_at_ms", str(soon).encode())]).expires_at_ms == soon
    now_ms = int(in_ms(0))
    assert decode(both, created_ms=now_ms, request_ttl_ms=10_000).expires_at_ms == now_ms + 10_000


def test_a_record_older_than_the_ttl_has_expired() -> None:
    """request_ttl_ms counts from the record's timestamp; a record without one has no age."""
    value = request_bytes(floats((1, 2)), id="a")
    error = refusal(value, created_ms=int(in_ms(-20)), request_ttl_ms=10_000)
    assert (error.code, error.request_id) == ("expired", "a")
    assert decode(value, request_ttl_ms=1).expires_at_ms is None


@pytest.mark.parametrize("text", [b"soon", b"", b"\xff\xfe", b"1e", "später"])
def test_an_unreadable_expiry_header_is_malformed(text: bytes | str) -> None:
    error = refusal(request_bytes(floats((1, 2)), id="a"), headers=[("expires_at_ms", text)])
    assert (error.code, error.request_id) == ("malformed", "a")
    assert "expires_at_ms" in str(error)


@pytest.mark.parametrize("headers", [[], [("expires_at_ms", b"nan")], [("expires_at_ms", b"4e12")]])
def test_a_nan_expiry_lets_nothing_through(headers: Headers) -> None:
    """nan compares false with everything: as a limit it would switch off the others."""
    value = request_bytes(floats((1, 2)), parameters={"expires_at_ms": float("nan")})
    stale, codes = int(in_ms(-3600)), ("malformed", "expired")
    assert refusal(value, headers=headers).code in codes
    assert refusal(value, headers=headers, created_ms=stale, request_ttl_ms=1000).code in codes
    if headers:
        assert refusal(request_bytes(floats((1, 2))), headers=[("expires_at_ms", b"nan"), *headers]).code in codes


def test_infinite_expiries_are_ordered_like_any_other() -> None:
    never = request_bytes(floats((1, 2)), parameters={"expires_at_ms": float("inf")})
    assert decode(never).shape.rows == 1
    always = request_bytes(floats((1, 2)), parameters={"expires_at_ms": float("-inf")})
    assert refusal(always).code == "expired"
