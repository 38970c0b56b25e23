"""Requests as any producer may write them, with msgpack alone, against the typed decoder."""

from __future__ import annotations

import ml_dtypes
import msgpack
import numpy as np
import pytest

from tests.codec.decoding import GOOD, ONE_INPUT, TWO_INPUTS, arrays_of, decode
from tests.records import FakeRecord, FakeTicket, floats, model_of, packed, request_bytes, request_of, spec, tensor
from worker.codec.decode import RequestDecoder
from worker.codec.shapes import REMEMBERED, RequestShapes
from worker.sections import LimitSettings
from worker.tensors import DATATYPES


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


def test_an_absent_id_becomes_the_records_source() -> None:
    """Absent -> topic/partition/offset; nil counts as absent."""
    assert decode(request_bytes(floats((1, 2)))).id == "requests/2/41"
    assert decode(request_bytes(floats((1, 2)), id=None)).id == "requests/2/41"


def test_the_memory_of_known_shapes_stays_bounded() -> None:
    """A producer that sends ever new shapes must not fill the worker's memory."""
    shapes = RequestShapes([spec("x", "FP32", (-1, -1))], max_rows=64, max_rank=8)
    for length in range(1, 3 * REMEMBERED):
        shapes.find((("x", "FP32", (1, length)),))
    assert len(shapes._checked) <= REMEMBERED
    shape, order = shapes.find((("x", "FP32", (2, 7)),))
    assert (shape.rows, shape.row_shapes, order) == (2, ((7,),), (0,))
