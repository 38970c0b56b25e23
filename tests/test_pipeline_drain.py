"""How work ends: on stop, and when partitions are handed over."""

from __future__ import annotations

import logging
import time
from itertools import pairwise

import pytest

from tests.pipeline_rig import GUILTY, Rig, fails_on
from tests.scripted_backend import (
    Answer,
    Fail,
    Hang,
    always,
)
from worker.health import Heartbeat


def test_stop_finishes_what_was_taken_in() -> None:
    """A partial batch leaves at once, whatever max_delay says; then commit, and run() returns."""
    rig = Rig(always(Answer(0.05)), max_delay_s=60.0, lanes=1)
    for number in range(10):
        rig.ask(number)
    rig.turn_until(lambda: rig.delivery.taken == 10)
    rig.pipeline.stop()
    rig.pipeline.run()
    assert rig.delivery.ended == 10
    assert rig.delivery.in_flight() == 0
    assert rig.delivery.commits == 1


def test_stop_takes_nothing_more_in() -> None:
    rig = Rig()
    rig.ask(1)
    rig.pipeline.stop()
    rig.pipeline.run()
    assert rig.delivery.taken == 0
    assert rig.delivery.commits == 1


def test_a_drain_waits_for_the_brokers_acknowledgement() -> None:
    """Answered is not delivered."""
    rig = Rig(drain_timeout_s=0.3)
    rig.delivery.acknowledges = False
    rig.ask(1)
    rig.turn_until(lambda: rig.delivery.ended == 1)
    rig.pipeline.stop()
    start_s = time.monotonic()
    rig.pipeline.run()
    assert time.monotonic() - start_s >= 0.3
    assert rig.delivery.in_flight() == 1


def test_a_drain_gives_up_at_its_deadline_and_keeps_track(caplog: pytest.LogCaptureFixture) -> None:
    """One lane hangs: what it holds stays in flight, is not answered, and is told; the rest is finished."""
    rig = Rig(lambda batch: Hang() if batch.has(GUILTY) else Answer(), max_rows=1, drain_timeout_s=0.4)
    hanging = rig.ask(GUILTY)
    others = [rig.ask(number) for number in range(6)]
    rig.turn_until(lambda: rig.delivery.taken == 7)
    rig.pipeline.stop()
    start_s = time.monotonic()
    with caplog.at_level(logging.WARNING):
        rig.pipeline.run()
    assert 0.35 < time.monotonic() - start_s < 2.0
    assert set(rig.delivery.answers) == set(others)
    assert rig.delivery.in_flight() == 1
    assert hanging not in rig.delivery.order
    assert rig.delivery.commits == 1
    assert "1 records" in caplog.text


def test_a_failing_batch_is_bisected_during_a_drain_too() -> None:
    rig = Rig(fails_on(GUILTY), lanes=1, max_delay_s=60.0, max_rows=8)
    sources = [rig.ask(GUILTY if number == 2 else number) for number in range(5)]
    rig.turn_until(lambda: rig.delivery.taken == 5)
    rig.pipeline.stop()
    rig.pipeline.run()
    assert set(rig.delivery.refusals) == {sources[2]}
    assert rig.delivery.in_flight() == 0


def test_the_heart_beats_during_a_drain() -> None:
    """A long drain is not a stalled loop."""
    beats: list[float] = []

    class Counted(Heartbeat):
        def beat(self) -> None:
            beats.append(time.monotonic())
            super().beat()

    rig = Rig(always(Hang()), drain_timeout_s=0.6)
    rig.pipeline._heartbeat = Counted()
    rig.ask(1)
    rig.turn_until(lambda: rig.backend.launched == 1)
    rig.pipeline.stop()
    rig.pipeline.run()
    beats.append(time.monotonic())
    assert max(later - earlier for earlier, later in pairwise(beats)) < 0.4


def test_a_revoked_partitions_work_is_finished_before_it_is_handed_over() -> None:
    """Inside take(), within the deadline: partial batches leave, lanes are waited for."""
    rig = Rig(always(Answer(0.05)), max_delay_s=60.0)
    sources = [rig.ask(number, partition=number % 2) for number in range(6)]
    rig.turn_until(lambda: rig.delivery.taken == 6)
    rig.delivery.revoke(0)
    rig.turn_until(lambda: not rig.delivery._revoking)
    assert {*sources[::2]} <= {*rig.delivery.answers}
    rig.pipeline.stop()
    rig.pipeline.run()
    assert set(rig.delivery.answers) == set(sources)


def test_revoking_drops_the_work_of_those_partitions_alone() -> None:
    """Past the deadline: what hangs is given up with its partition, the neighbours are answered, each once."""
    rig = Rig(always(Hang()), max_rows=2, lanes=2)
    rig.delivery.revoke_timeout_s = 0.2
    sources = [rig.ask(number, partition=number % 2) for number in range(12)]
    rig.turn_until(lambda: rig.delivery.taken == 12 and rig.backend.busy_lanes == 2)
    rig.delivery.revoke(0)
    start_s = time.monotonic()
    rig.pipeline._delivery.take(1, 0.0)  # blocked, so the loop itself would poll only after HOLD_AFTER_S
    assert 0.15 < time.monotonic() - start_s < 1.0
    rig.backend.script = always(Answer())
    rig.backend.wake()
    rig.turn_until(lambda: {*rig.delivery.answers} >= {*sources[1::2]})
    assert set(rig.delivery.answers) == {*sources[1::2]}
    ran = {number for batch in rig.backend.batches[2:] for number in batch.inputs[0][:, 0].tolist()}
    assert not ran & {float(number) for number in range(4, 12, 2)}  # waiting ones of partition 0 never ran
    assert rig.is_at_rest()


def test_retries_of_a_revoked_partition_are_abandoned() -> None:
    rig = Rig(lambda batch: Fail() if batch.rows > 1 else Hang(), max_rows=4, lanes=1)
    rig.delivery.revoke_timeout_s = 0.1
    sources = [rig.ask(number, partition=number % 2) for number in range(4)]
    rig.turn_until(lambda: any(batch.rows == 1 for batch in rig.backend.batches))
    rig.delivery.revoke(0)
    rig.pipeline._delivery.take(1, 0.0)
    rig.backend.script = always(Answer())
    rig.backend.wake()
    rig.turn_until(lambda: {*rig.delivery.answers} >= {*sources[1::2]})
    assert set(rig.delivery.answers) == {*sources[1::2]}
    ran_alone = [batch.inputs[0][0, 0] for batch in rig.backend.batches if batch.rows == 1]
    assert 2.0 not in ran_alone  # it waited for its retry when its partition went
    assert rig.is_at_rest()


def test_a_revoke_of_nothing_in_flight_returns_at_once() -> None:
    rig = Rig(always(Hang()))
    rig.ask(1, partition=1)
    rig.turn_until(lambda: rig.backend.launched == 1)
    rig.delivery.revoke(0)
    assert rig.turn_until(lambda: not rig.delivery._revoking) < 0.5
    assert rig.delivery.in_flight() == 1
