"""The engine process's side: batches of all intake processes, in order of arrival, on the lanes that are free."""

from __future__ import annotations

import logging
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from worker.errors import BatchError
from worker.intake import messages
from worker.intake.memory import SeatMemory
from worker.last_words import hung
from worker.tensors import Shape

log = logging.getLogger(__name__)

ALL_BUSY_S = 0.001  # while no lane is free, only the end of a batch matters
SOME_FREE_S = 0.0001  # the backend's wait does not see the packets that come meanwhile
REMEMBERED = 4096  # distinct row shapes


class HostLane(Protocol):
    """What is asked of a lane beside protocols.Lane, whose methods these are but for sit()."""

    @property
    def padded_rows(self) -> int: ...

    @property
    def stage_seconds(self) -> Any: ...

    def sit(self, memory: NDArray[np.uint8]) -> None:
        """Have the next batch's inputs and outputs in this memory instead of the lane's own; before open()."""

    def open(self, row_shapes: Sequence[Shape]) -> tuple[int, list[memoryview]]: ...

    def launch(self, rows: int) -> None: ...

    def outputs(self) -> list[NDArray[Any]]: ...

    def release(self) -> None: ...


class Host(Protocol):
    """What is asked of the backend beside protocols.Backend: its batches may lie in memory of others."""

    @property
    def seat_bytes(self) -> int:
        """Memory that any one batch needs, inputs and outputs."""

    def pinned(self, memory: NDArray[np.uint8]) -> AbstractContextManager[object]:
        """Make memory usable by lanes; all that any of them is to sit on lies in memory that is pinned.

        Raises:
            GpuError: it cannot be had.
        """

    def lay_out(self, row_shapes: Sequence[Shape]) -> tuple[int, list[int]]:
        """Most rows of these shapes, and where each input starts in the memory that a lane sits on.

        Raises:
            BatchError: the engine cannot run these shapes at all.
        """

    @property
    def lane_count(self) -> int: ...

    def acquire(self) -> Any: ...  # a HostLane, or None

    def finished(self, timeout_s: float) -> Sequence[Any]: ...


@dataclass(eq=False)
class Client:
    """One intake process as the server sees it."""

    index: int
    channel: socket.socket
    seats: list[NDArray[np.uint8]]
    addresses: list[int] = field(init=False)
    is_gone: bool = False

    def __post_init__(self) -> None:
        self.addresses = [seat.ctypes.data for seat in self.seats]


@dataclass(frozen=True, slots=True)
class Job:
    """A batch that waits for a lane, or runs."""

    client: Client
    seat: int
    rows: int
    row_shapes: tuple[Shape, ...]


