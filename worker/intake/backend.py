"""The backend of an intake process: seats in shared memory, run by the engine process."""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.errors import BatchError, GpuError
from worker.intake import messages
from worker.intake.memory import SeatMemory
from worker.last_words import hung
from worker.tensors import ModelSpec, Shape

REMEMBERED = 1024  # distinct row shapes, and distinct outputs of a seat
NOTHING: Mapping[str, float] = {}


class Opening(NamedTuple):
    """How every seat is laid out for rows of certain shapes."""

    shapes: bytes  # as messages have them
    rows: int
    extents: Sequence[tuple[int, int]]  # first and last byte + 1 of each input


class SeatLane:
    """protocols.Lane: one seat."""

    def __init__(self, backend: SeatBackend, number: int, memory: NDArray[np.uint8]) -> None:
        self.number = number
        self.padded_rows = 0
        self.stage_seconds: Mapping[str, float] = NOTHING
        self.extents = b""  # of the finished batch's outputs
        self.failure: BatchError | None = None
        self.is_running = False
        self._backend = backend
        self._memory = memory
        self._opening: Opening | None = None
        self._views: dict[int, list[memoryview]] = {}  # by the opening's identity, which the backend keeps alive
        self._outputs: dict[bytes, list[NDArray[Any]]] = {}

    def open(self, row_shapes: Sequence[Shape]) -> tuple[int, list[memoryview]]:
        self._opening = opening = self._backend.opening(tuple(row_shapes))
        views = self._views.get(id(opening))
        if views is None:
            views = [self._memory[start:end].data for start, end in opening.extents]
            self._views[id(opening)] = views
        return opening.rows, views

    def launch(self, rows: int) -> None:
        if self._opening is None:
            raise RuntimeError("launch() of a seat that is not open")
        self.failure, self.stage_seconds, self.padded_rows = None, NOTHING, 0
        self._backend.start(self, rows, self._opening.shapes)

    def outputs(self) -> list[NDArray[Any]]:
        if self.failure is not None:
            raise self.failure
        arrays = self._outputs.get(self.extents)
        if arrays is None:
            if len(self._outputs) >= REMEMBERED:
                self._outputs.clear()
            arrays = self._outputs[self.extents] = [
                np.ndarray(shape, spec.dtype, self._memory.data, offset)
                for spec, (offset, shape) in zip(
                    self._backend.model.outputs, messages.unpack_extents(self.extents), strict=True
                )
            ]
        return arrays

    def release(self) -> None:
        self._backend.take_back(self)

    def forget(self) -> None:
        """The openings that the backend kept are gone."""
        self._views.clear()


