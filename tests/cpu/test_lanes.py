"""Lanes at the same time: what runs on threads, what does not, and what ends first."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.cpu.batches import Open, fill, run, wait_for
from tests.cpu.models import FP32, INT64, ONNX_TYPES, graph, identity, node, save
from tests.records import floats
from worker.cpu.backend import CpuBackend, CpuLane
from worker.errors import BatchError

SLOW = 8_000  # rounds of the slow model: some 0.2 s of one core


def slow_model(path: Path, limit: int = 1 << 30) -> Path:
    """As slow as its largest number says, on one core: a loop of multiplications. It fails above the limit, at once."""
    flag, state = ("is_on", ONNX_TYPES["BOOL"], ()), ("state", FP32, (96, 96))
    body = graph(
        [node("MatMul", ["state", "matrix"], ["next"]), node("Identity", ["is_on"], ["still_on"])],
        [("round", INT64, ()), flag, state],
        [("still_on", *flag[1:]), ("next", *state[1:])],
    )
    return save(
        path,
        [
            node("ReduceMax", ["x"], ["most"], keepdims=0),
            node("Cast", ["most"], ["wanted"], to=INT64),
            node("Div", ["wanted", "limit_and_1"], ["place"]),  # 0, or past the end of the table of one entry
            node("Gather", ["table", "place"], ["none"]),
            node("Add", ["wanted", "none"], ["rounds"]),
            node("Loop", ["rounds", "", "matrix"], ["result"], body=body),
            node("ReduceSum", ["result"], ["sum"], keepdims=0),
            node("Mul", ["sum", "zero"], ["nothing"]),
            node("Add", ["x", "nothing"], ["y"]),
        ],
        [("x", FP32, ("rows", 1))],
        [("y", FP32, ("rows", 1))],
        {
            "matrix": np.full((96, 96), 1 / 96, np.float32),
            "zero": np.float32(0),
            "limit_and_1": np.int64(limit + 1),
            "table": np.array([0]),
        },
    )


def launch(backend: CpuBackend, *rounds: float) -> CpuLane:
    lane = backend.acquire()
    assert lane is not None
    fill(lane, backend, [np.array(rounds, np.float32).reshape(-1, 1)])
    lane.launch(len(rounds))
    return lane


def has_known_sizes(backend: CpuBackend, *sizes: Sequence[float]) -> None:
    """Run batches of these sizes once: the backend may look on while a size runs for the first time."""
    for rounds in sizes:
        run(backend, np.array(rounds, np.float32).reshape(-1, 1))


def test_lanes_run_in_parallel_and_finish_in_any_order(tmp_path: Path, open_backend: Open) -> None:
    """A long batch does not hold up a short one that was launched after it."""
    backend = open_backend(slow_model(tmp_path / "m.onnx"), lanes=2)
    has_known_sizes(backend, [SLOW], [2, 2])
    slow = launch(backend, 3 * SLOW)
    fast = launch(backend, 2, 2)
    assert backend.acquire() is None
    assert wait_for(backend) == [fast]
    assert fast.outputs()[0].tolist() == [[2], [2]]
    fast.release()
    again = launch(backend, 3, 3)
    assert wait_for(backend) == [again]
    again.release()
    assert wait_for(backend) == [slow]
    assert slow.outputs()[0].tolist() == [[3 * SLOW]]
    slow.release()
    assert backend.busy_lanes == 0


def test_launch_returns_at_once_and_finished_waits(tmp_path: Path, open_backend: Open) -> None:
    """finished() with no time returns without a lane while the batch runs."""
    backend = open_backend(slow_model(tmp_path / "m.onnx"), lanes=2)  # two lanes: one core each
    has_known_sizes(backend, [SLOW])
    busy_before_s, start_s = backend.busy_seconds, time.monotonic()
    lane = launch(backend, SLOW)
    assert list(backend.finished(0.0)) == []
    wait_for(backend)
    took_s = time.monotonic() - start_s
    assert took_s > lane.stage_seconds["compute"] > 0
    assert 0.5 * took_s < backend.busy_seconds - busy_before_s < took_s + 0.1
    lane.release()


def test_a_batch_that_failed_early_does_not_pass_for_a_short_one(tmp_path: Path, open_backend: Open) -> None:
    """Else one bad record would have every later batch of its size run in the middle of the loop."""
    backend = open_backend(slow_model(tmp_path / "m.onnx", limit=2 * SLOW), lanes=2)
    has_known_sizes(backend, [SLOW])
    for _ in range(20):
        with pytest.raises(BatchError):
            run(backend, floats((2 * SLOW + 1,)))
    lane = launch(backend, SLOW)
    assert list(backend.finished(0.0)) == []
    wait_for(backend)
    lane.release()


def test_a_size_that_was_short_once_may_be_long_now(tmp_path: Path, open_backend: Open) -> None:
    """What a run takes can depend on its values; the loop is held up by the first long one at most."""
    backend = open_backend(slow_model(tmp_path / "m.onnx"), lanes=2)
    has_known_sizes(backend, [1], [SLOW], [SLOW])
    lane = launch(backend, SLOW)
    assert list(backend.finished(0.0)) == []
    wait_for(backend)
    lane.release()


def test_ever_new_shapes_do_not_fill_the_memory(tmp_path: Path, open_backend: Open) -> None:
    """Whatever the backend remembers of sizes, a producer must not be able to grow it for ever."""
    backend = open_backend(identity(tmp_path / "m.onnx", FP32, ("rows", "n")), max_bytes=1 << 17)
    for width in range(1, 6000):
        lane = backend.acquire()
        assert lane is not None
        lane.open([(width,)])
        lane.launch(1)
        wait_for(backend)
        lane.release()
    remembered = [len(held) for held in vars(backend).values() if isinstance(held, dict | list | set)]
    assert max(remembered) < 5000


def test_time_without_a_batch_is_not_busy(tmp_path: Path, open_backend: Open) -> None:
    backend = open_backend(identity(tmp_path / "m.onnx"))
    run(backend, np.ones((1, 2), np.float32))
    busy_s = backend.busy_seconds
    start_s = time.monotonic()
    assert list(backend.finished(0.1)) == []
    assert time.monotonic() - start_s >= 0.09
    assert backend.busy_seconds == busy_s


def test_closing_waits_for_what_is_running_and_ends_the_threads(tmp_path: Path) -> None:
    """Nothing may still write to memory that is being freed."""
    before = set(threading.enumerate())
    backend = CpuBackend(slow_model(tmp_path / "m.onnx"), name="m", version="1", lanes=2, max_rows=2, max_bytes=4096)
    lane = launch(backend, SLOW)
    backend.close()
    assert set(threading.enumerate()) == before
    assert lane.outputs()[0].tolist() == [[SLOW]]
