"""What a dead letter carries besides the original key, value and headers."""

from __future__ import annotations

from worker.records import Headers, Record, source_of

CODE_HEADER = "trt-worker-error-code"
MESSAGE_HEADER = "trt-worker-error-message"
SOURCE_HEADER = "trt-worker-source"
OMITTED_HEADER = "trt-worker-value-omitted"  # bytes of a value that the dead-letter topic would not take
STREAMS_PREFIX = "__streams.errors."  # Kafka Streams' dead-letter headers (KIP-1034)
OURS = frozenset((CODE_HEADER, MESSAGE_HEADER, SOURCE_HEADER, OMITTED_HEADER))

OF_ANSWERS = frozenset((SOURCE_HEADER, "trt-worker-engine"))  # what codec/encode adds to a result or an error answer


def is_ours(name: str) -> bool:
    """Whether a header was added by dead-lettering, so that a replay leaves it out."""
    return name in OURS or name.startswith(STREAMS_PREFIX)


def headers_of(record: Record, code: str, message: str, *, with_own: bool = True) -> Headers:
    """Headers of the record's dead letter: its own, then why and where from; values are UTF-8."""
    own = [header for header in record.headers() or () if with_own and not is_ours(header[0])]
    return [
        *own,
        (CODE_HEADER, code),
        (MESSAGE_HEADER, message),
        (SOURCE_HEADER, source_of(record)),
        (STREAMS_PREFIX + "topic", record.topic()),
        (STREAMS_PREFIX + "partition", str(record.partition())),
        (STREAMS_PREFIX + "offset", str(record.offset())),
        (STREAMS_PREFIX + "exception", f"worker.errors.RecordError[{code}]"),
        (STREAMS_PREFIX + "message", message),
    ]