class SeatBackend:
    """protocols.Backend over a socket. One thread calls it."""

    def __init__(
        self,
        channel: socket.socket,
        memory: SeatMemory,
        model: ModelSpec,
        labels: Mapping[str, str],
        lanes: int,
        answer_timeout_s: float,
    ) -> None:
        """Args:
        channel: packets to and from the engine process; owned from here on.
        memory: the seats.
        model: what the engine takes and gives.
        labels: of engine_info.
        lanes: this process's share of the engine's lanes.
        answer_timeout_s: how long the engine process may take to answer a question.
        """
        self.model = model
        self._channel = channel
        self._labels = dict(labels)
        self._lanes = lanes
        self._is_queueing = False  # batches, of whomever, waited for a lane when our last one ended
        self._answer_timeout_s = answer_timeout_s
        self._seats = [SeatLane(self, number, memory.seat(number)) for number in range(memory.seats)]
        self._free = deque(self._seats)
        self._openings: dict[tuple[Shape, ...], Opening | BatchError] = {}
        self._done: list[SeatLane] = []  # seen while waiting for something else
        self._running = 0
        self._busy_s = 0.0
        self._busy_since_s = 0.0
        self._poll = select.poll()
        self._poll.register(channel, select.POLLIN)

    @property
    def lane_count(self) -> int:
        return len(self._seats)

    @property
    def busy_lanes(self) -> int:
        return len(self._seats) - len(self._free)

    @property
    def busy_seconds(self) -> float:
        return self._busy_s + (time.monotonic() - self._busy_since_s if self._running else 0.0)

    @property
    def is_saturated(self) -> bool:
        """Seats are not lanes: while batches wait for a lane, one that is above our share of those would wait, too.

        Several processes fill their batches more slowly than one would; if each sent what it has after
        batching.max_delay_ms, a busy engine would run small batches, and remain busy with them.
        """
        return self._is_queueing and self._running >= self._lanes

    def acquire(self) -> SeatLane | None:
        return self._free.popleft() if self._free else None

    def opening(self, row_shapes: tuple[Shape, ...]) -> Opening:
        """How seats are laid out for such rows; asks the engine process once.

        Raises:
            BatchError: the engine cannot run them.
            GpuError: the engine process is gone (EngineGone), or does not answer.
        """
        known = self._openings.get(row_shapes)
        if known is None:
            if len(self._openings) >= REMEMBERED:
                self._openings.clear()
                for seat in self._seats:
                    seat.forget()
            known = self._openings[row_shapes] = self._ask(row_shapes)
        if isinstance(known, BatchError):
            raise known
        return known

    def start(self, seat: SeatLane, rows: int, shapes: bytes) -> None:
        """Have a seat's batch run; called by its launch()."""
        if not self._running:
            self._busy_since_s = time.monotonic()
        self._running += 1
        seat.is_running = True
        self._send(messages.run(seat.number, rows, shapes))

    def take_back(self, seat: SeatLane) -> None:
        """Called by the seat's release()."""
        deadline_s = time.monotonic() + self._answer_timeout_s
        while seat.is_running:  # nobody may write there before the engine process is done with it
            if time.monotonic() > deadline_s:
                raise hung(self._answer_timeout_s)
            self._receive(0.1)
        if seat in self._done:
            self._done.remove(seat)
        self._free.append(seat)

    def finished(self, timeout_s: float) -> Sequence[SeatLane]:
        if not self._done:
            self._receive(timeout_s if self._running else 0.0)
        done, self._done = self._done, []
        return done

    def describe(self) -> Mapping[str, str]:
        return self._labels

    def close(self) -> None:
        """Hang up: the engine process forgets what waits, and lets end what runs."""
        self._channel.close()

    def _ask(self, row_shapes: tuple[Shape, ...]) -> Opening | BatchError:
        shapes = messages.pack_shapes(row_shapes)
        self._send(messages.ask_layout(shapes))
        deadline_s = time.monotonic() + self._answer_timeout_s
        while time.monotonic() < deadline_s:
            answer = self._receive(0.1)
            if answer is None:
                continue
            if answer[:1] == b"N":
                return BatchError(messages.text_of(answer[1:]))
            rows, offsets = messages.read_layout(answer)
            sizes = [spec.row_bytes(shape) for spec, shape in zip(self.model.inputs, row_shapes, strict=True)]
            extents = [(offset, offset + rows * size) for offset, size in zip(offsets, sizes, strict=True)]
            return Opening(shapes, rows, extents)
        raise hung(self._answer_timeout_s)

    def _receive(self, timeout_s: float) -> bytes | None:
        """Take what has come, waiting up to timeout_s for the first packet; returns the answer to a question."""
        answer = None
        if timeout_s > 0.0:
            self._poll.poll(timeout_s * 1000)
        while True:
            try:
                packet = self._channel.recv(messages.MAX_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return answer
            except OSError as error:
                raise _gone() from error
            match packet[:1]:
                case b"D":
                    told = messages.read_done(packet)
                    seat = self._seats[told.seat]
                    self._is_queueing = told.is_queueing
                    seat.padded_rows, seat.stage_seconds, seat.extents = told[2:]
                    self._end(seat)
                case b"F":
                    number, self._is_queueing, text = messages.read_failed(packet)
                    seat = self._seats[number]
                    seat.failure = BatchError(text)
                    self._end(seat)
                case b"":
                    raise _gone()
                case _:
                    answer = packet

    def _end(self, seat: SeatLane) -> None:
        seat.is_running = False
        self._done.append(seat)
        self._running -= 1
        if not self._running:
            self._busy_s += time.monotonic() - self._busy_since_s

    def _send(self, packet: bytes) -> None:
        try:
            self._channel.send(packet)
        except OSError as error:
            raise _gone() from error


class EngineGone(GpuError):
    """There is nobody left to run batches, or to be told of that."""


def _gone() -> EngineGone:
    return EngineGone("the engine process is gone; nothing was committed for what it had")
