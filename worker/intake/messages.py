"""What goes over the socket between an intake process and the engine process: one message a packet.

intake -> engine    O shapes              how is a seat laid out for rows of these shapes?
                    R seat rows shapes    run the batch in this seat
engine -> intake    L rows offsets        the answer to O; inputs start at these offsets of every seat
                    N text                the answer to O: the engine cannot run these shapes
                    D seat …  outputs     the batch is done; its outputs lie there in its seat
                    F seat text           the batch failed

D and F also say whether batches wait for a lane.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from worker.tensors import Shape

MAX_BYTES = 1 << 16  # of a packet
MAX_TEXT_BYTES = 8000
STAGES = ("h2d", "compute", "d2h")
RUN = struct.Struct("<cHI")
DONE = struct.Struct("<cH?I3d")
FAILED = struct.Struct("<cH?")
NOT_MEASURED = -1.0

Extent = tuple[int, Shape]  # (offset in the seat, whole shape)


class Done(NamedTuple):
    """A batch that has ended well."""

    seat: int
    is_queueing: bool  # other batches wait for a lane
    padded_rows: int
    stage_seconds: Mapping[str, float]
    extents: bytes  # of its outputs; see unpack_extents()


def pack_shapes(row_shapes: Sequence[Shape]) -> bytes:
    numbers = [number for shape in row_shapes for number in (len(shape), *shape)]
    return struct.pack(f"<{len(numbers)}q", *numbers)


def unpack_shapes(data: bytes) -> tuple[Shape, ...]:
    numbers = struct.unpack(f"<{len(data) // 8}q", data)
    shapes, place = [], 0
    while place < len(numbers):
        rank = numbers[place]
        shapes.append(numbers[place + 1 : place + 1 + rank])
        place += 1 + rank
    return tuple(shapes)


def pack_extents(extents: Sequence[Extent]) -> bytes:
    return pack_shapes([(offset, *shape) for offset, shape in extents])


def unpack_extents(data: bytes) -> list[Extent]:
    return [(numbers[0], numbers[1:]) for numbers in unpack_shapes(data)]


def ask_layout(shapes: bytes) -> bytes:
    return b"O" + shapes


def layout(rows: int, offsets: Sequence[int]) -> bytes:
    return struct.pack(f"<c{1 + len(offsets)}q", b"L", rows, *offsets)


def read_layout(packet: bytes) -> tuple[int, tuple[int, ...]]:
    """(most rows, offset of each input)."""
    _, rows, *offsets = struct.unpack(f"<c{(len(packet) - 1) // 8}q", packet)
    return rows, tuple(offsets)


def no_layout(text: str) -> bytes:
    return b"N" + _bytes_of(text)


def run(seat: int, rows: int, shapes: bytes) -> bytes:
    return RUN.pack(b"R", seat, rows) + shapes


def read_run(packet: bytes) -> tuple[int, int, bytes]:
    """(seat, rows, shapes)."""
    _, seat, rows = RUN.unpack_from(packet)
    return seat, rows, packet[RUN.size :]


def done(told: Done) -> bytes:
    times = [told.stage_seconds.get(stage, NOT_MEASURED) for stage in STAGES]
    return DONE.pack(b"D", told.seat, told.is_queueing, told.padded_rows, *times) + told.extents


def read_done(packet: bytes) -> Done:
    _, seat, is_queueing, padded_rows, *times = DONE.unpack_from(packet)
    measured = {stage: seconds for stage, seconds in zip(STAGES, times, strict=True) if seconds >= 0}
    return Done(seat, is_queueing, padded_rows, measured, packet[DONE.size :])


def failed(seat: int, is_queueing: bool, text: str) -> bytes:
    return FAILED.pack(b"F", seat, is_queueing) + _bytes_of(text)


def read_failed(packet: bytes) -> tuple[int, bool, str]:
    """(seat, whether other batches wait for a lane, why)."""
    _, seat, is_queueing = FAILED.unpack_from(packet)
    return seat, is_queueing, text_of(packet[FAILED.size :])


def text_of(data: bytes) -> str:
    return data.decode(errors="replace")


def _bytes_of(text: str) -> bytes:
    return text.encode(errors="replace")[:MAX_TEXT_BYTES]