class EngineServer:
    """Runs what the intake processes have filled. One thread calls it, the backend's own."""

    def __init__(self, host: Host, lane_timeout_s: float) -> None:
        """Args:
        host: the backend.
        lane_timeout_s: a batch that runs for longer ends the process.
        """
        self._host = host
        self._lane_timeout_s = lane_timeout_s
        self._poll = select.epoll()
        self._clients: dict[int, Client] = {}  # by file descriptor
        self._waiting: deque[Job] = deque()
        self._running: dict[Any, tuple[Job, float]] = {}  # lane -> job, since when; oldest first
        self._row_shapes: dict[bytes, tuple[Shape, ...]] = {}

    def add(self, index: int, channel: socket.socket, memory: SeatMemory) -> Client:
        """Serve a new intake process; its channel is owned from here on. Nobody else uses its seats (is_clear)."""
        channel.setblocking(False)
        client = Client(index, channel, [memory.seat(number) for number in range(memory.seats)])
        self._clients[channel.fileno()] = client
        self._poll.register(channel, select.EPOLLIN)
        return client

    def drop(self, client: Client) -> None:
        """Hang up; what waits is forgotten, what runs goes on for nothing."""
        client.is_gone = True
        self._waiting = deque(job for job in self._waiting if job.client is not client)
        if client.channel.fileno() in self._clients:
            self._poll.unregister(client.channel)
            del self._clients[client.channel.fileno()]
            client.channel.close()

    def is_clear(self, index: int) -> bool:
        """Whether nothing runs in the seats of this intake process."""
        return all(job.client.index != index for job, _ in self._running.values())

    @property
    def running(self) -> int:
        return len(self._running)

    def step(self, timeout_s: float) -> None:
        """Take what has come, launch what there are lanes for, report what has ended.

        Waits up to timeout_s for a packet where nothing runs.

        Raises:
            FatalError: the backend is unusable.
        """
        self._listen(0.0 if self._running else timeout_s)
        self._launch()
        if self._running:
            self._finish(ALL_BUSY_S if len(self._running) == self._host.lane_count else SOME_FREE_S)

    def close(self) -> None:
        """Hang up on everybody."""
        for client in list(self._clients.values()):
            self.drop(client)
        self._poll.close()

    def _listen(self, timeout_s: float) -> None:
        while events := self._poll.poll(timeout_s):
            timeout_s = 0.0
            for descriptor, _ in events:
                client = self._clients.get(descriptor)
                if client is not None:
                    self._hear(client)

    def _hear(self, client: Client) -> None:
        try:
            packet = client.channel.recv(messages.MAX_BYTES)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        match packet[:1]:
            case b"R":
                seat, rows, shapes = messages.read_run(packet)
                self._waiting.append(Job(client, seat, rows, self._shapes_of(shapes)))
            case b"O":
                self._send(client, self._layout(self._shapes_of(packet[1:])))
            case _:
                self.drop(client)

    def _layout(self, row_shapes: tuple[Shape, ...]) -> bytes:
        try:
            return messages.layout(*self._host.lay_out(row_shapes))
        except BatchError as error:
            return messages.no_layout(str(error))

    def _shapes_of(self, shapes: bytes) -> tuple[Shape, ...]:
        """The same object for the same shapes: lanes know it again."""
        row_shapes = self._row_shapes.get(shapes)
        if row_shapes is None:
            if len(self._row_shapes) >= REMEMBERED:
                self._row_shapes.clear()
            row_shapes = self._row_shapes[shapes] = messages.unpack_shapes(shapes)
        return row_shapes

    def _launch(self) -> None:
        while self._waiting and (lane := self._host.acquire()) is not None:
            job = self._waiting.popleft()
            lane.sit(job.client.seats[job.seat])
            try:
                lane.open(job.row_shapes)
            except BatchError as error:
                lane.release()
                self._send(job.client, messages.failed(job.seat, bool(self._waiting), str(error)))
                continue
            lane.launch(job.rows)
            self._running[lane] = (job, time.monotonic())

    def _finish(self, timeout_s: float) -> None:
        for lane in self._host.finished(timeout_s):
            job, _ = self._running.pop(lane)
            packet = self._outcome(lane, job)
            lane.release()
            self._send(job.client, packet)
        if self._running:
            _, since_s = next(iter(self._running.values()))
            if time.monotonic() - since_s > self._lane_timeout_s:
                raise hung(self._lane_timeout_s)

    def _outcome(self, lane: HostLane, job: Job) -> bytes:
        start, is_queueing = job.client.addresses[job.seat], bool(self._waiting)
        try:
            extents = [(_address(array) - start, array.shape) for array in lane.outputs()]
        except BatchError as error:
            return messages.failed(job.seat, is_queueing, str(error))
        outputs = messages.pack_extents(extents)
        return messages.done(messages.Done(job.seat, is_queueing, lane.padded_rows, lane.stage_seconds, outputs))

    def _send(self, client: Client, packet: bytes) -> None:
        if client.is_gone:
            return
        try:
            client.channel.send(packet)
        except OSError as error:  # dead, or not reading: there is room for more answers than it has seats
            log.warning("intake process %d does not listen: %s", client.index, error)
            self.drop(client)


def _address(array: NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
