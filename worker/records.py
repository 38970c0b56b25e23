"""What the worker sees of a Kafka record, and of the request inside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

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


def source_of(record: Record) -> str:
    """ "topic/partition/offset": the record's place, and its id where the producer gave none."""
    return f"{record.topic()}/{record.partition()}/{record.offset()}"


class Request:
    """A validated request: its rows as raw bytes, still inside the record's value."""

    __slots__ = ("buffers", "expires_at_ms", "id", "shape", "taken_s", "ticket")

    def __init__(
        self,
        ticket: Ticket,
        taken_s: float,
        id: str,
        shape: RequestShape,
        buffers: Sequence[memoryview],
        expires_at_ms: float | None,
    ) -> None:
        self.ticket = ticket
        self.taken_s = taken_s  # monotonic clock, when the record was taken in
        self.id = id
        self.shape = shape
        self.buffers = buffers  # one per model input, C order, little-endian, exactly shape.input_bytes long
        self.expires_at_ms = expires_at_ms  # Unix ms
