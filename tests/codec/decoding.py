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
