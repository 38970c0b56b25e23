"""Outputs -> record value and headers."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from worker.codec.wire import WireError, WireErrorDetail, WireOutput, WireResult
from worker.records import Headers, Record, Request, source_of
from worker.tensors import ModelSpec, Shape

SOURCE_HEADER = "trt-worker-source"
ENGINE_HEADER = "trt-worker-engine"
OURS = frozenset((SOURCE_HEADER, ENGINE_HEADER))
MAX_MESSAGE_CHARS = 1000

Part = tuple[Shape, memoryview]  # one output of one request: its shape and its bytes


class ResultEncoder:
    """Encodes results and error answers of one model."""

    def __init__(self, model: ModelSpec) -> None:
        self._name, self._version = model.name, model.version
        self._engine: tuple[str, bytes] = (ENGINE_HEADER, model.tag.encode())
        self._outputs = [(spec.name, spec.datatype) for spec in model.outputs]
        self._encode = msgspec.msgpack.Encoder().encode

    def result(self, request: Request, parts: Sequence[Part]) -> tuple[bytes, Headers]:
        """A request's result.

        Args:
            request: what was asked.
            parts: one per model output, in the model's order; copied before this returns.
        """
        outputs = [
            WireOutput(name, datatype, shape, data)
            for (name, datatype), (shape, data) in zip(self._outputs, parts, strict=True)
        ]
        value = self._encode(WireResult(self._name, self._version, request.id, outputs))
        return value, self._headers(request.ticket.record)

    def error(self, record: Record, request_id: str | None, code: str, message: str) -> tuple[bytes, Headers]:
        """An error answer; without an id of its own it carries the record's source."""
        identity = request_id if request_id is not None else source_of(record)
        detail = WireErrorDetail(code, message[:MAX_MESSAGE_CHARS])
        value = self._encode(WireError(self._name, self._version, identity, detail))
        return value, self._headers(record)

    def _headers(self, record: Record) -> Headers:
        """The record's own headers, and where it came from and what answered it."""
        added: Headers = [(SOURCE_HEADER, source_of(record)), self._engine]
        carried = record.headers()
        if not carried:
            return added
        return [header for header in carried if header[0] not in OURS] + added
