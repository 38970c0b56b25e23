"""Small records that ask for much; run as a program, it decodes each and prints what that took, a JSON line each."""

from __future__ import annotations

import gc
import json
import resource
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.records import FakeRecord, FakeTicket, model_of, packed, request_of, spec
from worker.codec.decode import RequestDecoder
from worker.errors import RecordError
from worker.sections import LimitSettings

SIZE = LimitSettings().max_request_bytes - 128  # bytes of the filling; the whole record stays under the limit
ADDRESS_SPACE = 4 << 30  # bytes; what is declared and not sent must not even be asked for
HOLE = "\u2591HOLE\u2591"


def array(piece: bytes, count: int | None = None) -> bytes:
    """A msgpack array that is SIZE bytes of the same piece."""
    count = SIZE // len(piece) if count is None else count
    return b"\xdd" + struct.pack(">I", count) + piece * count


def with_hole(content: Any, filling: bytes) -> bytes:
    return packed(content).replace(packed(HOLE), filling)


def in_tensor(filling: bytes, **fields: Any) -> bytes:
    """The filling in one place of an otherwise good tensor."""
    return with_hole(
        request_of({"name": "x", "datatype": "FP32", "shape": [1, 2], "data": bytes(8), **fields}), filling
    )


def nested(filling: bytes, shape: list[int]) -> bytes:
    return in_tensor(filling, shape=shape, data=HOLE)


