"""What the worker sees of a Kafka record, and of the request inside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from worker.tensors import RequestShape

Headers = list[tuple[str, bytes | str | None]]


class Record(Protocol):
    """A Kafka message; confluent_kafka.Message is one."""

    def topic(self) -> str: ...
    def partition(self) -> int: ...
    def offset(self) -> int: ...
    def key(self) -> bytes | None: ...
    def value(self) -> bytes | None: ...
    def headers(self) -> Headers | None: ...
    def timestamp(self) -> tuple[int, int]: ...  # (kind, Unix ms); kind 0: the record has none


class Ticket(Protocol):
    """A record taken in, and its place in the ledger."""

    @property
    def record(self) -> Record: ...

    @property
    def source_prefix(self) -> str:
        """ "topic/partition/", to be followed by the offset."""


def source_of(record: Record) -> str:
    """ "topic/partition/offset": the record's place, and its id where the producer gave none."""
    return f"{record.topic()}/{record.partition()}/{record.offset()}"


class Request(msgspec.Struct, eq=False, gc=False):  # one is made for every record: half the time of a class with slots
    """A validated request: its rows as raw bytes, still inside the record's value."""

    ticket: Ticket
    taken_s: float  # monotonic clock, when the record was taken in
    id: str
    shape: RequestShape
    buffers: Sequence[memoryview]  # one per model input, C order, little-endian, exactly shape.input_bytes long
    expires_at_ms: float | None  # Unix ms
