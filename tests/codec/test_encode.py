"""Results and error answers, read back with msgpack alone."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.records import FakeRecord, FakeTicket, floats, model_of, request_bytes, spec
from worker.codec.decode import RequestDecoder
from worker.codec.encode import ResultEncoder
from worker.records import Headers, Request
from worker.sections import LimitSettings
from worker.tensors import DATATYPES, ModelSpec, Shape

OUTPUT = spec("y", "FP32", (-1, 2))
MODEL = model_of(spec("x"), outputs=(OUTPUT,))


def request_for(headers: Headers | None = None, **fields: Any) -> Request:
    record = FakeRecord(request_bytes(floats((1, 2)), **fields), partition=1, offset=8, headers=headers, key=b"k")
    return RequestDecoder(MODEL, LimitSettings(), max_rows=64).decode(FakeTicket(record), 0.0)


def sent(headers: Headers) -> list[tuple[str, bytes | None]]:
    """As Kafka carries them: a str is its UTF-8."""
    return [(name, value.encode() if isinstance(value, str) else value) for name, value in headers]


def part(array: NDArray[Any]) -> tuple[Shape, memoryview]:
    return array.shape, memoryview(array.tobytes())


def result_of(request: Request, *arrays: NDArray[Any], model: ModelSpec = MODEL) -> tuple[Any, Headers]:
    ((value, headers),) = ResultEncoder(model).results([request], [[part(array) for array in arrays]])
    return msgpack.unpackb(value), headers


def test_a_result_has_exactly_the_keys_of_the_wire_format() -> None:
    answer, _ = result_of(request_for(id="a"), floats((1.5, 2.5)))
    assert answer == {
        "model_name": "digits",
        "model_version": "3",
        "id": "a",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": floats((1.5, 2.5)).tobytes()}],
    }


def test_a_result_without_an_id_carries_the_source() -> None:
    assert result_of(request_for(), floats((1, 2)))[0]["id"] == "requests/1/8"


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_leaves_bit_for_bit(datatype: str) -> None:
    """data is bin, little-endian, len == prod(shape) * itemsize."""
    values = np.array([[0, 1, 1]]).astype(DATATYPES[datatype])
    model = model_of(spec("x"), outputs=(spec("y", datatype, (-1, 3)),))
    (output,) = result_of(request_for(), values, model=model)[0]["outputs"]
    assert output == {"name": "y", "datatype": datatype, "shape": [1, 3], "data": values.tobytes()}
    assert isinstance(output["data"], bytes)


def test_outputs_keep_the_models_order() -> None:
    model = model_of(spec("x"), outputs=(spec("z"), spec("a"), spec("m")))
    outputs = result_of(request_for(), floats((1, 1)), floats((2, 2)), floats((3, 3)), model=model)[0]["outputs"]
    assert [(output["name"], output["data"][:4]) for output in outputs] == [
        ("z", np.float32(1).tobytes()),
        ("a", np.float32(2).tobytes()),
        ("m", np.float32(3).tobytes()),
    ]


def test_the_result_does_not_hold_on_to_the_lanes_memory() -> None:
    """The lane is released, and written again, as soon as the result is encoded."""
    memory = floats((1, 2))
    parts = [[(memory.shape, memory.reshape(-1).view(np.uint8).data)]]
    ((value, _),) = ResultEncoder(MODEL).results([request_for()], parts)
    memory[:] = 9
    assert msgpack.unpackb(value)["outputs"][0]["data"] == floats((1, 2)).tobytes()


def test_empty_outputs_are_sent_as_empty_data() -> None:
    (output,) = result_of(request_for(), np.zeros((1, 0), np.float32))[0]["outputs"]
    assert (output["shape"], output["data"]) == ([1, 0], b"")


def test_headers_are_carried_over_and_ours_added() -> None:
    """In their order, repeated ones and empty ones too; traceparent and ce_* pass through untouched."""
    own: Headers = [("traceparent", b"00-ab"), ("ce_id", b"\xff"), ("twice", b"1"), ("twice", b"2"), ("none", None)]
    for _, headers in (result_of(request_for(own), floats((1, 2))), error_answer(headers=own)):
        assert headers[:5] == own
        assert dict(sent(headers)[5:]) == {"trt-worker-source": b"requests/1/8", "trt-worker-engine": b"0123456789ab"}


def test_our_headers_are_replaced_not_repeated() -> None:
    """A chain of workers: what the one before wrote speaks of its own input."""
    old: Headers = [("trt-worker-source", b"other/0/1"), ("a", b"b"), ("trt-worker-engine", b"old")]
    _, headers = result_of(request_for(old), floats((1, 2)))
    assert sent(headers) == [
        ("a", b"b"),
        ("trt-worker-source", b"requests/1/8"),
        ("trt-worker-engine", b"0123456789ab"),
    ]
    assert old[0] == ("trt-worker-source", b"other/0/1")


def test_a_record_without_headers_gets_ours_alone() -> None:
    _, headers = result_of(request_for(), floats((1, 2)))
    assert [name for name, _ in headers] == ["trt-worker-source", "trt-worker-engine"]


def error_answer(
    request_id: str | None = "a", message: str = "why", headers: Headers | None = None
) -> tuple[Any, Headers]:
    record = FakeRecord(None, partition=1, offset=8, headers=headers)
    value, answer_headers = ResultEncoder(MODEL).error(record, request_id, "malformed", message)
    return msgpack.unpackb(value), answer_headers


def test_an_error_answer_has_exactly_the_keys_of_the_wire_format() -> None:
    answer, _ = error_answer()
    assert answer == {
        "model_name": "digits",
        "model_version": "3",
        "id": "a",
        "error": {"code": "malformed", "message": "why"},
    }


def test_an_error_answer_without_an_id_carries_the_source() -> None:
    assert error_answer(None)[0]["id"] == "requests/1/8"
    assert error_answer("")[0]["id"] == ""


def test_a_long_message_is_cut() -> None:
    """The producer sent a 4 MB name; the answer must not quote it whole."""
    assert error_answer(message="é" * 100_000)[0]["error"]["message"] == "é" * 1000
