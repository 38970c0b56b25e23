"""Record -> Request: parse, validate, and leave the rows where they are."""

from __future__ import annotations

import time

import msgspec

from worker.codec.loose import LooseDecoder
from worker.codec.shapes import RequestShapes
from worker.codec.wire import WireRequest
from worker.errors import RecordError
from worker.records import Record, Request, Ticket, source_of
from worker.sections import LimitSettings
from worker.tensors import ModelSpec

EXPIRES_HEADER = "expires_at_ms"
MAX_ID_CHARS = 256
NOT_MSGPACK = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class RequestDecoder:
    """Decodes and validates requests for one model."""

    def __init__(self, model: ModelSpec, limits: LimitSettings, *, max_rows: int) -> None:
        """Args:
        model: what the requests are for.
        limits: what one request may ask for.
        max_rows: rows of a full batch: the most that one request can bring.
        """
        self._limits = limits
        self._shapes = RequestShapes(
            model.inputs, max_rows=min(max_rows, limits.max_rows_per_request or max_rows), max_rank=limits.max_rank
        )
        self._strict = msgspec.msgpack.Decoder(WireRequest)
        self._loose = LooseDecoder(
            only_input=model.inputs[0].name if len(model.inputs) == 1 else None,
            max_rank=limits.max_rank,
            max_numbers=limits.max_list_numbers,
        )

    def decode(self, ticket: Ticket, taken_s: float) -> Request:
        """The validated request of a record.

        Args:
            ticket: the record and its place in the ledger.
            taken_s: monotonic time at which it was taken in.

        Returns:
            The request; its buffers are views into the record's value, which they keep alive.

        Raises:
            RecordError: it cannot be served; nothing else is ever raised for what a record holds.
        """
        record = ticket.record
        wire = self._parse(record.value())
        try:
            identity = wire.id
            if identity is None:
                identity = source_of(record)
            elif len(identity) > MAX_ID_CHARS:
                wire.id = None
                raise RecordError("malformed", f"the id has {len(identity)} characters; the limit is {MAX_ID_CHARS}")
            tensors = wire.inputs
            shape, order = self._shapes.find(tuple([(t.name, t.datatype, t.shape) for t in tensors]))
            buffers = [tensors[place].data for place in order]
            for buffer, size, place in zip(buffers, shape.input_bytes, order, strict=True):
                if len(buffer) != size:
                    raise RecordError(
                        "wrong_shape",
                        f"input {tensors[place].name!r} has {len(buffer)} bytes; its shape and datatype take {size}",
                    )
            expires_at_ms = self._expiry(record, wire)
            if expires_at_ms is not None and expires_at_ms <= time.time() * 1000:
                raise RecordError("expired", f"the request expired at {expires_at_ms:.0f} ms and was not run")
        except RecordError as error:
            error.request_id = wire.id
            raise
        return Request(ticket, taken_s, identity, shape, buffers, expires_at_ms)

    def _parse(self, value: bytes | None) -> WireRequest:
        if value is None:
            raise RecordError("malformed", "the record has no value (a tombstone)")
        if len(value) > self._limits.max_request_bytes:
            raise RecordError(
                "too_large", f"the value has {len(value)} bytes; the limit is {self._limits.max_request_bytes}"
            )
        try:
            return self._strict.decode(value)
        except NOT_MSGPACK:
            pass  # perhaps one of the forms that the typed decoder does not know
        try:
            return self._loose.decode(value)
        except NOT_MSGPACK as error:
            raise RecordError("malformed", f"the value is not a request in msgpack: {str(error)[:300]}") from error

    def _expiry(self, record: Record, wire: WireRequest) -> float | None:
        """Unix ms after which nobody waits for the answer; the earliest of header, parameter and setting."""
        limits: list[float] = []
        if wire.parameters is not None and wire.parameters.expires_at_ms is not None:
            limits.append(wire.parameters.expires_at_ms)
        for name, value in record.headers() or ():
            if name == EXPIRES_HEADER and value is not None:
                try:
                    limits.append(float(value))
                except ValueError as error:
                    raise RecordError("malformed", f"header {EXPIRES_HEADER} is {value[:40]!r}, not Unix ms") from error
        if self._limits.request_ttl_ms is not None:
            kind, created_ms = record.timestamp()
            if kind:
                limits.append(created_ms + self._limits.request_ttl_ms)
        return min(limits) if limits else None