BILLIONS = b"\xff\xff\xff\xff"
CASES: dict[str, Callable[[], bytes]] = {
    "an array of 2^32-1 at the top": lambda: b"\xdd" + BILLIONS,
    "a map of 2^32-1 at the top": lambda: b"\xdf" + BILLIONS,
    "2^32-1 inputs": lambda: with_hole({"inputs": HOLE}, b"\xdd" + BILLIONS),
    "a shape of 2^32-1 lengths": lambda: in_tensor(b"\xdd" + BILLIONS, shape=HOLE),
    "a shape of 2^27 lengths": lambda: in_tensor(b"\xdd\x08\x00\x00\x00", shape=HOLE),
    "2^32-1 numbers": lambda: in_tensor(b"\xdd" + BILLIONS, data=HOLE),
    "2^32-1 bytes": lambda: in_tensor(b"\xc6" + BILLIONS, data=HOLE),
    "an id of 2^32-1 bytes": lambda: with_hole({"id": HOLE, "inputs": []}, b"\xdb" + BILLIONS),
    "an extension of 2^32-1 bytes": lambda: with_hole({"id": HOLE, "inputs": []}, b"\xc9" + BILLIONS + b"\x01"),
    "2^32-1 parameters": lambda: with_hole({"parameters": HOLE, "inputs": []}, b"\xdf" + BILLIONS),
    "a key that is an array of 2^32-1": lambda: b"\x81\xdd" + BILLIONS,
    "inputs that are empty maps": lambda: with_hole({"inputs": HOLE}, array(b"\x80")),
    "inputs that are empty arrays": lambda: with_hole({"inputs": HOLE}, array(b"\x90")),
    "inputs that are the smallest tensors": lambda: with_hole(
        {"inputs": HOLE}, array(packed({"name": "x", "datatype": "x", "shape": [1], "data": b""}))
    ),
    "a shape of ones": lambda: in_tensor(array(b"\x01"), shape=HOLE),
    "a shape of empty maps": lambda: in_tensor(array(b"\x80"), shape=HOLE),
    "a shape of 64-bit lengths": lambda: in_tensor(array(b"\xcf" + b"\xff" * 8), shape=HOLE),
    "a giant shape": lambda: in_tensor(b"\x92" + (b"\xcf" + b"\xff" * 8) * 2, shape=HOLE),
    "numbers of one byte": lambda: nested(array(b"\x01"), [1, SIZE]),
    "numbers of one byte behind a small shape": lambda: nested(array(b"\x01"), [1, 2]),
    "data of empty arrays": lambda: nested(array(b"\x90"), [SIZE, 1]),
    "data of empty arrays, as many as numbers may be": lambda: nested(array(b"\x90", 262_144), [262_144, 1]),
    "numbers nested one in a list": lambda: nested(array(b"\x91" * 6 + b"\x91\x01", 262_144), [262_144, *[1] * 7]),
    "data of empty maps": lambda: nested(array(b"\x80"), [1, 2]),
    "64 tensors of lists": lambda: with_hole(
        {"inputs": [HOLE] * 64},
        with_hole({"name": "x", "datatype": "FP64", "shape": [1, 65_000], "data": HOLE}, array(b"\x01", 65_000)),
    ),
    "a key that is an array of empty maps": lambda: b"\x81" + array(b"\x80") + b"\x01",
    "a key that is an array of empty arrays": lambda: b"\x81" + array(b"\x90") + b"\x01",
    "a key that is an array of small arrays": lambda: b"\x81" + array(b"\x91\x01") + b"\x01",
    "a key that is a map": lambda: b"\x81\xdf" + struct.pack(">I", SIZE // 2) + b"\x01\x80" * (SIZE // 2) + b"\x01",
    "a tensor's key that is an array": lambda: with_hole({"inputs": [HOLE]}, b"\x81" + array(b"\x91\x01") + b"\x01"),
    "an unknown key that holds empty maps": lambda: with_hole({"inputs": [], "more": HOLE}, array(b"\x80")),
    "parameters with unknown keys": lambda: with_hole(
        {"inputs": [], "parameters": HOLE}, b"\xdf" + struct.pack(">I", SIZE // 3) + b"\xa1a\x80" * (SIZE // 3)
    ),
    "arrays in arrays": lambda: b"\x91" * SIZE,
    "arrays in arrays in an unknown key": lambda: with_hole({"inputs": [], "more": HOLE}, b"\x91" * SIZE),
    "arrays in arrays as data": lambda: nested(b"\x91" * SIZE, [1, 2]),
    "arrays in arrays as inputs": lambda: with_hole({"inputs": HOLE}, b"\x91" * SIZE),
    "maps in maps": lambda: b"\x81\xa1a" * (SIZE // 3),
    "keys in keys": lambda: b"\x81" * SIZE,
    "an id of 4 MiB": lambda: packed({"id": "a" * SIZE, "inputs": []}),
    "an id of wide characters": lambda: packed({"id": "\U0001f600" + "a" * (SIZE - 4), "inputs": []}),
    "a name of 4 MiB": lambda: packed(request_of({"name": "n" * SIZE, "datatype": "FP32", "shape": [1], "data": b""})),
    "a numpy type of 4 MiB": lambda: packed(
        request_of({"nd": True, "type": "f" * SIZE, "shape": [1, 2], "data": bytes(8)})
    ),
    "a big-endian numpy array of 4 MiB": lambda: packed(
        request_of({"nd": True, "type": ">f2", "shape": [1, SIZE // 2], "data": bytes(SIZE)})
    ),
}  # fmt: skip


def peak_mib() -> float:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    decoder = RequestDecoder(model_of(spec("x", "FP32", (-1, -1))), LimitSettings(), max_rows=64)
    for name, make in CASES.items():
        ticket = FakeTicket(FakeRecord(make()))
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # start the peak again from here
        before_mib, start_s = peak_mib(), time.process_time()
        try:
            decoder.decode(ticket, 0.0)
            outcome = "decoded"
        except RecordError as error:
            outcome = error.code
        except BaseException as error:  # noqa: BLE001  # that nothing else comes is what is tested
            outcome = repr(error)[:200]
        took_s = time.process_time() - start_s
        size = len(ticket.record.value() or b"")
        line = {"case": name, "outcome": outcome, "mib": peak_mib() - before_mib, "cpu_s": took_s, "bytes": size}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
