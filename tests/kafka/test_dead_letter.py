"""What a dead letter carries."""

from __future__ import annotations

from tests.records import FakeRecord
from worker.kafka.dead_letter import headers_of, is_ours
from worker.records import Headers


def as_bytes(headers: Headers) -> dict[str, bytes]:
    return {name: value.encode() if isinstance(value, str) else value or b"" for name, value in headers}


def record(headers: Headers | None = None) -> FakeRecord:
    return FakeRecord(b"junk", topic="requests", partition=3, offset=99, headers=headers)


def test_why_and_where_from_stand_in_the_headers() -> None:
    """The worker's own, and Kafka Streams' KIP-1034 ones, so that existing tools can read them."""
    assert as_bytes(headers_of(record(), "wrong_shape", "input 'x' …")) == {
        "trt-worker-error-code": b"wrong_shape",
        "trt-worker-error-message": "input 'x' …".encode(),
        "trt-worker-source": b"requests/3/99",
        "__streams.errors.topic": b"requests",
        "__streams.errors.partition": b"3",
        "__streams.errors.offset": b"99",
        "__streams.errors.exception": b"worker.errors.RecordError[wrong_shape]",
        "__streams.errors.message": "input 'x' …".encode(),
    }


def test_values_are_utf8_strings() -> None:
    """Numbers too: a reader in another language knows no other way."""
    assert all(isinstance(value, str) for _, value in headers_of(record(), "malformed", "ü"))


def test_the_records_own_headers_come_first_untouched() -> None:
    """In their order, repeated ones too."""
    own: Headers = [("traceparent", b"00-ab"), ("a", b"1"), ("a", b"\xff"), ("none", None)]
    assert headers_of(record(own), "malformed", "why")[:4] == own


def test_a_second_death_replaces_the_first_ones_headers() -> None:
    """A record that was sent back and died again tells of its last death alone."""
    first = headers_of(record([("a", b"1")]), "expired", "late")
    again = headers_of(record(first), "malformed", "why")
    names = [name for name, _ in again]
    assert len(names) == len(set(names))
    assert as_bytes(again)["trt-worker-error-code"] == b"malformed"
    assert as_bytes(again)["a"] == b"1"


def test_everything_that_dying_added_can_be_told_from_the_rest() -> None:
    """So that a replay sends the record as it was."""
    own: Headers = [("a", b"1"), ("trt-worker", b"2"), ("traceparent", b"3")]
    assert [header for header in headers_of(record(own), "malformed", "why") if not is_ours(header[0])] == own
    assert is_ours("trt-worker-value-omitted")
