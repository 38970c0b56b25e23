"""Seats in shared memory: whose batch runs when, who gets which answer, and what happens when one side is gone."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tests.intake.hosts import COLUMNS, FAILING, MODEL, REFUSED, ManualHost, write_odd
from worker.cpu.backend import CpuBackend
from worker.errors import BatchError, ConfigError, GpuError
from worker.intake.backend import EngineGone, SeatBackend, SeatLane
from worker.intake.memory import PAGE, SeatMemory, create
from worker.intake.server import Client, EngineServer

ROOT = Path(__file__).parent.parent.parent
ROW = ((COLUMNS,),)


class Side:
    """A seat backend in this process, and the server's view on it."""

    def __init__(self, server: EngineServer, index: int, seats: int, lanes: int = 1) -> None:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.memory = create("test", seats, ManualHost.seat_bytes)
        self.client: Client = server.add(index, ours, self.memory)
        self.backend = SeatBackend(its, self.memory, MODEL, {"gpu": "none"}, lanes, answer_timeout_s=5.0)
        self._server = server

    def launch(self, value: float, rows: int = 2) -> SeatLane:
        seat = self.backend.acquire()
        assert seat is not None
        (view,) = self.open(seat)
        view[: rows * COLUMNS * 4] = np.full((rows, COLUMNS), value, np.float32).tobytes()
        seat.launch(rows)
        return seat

    def open(self, seat: SeatLane, row_shapes: tuple[tuple[int, ...], ...] = ROW) -> list[memoryview]:
        """The server answers while the seat waits: both live in this thread, so the question is sent beforehand."""
        send, poll = self.backend._send, self.backend._poll

        def send_and_step(packet: bytes) -> None:
            send(packet)
            if packet[:1] == b"O":
                self._server.step(1.0)

        self.backend._send = send_and_step  # type: ignore[method-assign]
        try:
            return seat.open(row_shapes)[1]
        finally:
            self.backend._send, self.backend._poll = send, poll  # type: ignore[method-assign]


MakeSide = Callable[..., Side]


@pytest.fixture
def host() -> ManualHost:
    return ManualHost(1)


@pytest.fixture
def server(host: ManualHost) -> Iterator[EngineServer]:
    served = EngineServer(host, lane_timeout_s=5.0)
    yield served
    served.close()


@pytest.fixture
def side(server: EngineServer) -> Iterator[MakeSide]:
    with ExitStack() as stack:

        def make(index: int = 0, seats: int = 3, lanes: int = 1) -> Side:
            made = Side(server, index, seats, lanes)
            stack.callback(made.memory.close)
            stack.callback(made.backend.close)
            return made

        yield make


def answer_of(lane: SeatLane) -> list[float]:
    (y,) = lane.outputs()
    return [float(value) for value in y[:, 0]]


@pytest.mark.timeout(90)
def test_ten_thousand_batches_of_three_processes_each_get_their_own_answer(tmp_path: Path) -> None:
    """Payloads that differ from batch to batch, in seats that are used again and again, on two lanes for all."""
    batches, seats = 3_334, 3
    backend = CpuBackend(
        write_odd(tmp_path / "odd.onnx"), name="odd", version="1", lanes=2, max_rows=8, max_bytes=1 << 12
    )
    server = EngineServer(backend, lane_timeout_s=30.0)
    users, memories = [], []
    for index in range(3):
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        memory = create(f"test-{index}", seats, backend.seat_bytes)
        arguments = [its.fileno(), memory.fd, seats, memory.seat_bytes, 100_000 * index, batches]
        with its:
            users.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.intake.seat_user", *map(str, arguments)],
                    cwd=ROOT,
                    pass_fds=(its.fileno(), memory.fd),
                    stderr=subprocess.PIPE,
                )
            )
        server.add(index, ours, memory)
        memories.append(memory)
    while any(user.poll() is None for user in users):
        server.step(0.05)
    said = [user.communicate()[1].decode() for user in users]
    server.close()
    backend.close()
    for memory in memories:
        memory.close()
    assert [user.returncode for user in users] == [0, 0, 0], said


def test_it_is_saturated_while_batches_queue_and_its_share_of_the_lanes_is_at_work(
    host: ManualHost, server: EngineServer, side: MakeSide
) -> None:
    """One lane for two processes: whether batches wait for it is told with the end of each of them."""
    ours, other = side(0), side(1)

    def is_saturated() -> bool:
        return ours.backend.is_saturated

    def end_one() -> None:
        host.end()
        server.step(0.0)
        ours.backend.finished(0.1)

    ours.launch(1.0)
    other.launch(2.0)
    other.launch(3.0)
    server.step(0.0)
    assert not is_saturated()  # nothing was told yet
    ours.launch(4.0)
    server.step(0.0)
    end_one()
    assert is_saturated()
    server.step(0.0)
    end_one()
    server.step(0.0)
    end_one()
    server.step(0.0)
    assert is_saturated()  # its last one runs
    end_one()
    assert not is_saturated()
    ours.launch(5.0)
    assert not is_saturated()  # nobody waits any more


def test_batches_run_in_order_of_arrival_whoever_they_are_of(
    host: ManualHost, server: EngineServer, side: MakeSide
) -> None:
    """One lane, two processes: a process with many seats does not go before one with few."""
    greedy, modest = side(0, seats=3), side(1, seats=1)
    for value in (1.0, 2.0):
        greedy.launch(value)
        server.step(0.0)
    modest.launch(3.0)
    server.step(0.0)
    greedy.launch(4.0)
    order = []
    for _ in range(4):
        server.step(0.0)
        order.append(float(host.running[0].inputs[0, 0]))
        host.end()
        server.step(0.0)
    assert order == [1.0, 2.0, 3.0, 4.0]


