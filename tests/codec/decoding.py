"""Decoding one record's value, and how it is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.records import FakeRecord, FakeTicket, floats, model_of, spec, tensor
from worker.codec.decode import RequestDecoder
from worker.errors import RecordError
from worker.records import Headers, Request
from worker.sections import LimitSettings
from worker.tensors import ModelSpec

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
    return taken_in(RequestDecoder(model, LimitSettings(**limits), max_rows=max_rows), FakeTicket(record))


def taken_in(decoder: RequestDecoder, ticket: FakeTicket) -> Request:
    """Decode as an intake does: the first record of its form, one of a known form, and one by itself come out alike."""
    outcomes = []
    for _ in range(2):
        requests, refused, _ = decoder.decode_all([ticket], 12.5)
        assert len(requests) + len(refused) == 1
        outcomes.append(told(requests[0]) if requests else told(refused[0][1]))
    last: Request | RecordError
    try:
        last = decoder.decode(ticket, 12.5)
    except RecordError as error:
        last = error
    assert outcomes == [told(last)] * 2
    if isinstance(last, RecordError):
        raise last
    return last


def told(outcome: Request | RecordError) -> tuple[Any, ...]:
    """All that tells an outcome from another."""
    if isinstance(outcome, RecordError):
        return outcome.code, str(outcome), outcome.request_id
    buffers = [bytes(buffer) for buffer in outcome.buffers]
    return outcome.id, outcome.taken_s, id(outcome.shape), buffers, outcome.expires_at_ms


def refusal(value: bytes | None, model: ModelSpec = ONE_INPUT, **options: Any) -> RecordError:
    with pytest.raises(RecordError) as caught:
        decode(value, model, **options)
    return caught.value


def arrays_of(request: Request, model: ModelSpec) -> list[NDArray[Any]]:
    return [
        np.frombuffer(buffer, input_spec.dtype).reshape(request.shape.rows, *row_shape)
        for buffer, input_spec, row_shape in zip(request.buffers, model.inputs, request.shape.row_shapes, strict=True)
    ]
