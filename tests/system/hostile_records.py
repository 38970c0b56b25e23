"""What nobody should have sent: one entry a kind, each with the code that it must get."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack

from tests.system.traffic import COLUMNS, request
from worker.records import Headers

HUGE = b"\xc1" * 10_000_000  # one object, however many records have it
OBJECT_ARRAY = {b"nd": True, b"type": b"|O", b"kind": b"O", b"shape": [1], b"data": b"cos\nsystem\n(S'true'\ntR."}
ByHand = Callable[[str, str, int, bytes | None], None]  # (servers, topic, partition, value)


class Kind(NamedTuple):
    """A way to be wrong.

    Args:
        code: of the error.
        make: a record's value.
        most: so many records of it, where as many as of the others would be too many.
        by_hand: publishes it, where this client library would not; returns when it is in Kafka.
        letter_headers: what the dead letter of such a one carries of the record's own headers.
    """

    code: str
    make: Callable[[random.Random], bytes | None]
    most: int | None = None
    by_hand: ByHand | None = None
    letter_headers: Headers | None = None


def tensor(**changes: object) -> dict[str, object]:
    return {"name": "x", "datatype": "FP32", "shape": [1, COLUMNS], "data": b"\0" * 4 * COLUMNS, **changes}


def packed(content: Any) -> bytes:
    return bytes(msgpack.packb(content))


def asking(**changes: object) -> bytes:
    return packed({"id": "bad", "inputs": [tensor(**changes)]})


KINDS: dict[str, Kind] = {
    "truncated": Kind("malformed", lambda rng: request(1)[: rng.randrange(1, 500)]),
    "random bytes": Kind("malformed", lambda rng: b"\xc1" + rng.randbytes(200)),
    "empty": Kind("malformed", lambda _: b""),
    "null": Kind("malformed", lambda _: None),
    "no map": Kind("malformed", lambda _: packed([1, 2, 3])),
    "wrong types": Kind("malformed", lambda _: packed({"id": 7, "inputs": "x"})),
    "no inputs": Kind("malformed", lambda _: packed({"id": "bad"})),
    "deep nesting": Kind("malformed", lambda _: b"\x91" * 20_000 + b"\xc0"),
    "deep nesting under an unknown key": Kind(
        "malformed", lambda _: b"\x82\xa1z" + b"\x91" * 20_000 + b"\xc0\xa2id\xa1a"
    ),
    "declares 4 billion inputs": Kind("malformed", lambda _: b"\x81\xa6inputs\xdd\xff\xff\xff\xff"),
    "another input": Kind("unknown_input", lambda _: asking(name="y")),
    "no input": Kind("missing_input", lambda _: packed({"id": "bad", "inputs": []})),
    "another datatype": Kind("wrong_datatype", lambda _: asking(datatype="INT64")),
    "no datatype": Kind("wrong_datatype", lambda _: asking(datatype="STRING")),
    "a pickle": Kind("wrong_datatype", lambda _: asking(data=OBJECT_ARRAY)),
    "another shape": Kind("wrong_shape", lambda _: asking(shape=[1, COLUMNS + 1])),
    "a huge shape": Kind("wrong_shape", lambda _: asking(shape=[1 << 40, 1 << 40, 1 << 40])),
    "too many rows": Kind("too_large", lambda _: asking(shape=[1 << 40, COLUMNS])),
    "too little data": Kind("wrong_shape", lambda rng: asking(data=b"\0" * rng.randrange(4 * COLUMNS))),
    "10 MB of junk": Kind("too_large", lambda _: HUGE, most=40),
}


def mixture(rng: random.Random, count: int) -> list[str]:
    """Names of so many kinds, equally many of each but for those of which there are at most so many."""
    rare = [name for name, kind in KINDS.items() for _ in range(kind.most or 0)]
    usual = [name for name, kind in KINDS.items() if kind.most is None]
    names = [*rare, *(usual[number % len(usual)] for number in range(count - len(rare)))]
    rng.shuffle(names)
    return names
