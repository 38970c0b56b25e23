"""Whatever a record holds, decoding it ends in a request or in a RecordError."""

from __future__ import annotations

import struct
from typing import Any

import msgpack
import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.codec.decoding import taken_in
from tests.records import FakeRecord, FakeTicket, floats, model_of, packed, request_of, spec, tensor
from worker.codec.decode import RequestDecoder
from worker.codec.encode import ResultEncoder
from worker.errors import RecordError
from worker.records import Headers
from worker.sections import LimitSettings
from worker.tensors import DATATYPES, ModelSpec

MODELS = [
    model_of(spec("x")),
    model_of(spec("x", "INT64", (-1, -1), ("batch", "sequence")), spec("y", "BF16", (-1, -1), ("batch", "sequence"))),
    model_of(spec("x", "UINT8", (-1,))),
]
DECODERS = [RequestDecoder(model, LimitSettings(), max_rows=8) for model in MODELS]
GOOD = [
    packed(request_of(tensor("x", floats((1, 2), (3, 4))), id="job-1", parameters={"expires_at_ms": 4e12})),
    packed(request_of({"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [[1, 2]]}, id="job-1")),
    packed({b"inputs": [{b"nd": True, b"type": ">f4", b"kind": b"", b"shape": [1, 2], b"data": bytes(8)}], b"id": "a"}),
    packed(
        request_of(
            tensor("x", np.zeros((1, 3), np.int64)),
            {"name": "y", "datatype": "BF16", "shape": [1, 3], "data": bytes(6)},
        )
    ),
    packed(request_of(tensor("x", np.arange(4, dtype=np.uint8)))),
]

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # other tests run beside it


def holds(value: bytes | None, headers: Headers | None = None) -> None:
    """The rule itself, and that what comes out is fit to be used."""
    record = FakeRecord(value, headers=headers)
    for decoder, model in zip(DECODERS, MODELS, strict=True):
        try:
            request = taken_in(decoder, FakeTicket(record))
        except RecordError as refusal:
            error = refusal
        else:
            assert is_sound(request.shape.rows, request.shape.row_shapes, request.buffers, model)
            assert len(request.id) <= 256
            assert request.expires_at_ms is None or request.expires_at_ms > 0
            continue
        assert error.request_id is None or len(error.request_id) <= 256
        answer, _ = ResultEncoder(model).error(record, error.request_id, error.code, str(error))
        assert len(answer) < 8192
        assert msgpack.unpackb(answer)["error"]["code"] == error.code


def is_sound(rows: int, row_shapes: Any, buffers: Any, model: ModelSpec) -> bool:
    """Every input can be read as the array that the request says it is."""
    for input_spec, row_shape, buffer in zip(model.inputs, row_shapes, buffers, strict=True):
        array = np.frombuffer(buffer, input_spec.dtype).reshape(rows, *row_shape)
        if not 1 <= rows <= 8 or array.ndim != len(input_spec.shape) or array.size == 0:
            return False
    return True


@unhurried
@given(st.binary(max_size=200))
@example(b"\xdf\xff\xff\xff\xff")
@example(b"\x81\xa2id\xd6\xff\x00\x00\x00\x00")
def test_arbitrary_bytes(value: bytes) -> None:
    holds(value)


@settings(unhurried, max_examples=300)
@given(
    st.sampled_from(GOOD),
    st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=6), st.integers(0, 4)), min_size=1, max_size=4),
)
def test_good_requests_with_bytes_changed_inserted_and_cut_out(
    value: bytes, edits: list[tuple[int, bytes, int]]
) -> None:
    for place, inserted, removed in edits:
        start = place % (len(value) + 1)
        value = value[:start] + inserted + value[start + removed :]
    holds(value)


@unhurried
@given(st.sampled_from(GOOD), st.integers(0, 400))
def test_good_requests_cut_short(value: bytes, length: int) -> None:
    holds(value[:length])


