"""What the worker sees of a Kafka record, and of the request inside it."""

from __future__ import annotations

from collections.abc import Sequence
from operator import methodcaller
from typing import Protocol

import msgspec

from worker.tensors import RequestShape

Headers = list[tuple[str, bytes | str | None]]

_look_at_headers = methodcaller("headers")  # a plain call may not notice the error, and leave it to the next one


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


class UnreadableHeaders:
    """A record with a header that the client library cannot decode: another look at its headers ends the process.

    It is refused, and what is told of it carries OMITTED in their place.
    """

    OMITTED: Headers = [("trt-worker-headers-omitted", "a header's name is not UTF-8")]  # noqa: RUF012  # never changed

    def __init__(self, record: Record) -> None:
        self._record = record

    def topic(self) -> str:
        return self._record.topic()

    def partition(self) -> int:
        return self._record.partition()

    def offset(self) -> int:
        return self._record.offset()

    def key(self) -> bytes | None:
        return self._record.key()

    def value(self) -> bytes | None:
        return self._record.value()

    def headers(self) -> Headers:
        return self.OMITTED

    def timestamp(self) -> tuple[int, int]:
        return self._record.timestamp()

    def delivery_count(self) -> int | None:
        """Only a share group's record has it."""
        return self._record.delivery_count()  # type: ignore[attr-defined, no-any-return]


def readable(record: Record) -> Record:
    """The record, or what stands for it; to be asked once, before anybody looks at its headers."""
    try:
        _look_at_headers(record)
    except SystemError:  # of C code that returns a result and an error at once
        return UnreadableHeaders(record)
    return record


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
