"""Outputs -> record value and headers. The layout of the bytes is msgpack's; wire.py has the error answer as a type."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from worker.codec.wire import WireError, WireErrorDetail
from worker.records import Headers, Record, Request, source_of
from worker.tensors import ModelSpec, Shape

SOURCE_HEADER = "trt-worker-source"
ENGINE_HEADER = "trt-worker-engine"
OURS = frozenset((SOURCE_HEADER, ENGINE_HEADER))
MAX_MESSAGE_CHARS = 1000
REMEMBERED = 4096  # distinct shapes of an output

Part = tuple[Shape, memoryview]  # one output of one request: its shape and its bytes


class ResultEncoder:
    """Encodes results and error answers of one model.

    What stands between a result's id and its data is the same for every result of one shape, so it is encoded once.
    """

    def __init__(self, model: ModelSpec) -> None:
        self._name, self._version = model.name, model.version
        self._engine: tuple[str, bytes] = (ENGINE_HEADER, model.tag.encode())
        self._encode = encode = msgspec.msgpack.Encoder().encode
        self._outputs = model.outputs
        self._start = b"\x84" + b"".join(  # a map of four: model_name, model_version, id, outputs
            map(encode, ("model_name", model.name, "model_version", model.version, "id"))
        )
        self._before: list[dict[Shape, bytes]] = [{} for _ in model.outputs]  # shape -> what stands before the data

    def results(self, requests: Sequence[Request], parts: Sequence[Sequence[Part]]) -> list[tuple[bytes, Headers]]:
        """The results of a batch's requests.

        Args:
            requests: what was asked.
            parts: per request one part per model output, in the model's order; copied before this returns.
        """
        start, encode, engine, first, join = self._start, self._encode, self._engine, self._before[0], b"".join
        encoded: list[tuple[bytes, Headers]] = []
        last: Shape | None = None
        before = b""
        for request, of_request in zip(requests, parts, strict=True):
            shape, data = of_request[0]
            if shape is not last:
                before, last = first.get(shape) or self._learn(0, shape, len(data)), shape
            if len(of_request) == 1:
                value = join((start, encode(request.id), before, data))
            else:
                value = join((start, encode(request.id), before, data, *self._others(of_request)))
            ticket = request.ticket
            record = ticket.record
            headers: Headers = [(SOURCE_HEADER, ticket.source_prefix + str(record.offset())), engine]
            if carried := record.headers():
                headers = [header for header in carried if header[0] not in OURS] + headers
            encoded.append((value, headers))
        return encoded

    def _others(self, of_request: Sequence[Part]) -> Iterator[bytes | memoryview]:
        """All outputs but the first."""
        for place, (shape, data) in enumerate(of_request[1:], start=1):
            yield self._before[place].get(shape) or self._learn(place, shape, len(data))
            yield data

    def _learn(self, place: int, shape: Shape, size: int) -> bytes:
        """What stands before the data of one output of this shape, its length included."""
        spec = self._outputs[place]
        fields = ("name", spec.name, "datatype", spec.datatype, "shape", shape, "data")
        before = (
            b"\x84" + b"".join(map(self._encode, fields)) + b"\xc6" + size.to_bytes(4, "big")
        )  # a map of four, bin 32
        if place == 0:
            before = self._encode("outputs") + b"\xdc" + len(self._outputs).to_bytes(2, "big") + before  # array 16
        if len(self._before[place]) >= REMEMBERED:
            self._before[place].clear()
        self._before[place][shape] = before
        return before

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