NUMBERS = st.one_of(
    st.integers(-(2**63), 2**64 - 1), st.floats(), st.sampled_from([0, 1, -1, 2**31, 2**32, 2**63, 2**64 - 1])
)
SCALARS = st.one_of(
    st.none(), st.booleans(), NUMBERS, st.text(max_size=8), st.binary(max_size=16),
    st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=12)),
    st.builds(msgpack.Timestamp, st.integers(-(2**63), 2**63 - 1), st.integers(0, 10**9 - 1)),
)  # fmt: skip
WORDS = st.sampled_from(
    ["id", "inputs", "parameters", "name", "datatype", "shape", "data", "nd", "type", "kind", "expires_at_ms", "x", "y"]
)
KEYS = st.one_of(WORDS, WORDS.map(str.encode), st.integers(-2, 2), st.floats(), st.binary(max_size=3), st.none())
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def or_anything(*likely: Any) -> st.SearchStrategy[Any]:
    return st.one_of(*(st.just(value) for value in likely), *(st.just(value) for value in likely), ANYTHING)


TENSORS = st.fixed_dictionaries(
    {},
    optional={
        "name": or_anything("x", "y", b"x"),
        "datatype": or_anything(*DATATYPES, b"FP32"),
        "shape": or_anything([1, 2], [2, 2], [1, 1], [4], [0, 2], [2**63, 2**63], [1] * 9),
        "data": or_anything(bytes(8), bytes(16), [1, 2], [[1, 2]], [[1.5], [2]], [True, False], []),
        "nd": or_anything(True, False),
        "type": or_anything("<f4", ">f4", b"<i8", "|u1", "|O", "|V8", "<f16"),
        "kind": or_anything(b"", b"O", b"V"),
    },
)
REQUESTS = st.fixed_dictionaries(
    {"inputs": st.one_of(st.lists(TENSORS | ANYTHING, max_size=3), ANYTHING)},
    optional={
        "id": or_anything("job", "a" * 300),
        "parameters": or_anything({"expires_at_ms": 4e12}, {"expires_at_ms": 0}, {"expires_at_ms": float("nan")}),
        "other": ANYTHING,
    },
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["expires_at_ms", "other"]),
        st.one_of(st.none(), st.binary(max_size=20), st.text(max_size=8), st.floats().map(str)),
    ),
    max_size=3,
)


@settings(unhurried, max_examples=400)
@given(REQUESTS | ANYTHING, HEADERS)
def test_structured_nonsense(content: Any, headers: Headers) -> None:
    """Right words in the wrong places."""
    holds(packed(content), headers)


CONTAINERS = st.sampled_from(
    [b"\x90", b"\x91", b"\x80", b"\x81", b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xde\x00\x01"]
)
HEADS = st.sampled_from([b"\xa6inputs", b"\xa2id", b"\xa4data", b"\xa5shape", b"\xc4\x02id", b"\xc6\xff\xff\xff\xff"])


@unhurried
@given(st.lists(CONTAINERS | HEADS | st.binary(max_size=3), max_size=12))
def test_containers_where_words_belong(pieces: list[bytes]) -> None:
    """Keys that are arrays, maps that are keys, lengths that nothing stands behind."""
    holds(b"".join(pieces))
    holds(b"\x81\xa6inputs\x91" + b"".join(pieces))


@unhurried
@given(st.integers(0, 2**32 - 1), st.sampled_from([0xDC, 0xDD, 0xDE, 0xDF, 0xC5, 0xC6, 0xDA, 0xDB, 0xC8, 0xC9]))
def test_lengths_that_lie(length: int, kind: int) -> None:
    wide = struct.pack(">BI", kind, length) if kind & 1 else struct.pack(">BH", kind, length & 0xFFFF)
    for before in (b"", b"\x81\xa6inputs", b"\x81\xa2id", b"\x82\xa6inputs\x90\xaaparameters"):
        holds(before + wide)
        holds(before + wide + b"\x01")
    for word in (b"shape", b"data", b"name"):
        holds(GOOD[0].replace(bytes([0xA0 | len(word)]) + word, bytes([0xA0 | len(word)]) + word + wide))