def test_an_answer_comes_with_its_padding_and_times(host: ManualHost, server: EngineServer, side: MakeSide) -> None:
    """What the metrics of the intake process are made of."""
    one = side()
    lane = one.launch(5.0, rows=3)
    server.step(0.0)
    assert one.backend.finished(0.0) == []
    host.end()
    server.step(0.0)
    assert one.backend.finished(1.0) == [lane]
    assert answer_of(lane) == [11.0, 11.0, 11.0]
    assert (lane.padded_rows, dict(lane.stage_seconds)) == (3, {"compute": 0.25})
    assert one.backend.busy_lanes == 1
    assert one.backend.busy_seconds > 0
    lane.release()
    assert one.backend.busy_lanes == 0


def test_a_batch_that_fails_fails_alone(host: ManualHost, server: EngineServer, side: MakeSide) -> None:
    """Its seat tells why, and is good for the next batch."""
    one = side()
    bad, good = one.launch(FAILING), one.launch(1.0)
    for _ in range(2):
        server.step(0.0)
        host.end()
        server.step(0.0)
    assert set(one.backend.finished(1.0)) == {bad, good}
    with pytest.raises(BatchError, match="scripted failure"):
        bad.outputs()
    assert answer_of(good) == [3.0, 3.0]
    bad.release()
    good.release()
    again = [one.launch(7.0), one.launch(8.0), one.launch(9.0)]
    for _ in again:
        server.step(0.0)
        host.end()
        server.step(0.0)
    assert [answer_of(lane) for lane in one.backend.finished(1.0)] == [[15.0, 15.0], [17.0, 17.0], [19.0, 19.0]]


def test_shapes_that_the_engine_cannot_run_are_refused_and_remembered(server: EngineServer, side: MakeSide) -> None:
    """open() raises, the first time after asking and then without."""
    one = side()
    lane = one.backend.acquire()
    assert lane is not None
    with pytest.raises(BatchError, match="no profile"):
        one.open(lane, REFUSED)
    with pytest.raises(BatchError, match="no profile"):  # nobody steps the server now
        lane.open(REFUSED)
    lane.release()


def test_what_a_dead_process_left_is_forgotten_and_its_seats_wait_for_the_running_batch(
    host: ManualHost, server: EngineServer, side: MakeSide
) -> None:
    """The device may still be writing there: a successor in the same seats must not start before that is over."""
    dying, other = side(0), side(1)
    dying.launch(1.0)
    dying.launch(2.0)
    server.step(0.0)
    dying.backend.close()
    server.step(0.0)
    assert not server.is_clear(0)
    lane = other.launch(3.0)
    host.end()
    server.step(0.0)
    assert server.is_clear(0)
    server.step(0.0)
    assert float(host.running[0].inputs[0, 0]) == 3.0, "the dead one's second batch ran"
    host.end()
    server.step(0.0)
    assert other.backend.finished(1.0) == [lane]


def test_without_the_engine_process_the_backend_says_so(server: EngineServer, side: MakeSide) -> None:
    """Whether a batch runs or not: the pipeline asks at every step."""
    one = side()
    one.launch(1.0)
    server.drop(one.client)
    with pytest.raises(EngineGone):
        one.backend.finished(0.0)
    with pytest.raises(EngineGone):
        one.backend.finished(1.0)


def test_a_batch_that_does_not_come_back_ends_the_engine_process(
    host: ManualHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a worker of one process; other processes' batches would wait for ever."""
    monkeypatch.setattr("worker.intake.server.hung", lambda after_s: GpuError(f"hung for {after_s}"))
    server = EngineServer(host, lane_timeout_s=0.05)
    one = Side(server, 0, 1)
    one.launch(1.0)
    server.step(0.0)
    time.sleep(0.06)
    with pytest.raises(GpuError, match="hung"):
        server.step(0.0)
    one.backend.close()
    one.memory.close()
    server.close()


def test_an_idle_server_sleeps(server: EngineServer, side: MakeSide) -> None:
    """Until a packet comes, and then it wakes at once."""
    one = side()
    one.launch(1.0)  # the layout is known now
    server.step(0.0)
    assert one.client.channel.fileno() in server._clients
    idle = EngineServer(ManualHost(1), 5.0)
    started_s, started_cpu_s = time.monotonic(), time.process_time()
    idle.step(0.2)
    assert time.monotonic() - started_s > 0.15
    assert time.process_time() - started_cpu_s < 0.1
    idle.close()


def test_seats_are_whole_pages_that_no_process_can_shrink() -> None:
    """A file that shrank under a mapping would end whoever touches it."""
    made = create("test", 2, 100)
    assert made.seat_bytes == PAGE
    made.seat(1)[:] = 7
    assert (made.seat(0) == 0).all()
    with pytest.raises(OSError, match="not permitted"):
        os.ftruncate(made.fd, 0)
    with pytest.raises(ValueError, match="were promised"):
        SeatMemory(made.fd, 3, PAGE)
    made.close()


def test_a_system_without_such_files_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(ConfigError, match="intake_processes"):
        create("test", 1, 1)


def test_no_seat_is_handed_out_twice(side: MakeSide) -> None:
    one = side(seats=2)
    first, second = one.backend.acquire(), one.backend.acquire()
    assert first is not None
    assert second is not None
    assert first is not second
    assert one.backend.acquire() is None
    assert not select.select([one.client.channel], [], [], 0)[0], "an idle seat costs no packet"
    first.release()
    assert one.backend.acquire() is first
