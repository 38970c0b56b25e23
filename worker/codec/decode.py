"""Record -> Request: parse, validate, and leave the rows where they are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import isnan, nan

import msgspec

from worker.codec.loose import NOT_MSGPACK, LooseDecoder
from worker.codec.shapes import RequestShapes
from worker.codec.wire import WireRequest
from worker.errors import RecordError
from worker.records import Record, Request, Ticket, UnreadableHeaders, source_of
from worker.sections import LimitSettings
from worker.tensors import ModelSpec, RequestShape

EXPIRES_HEADER = "expires_at_ms"
MAX_ID_CHARS = 256
NO_REQUEST = WireRequest([])


class RequestDecoder:
    """Decodes and validates requests for one model."""

    def __init__(self, model: ModelSpec, limits: LimitSettings, *, max_rows: int) -> None:
        """Args:
        model: what the requests are for.
        limits: what one request may ask for.
        max_rows: rows of a full batch: the most that one request can bring.
        """
        self._max_bytes = limits.max_request_bytes
        self._ttl_ms = limits.request_ttl_ms
        self._shapes = RequestShapes(
            model.inputs, max_rows=min(max_rows, limits.max_rows_per_request or max_rows), max_rank=limits.max_rank
        )
        self._strict = msgspec.msgpack.Decoder(WireRequest).decode
        self._loose = LooseDecoder(
            only_input=model.inputs[0].name if len(model.inputs) == 1 else None,
            max_rank=limits.max_rank,
            max_numbers=limits.max_list_numbers,
        ).decode

    def decode_all(
        self, tickets: Sequence[Ticket], taken_s: float
    ) -> tuple[list[Request], list[tuple[Ticket, RecordError]], int]:
        """The requests of one intake, and what could not be decoded, each in order; see decode().

        Here the common record goes without a call of its own: typed, one tensor of a known form, no deadline.

        Returns:
            Requests, refusals, and the bytes of all keys and values, which stay in memory as long as their tickets.
        """
        held_bytes = 0
        requests: list[Request] = []
        refused: list[tuple[Ticket, RecordError]] = []
        strict, of_one, max_bytes, has_ttl = (
            self._strict,
            self._shapes.of_one,
            self._max_bytes,
            self._ttl_ms is not None,
        )
        for ticket in tickets:
            record = ticket.record
            value = record.value()
            held_bytes += len(value or b"") + len(record.key() or b"")
            if value is not None and len(value) <= max_bytes and not has_ttl and not record.headers():
                try:
                    wire = strict(value)
                except NOT_MSGPACK:
                    wire = NO_REQUEST
                if len(wire.inputs) == 1 and wire.parameters is None:
                    tensor, identity = wire.inputs[0], wire.id
                    data = tensor.data
                    shape = of_one.get((tensor.name, tensor.datatype, tensor.shape))
                    if shape is not None and len(data) == shape.total_bytes:
                        if identity is None:
                            identity = source_of(record)
                        if len(identity) <= MAX_ID_CHARS:
                            requests.append(Request(ticket, taken_s, identity, shape, (data,), None))
                            continue
            try:
                requests.append(self.decode(ticket, taken_s))
            except RecordError as error:
                refused.append((ticket, error))
        return requests, refused, held_bytes

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
        if isinstance(record, UnreadableHeaders):
            raise RecordError("malformed", "the name of one of the record's headers is not UTF-8")
        value = record.value()
        if value is None:
            raise RecordError("malformed", "the record has no value (a tombstone)")
        if len(value) > self._max_bytes:
            raise RecordError("too_large", f"the value has {len(value)} bytes; the limit is {self._max_bytes}")
        try:
            wire = self._strict(value)
        except NOT_MSGPACK:
            wire = self._decode_loosely(value)
        try:
            tensors = wire.inputs
            shape, order = self._shapes.find(tuple([(each.name, each.datatype, each.shape) for each in tensors]))
            buffers = [tensors[place].data for place in order]
            if tuple(map(len, buffers)) != shape.input_bytes:
                raise self._wrong_length(wire, shape)
            expires_at_ms = None
            if wire.parameters is not None or self._ttl_ms is not None or record.headers():
                expires_at_ms = self._expiry(record, wire)
            identity = wire.id
            if identity is None:
                identity = source_of(record)
            elif len(identity) > MAX_ID_CHARS:
                raise RecordError("malformed", f"the id has {len(identity)} characters; the limit is {MAX_ID_CHARS}")
        except RecordError as error:
            error.request_id = wire.id
            _drop_long_id(error)
            raise
        return Request(ticket, taken_s, identity, shape, buffers, expires_at_ms)

    def _decode_loosely(self, value: bytes) -> WireRequest:
        """One of the forms that the typed decoder does not know, perhaps."""
        try:
            return self._loose(value)
        except RecordError as error:
            _drop_long_id(error)
            raise
        except NOT_MSGPACK as error:
            raise RecordError("malformed", f"the value is not a request in msgpack: {str(error)[:300]}") from error

    def _wrong_length(self, wire: WireRequest, shape: RequestShape) -> RecordError:
        told = ", ".join(f"{tensor.name!r} has {len(tensor.data)} bytes" for tensor in wire.inputs)
        return RecordError(
            "wrong_shape", f"input {told}; shape and datatype take {list(shape.input_bytes)} in the model's order"
        )

    def _expiry(self, record: Record, wire: WireRequest) -> float | None:
        """Unix ms after which nobody waits for the answer: the earliest of header, parameter and setting.

        Raises:
            RecordError: that is past already.
        """
        limits: list[float] = []
        if wire.parameters is not None and wire.parameters.expires_at_ms is not None:
            limits.append(wire.parameters.expires_at_ms)
            if isnan(limits[0]):
                raise RecordError("malformed", f"parameter {EXPIRES_HEADER} is {limits[0]}, not Unix ms")
        for name, value in record.headers() or ():
            if name == EXPIRES_HEADER and value is not None:
                try:
                    limits.append(float(value))
                except ValueError:
                    limits.append(nan)
                if isnan(limits[-1]):
                    raise RecordError("malformed", f"header {EXPIRES_HEADER} is {value[:40]!r}, not Unix ms")
        if self._ttl_ms is not None:
            kind, created_ms = record.timestamp()
            if kind:
                limits.append(created_ms + self._ttl_ms)
        if not limits:
            return None
        expires_at_ms = min(limits)
        if expires_at_ms <= time.time() * 1000:
            raise RecordError("expired", f"the request expired at {expires_at_ms:.0f} ms and was not run")
        return expires_at_ms


def _drop_long_id(error: RecordError) -> None:
    """An id above the limit must not come back as a large answer."""
    if error.request_id is not None and len(error.request_id) > MAX_ID_CHARS:
        error.request_id = None
