"""A record whose headers cannot be read is refused, and nobody looks at them a second time."""

from __future__ import annotations

import pytest

from tests.codec.decoding import ONE_INPUT, decode
from tests.records import FakeRecord, floats, request_bytes
from worker.codec.decode import RequestDecoder
from worker.codec.encode import ResultEncoder
from worker.errors import RecordError
from worker.kafka import dead_letter
from worker.kafka.ledger import PartitionLedger, Reports
from worker.records import Headers, UnreadableHeaders
from worker.sections import LimitSettings

VALUE = request_bytes(floats((1, 2)))


class Broken(FakeRecord):
    """As confluent_kafka's: the first look fails; after a second one the process would be gone."""

    looks = 0

    def headers(self) -> Headers | None:
        self.looks += 1
        assert self.looks == 1
        raise SystemError("returned a result with an exception set")


def test_it_is_refused_before_anything_else_is_looked_at() -> None:
    (entry,) = PartitionLedger("requests", 2, Reports()).admit([Broken(VALUE, partition=2, offset=7, key=b"k")])
    decoder = RequestDecoder(ONE_INPUT, LimitSettings(), max_rows=4)
    for _ in range(2):
        requests, ((refused, error),), _ = decoder.decode_all([entry], 0.0)
        assert (requests, refused, error.code) == ([], entry, "malformed")
        assert "not UTF-8" in str(error)
    with pytest.raises(RecordError, match="not UTF-8"):
        decoder.decode(entry, 0.0)


def test_a_record_like_it_with_headers_that_can_be_read_is_served() -> None:
    assert decode(VALUE, headers=[("a", b"\xff")]).shape.rows == 1


def test_its_error_answer_and_its_dead_letter_say_that_headers_are_missing() -> None:
    (entry,) = PartitionLedger("requests", 2, Reports()).admit([Broken(VALUE, partition=2, offset=7, key=b"k")])
    record = entry.record
    _, headers = ResultEncoder(ONE_INPUT).error(record, None, "malformed", "why")
    letter = dead_letter.headers_of(record, "malformed", "why")
    assert headers[:1] == letter[:1] == UnreadableHeaders.OMITTED
    assert dict(letter)["trt-worker-source"] == "requests/2/7"
    assert (record.value(), record.key(), record.timestamp()) == (VALUE, b"k", (0, 0))
