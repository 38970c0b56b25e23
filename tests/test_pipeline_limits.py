"""Backpressure: what is held stays bounded, the group membership survives, nothing spins."""

from __future__ import annotations

import time

import pytest

from tests.clock import Clock
from tests.pipeline_rig import Rig
from tests.scripted_backend import (
    Answer,
    Hang,
    always,
)
from worker import pipeline as pipeline_module


def stop_real_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes only where somebody sleeps: a machine that stands still would look like a pipeline that does."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    monkeypatch.setattr(time, "sleep", clock.sleep)


def test_what_is_taken_in_stays_bounded_while_lanes_hang() -> None:
    """Lanes full, one intake waiting, the rest stays in Kafka, however much may be in flight."""
    rig = Rig(always(Hang()), max_in_flight_batches=10_000)
    for number in range(2000):
        rig.ask(number)
    rig.turn_for(0.2)
    assert rig.backend.busy_lanes == 2
    assert rig.delivery.taken <= 2 * 4 + pipeline_module.MAX_INTAKE
    rig.backend.script = always(Answer())
    rig.backend.wake()
    rig.turn_until_all_ended()
    assert rig.is_at_rest()


@pytest.mark.parametrize("bound", ["records", "bytes of what is refused", "bytes beside the tensors", "bytes of keys"])
def test_records_that_nobody_acknowledges_stay_bounded(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker is away: answers pile up only as far as the limits in records and in bytes allow."""
    monkeypatch.setattr(pipeline_module, "MAX_INTAKE", 8)
    rig = (
        Rig(max_in_flight_batches=4, max_in_flight_bytes=1 << 40)
        if bound == "records"
        else Rig(max_in_flight_batches=1000, max_in_flight_bytes=8000)
    )
    rig.delivery.acknowledges = False
    for _ in range(400):
        match bound:
            case "records":
                rig.ask(1)
            case "bytes of what is refused":
                rig.delivery.send(bytes(1000))
            case "bytes beside the tensors":
                rig.ask(1, comment="x" * 1000)  # nobody reads it, and it is as long in memory as the rest
            case _:
                rig.ask(1, key=bytes(1000))
    rig.turn_for(0.5)
    assert 8 <= rig.delivery.in_flight() <= 4 * 4 + 8
    taken = rig.delivery.taken
    rig.turn_for(0.2)
    assert rig.delivery.taken == taken
    rig.delivery.acknowledges = True
    rig.turn_until_all_ended()


def test_nothing_is_taken_while_the_producer_is_full() -> None:
    """It would only wait in our memory."""
    rig = Rig()
    rig.delivery.has_room = False
    for number in range(20):
        rig.ask(number)
    rig.turn_for(0.1)
    assert rig.delivery.taken == 0
    rig.delivery.has_room = True
    rig.turn_until_all_ended()


def test_finished_batches_stay_in_their_lanes_while_the_producer_is_full() -> None:
    """No second copy of their answers in memory; new ones cannot run meanwhile, so what is held stays bounded."""
    rig = Rig(always(Hang()))
    for number in range(40):
        rig.ask(number)
    rig.turn_until(lambda: rig.backend.launched == 2)
    rig.delivery.has_room = False
    rig.backend.script = always(Answer())
    rig.backend.wake()  # they have finished now, and nothing may come of it
    rig.turn_for(0.2)
    assert rig.delivery.ended == 0
    assert rig.backend.launched == 2
    rig.delivery.has_room = True
    rig.turn_until_all_ended()


def test_partitions_are_held_after_a_while_and_polling_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that does not poll is expelled; held, it polls and gets nothing."""
    monkeypatch.setattr(pipeline_module, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(pipeline_module, "HOLD_AFTER_S", 0.2)
    stop_real_time(monkeypatch)
    rig = Rig(always(Hang()))
    for number in range(2000):
        rig.ask(number)
    rig.turn_for(0.15)
    assert rig.delivery.holds == []
    rig.turn_until(lambda: rig.delivery.holds == [True])
    takes, taken = rig.delivery.takes, rig.delivery.taken
    rig.turn_for(0.2)
    assert rig.delivery.takes > takes
    assert rig.delivery.taken <= taken + 1
    rig.backend.script = always(Answer())
    rig.backend.wake()
    rig.turn_until(lambda: rig.delivery.holds == [True, False])
    rig.turn_until_all_ended()
    assert rig.delivery.holds[-1] is False


def test_a_pipeline_that_is_always_full_and_moves_on_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pausing throws away what the client has fetched ahead: only where nothing was taken in for a while."""
    assert pipeline_module.HOLD_AFTER_S == 10.0
    monkeypatch.setattr(pipeline_module, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(pipeline_module, "HOLD_AFTER_S", 1.0)
    stop_real_time(monkeypatch)
    rig = Rig(always(Answer(0.02)), lanes=1)
    for number in range(600):
        rig.ask(number)
    start_s = time.monotonic()
    rig.turn_until_all_ended()
    assert time.monotonic() - start_s > 2.0, "too short a load to show anything"
    assert rig.delivery.holds == []


def test_a_blocked_loop_does_not_spin() -> None:
    rig = Rig(always(Hang()))
    for number in range(2000):
        rig.ask(number)
    rig.turn_for(0.1)
    cpu_s = time.process_time()
    rig.turn_for(0.5)
    assert time.process_time() - cpu_s < 0.2


def test_a_saturated_backend_gets_full_batches_only() -> None:
    """What came late goes with what came early; what is not full leaves as soon as the backend wants more."""
    rig = Rig(always(Hang()), lanes=4, max_rows=4, max_delay_s=0.002)
    rig.backend.share = 1
    rig.ask(0)
    rig.turn_for(0.05)
    rig.ask(1)
    steps = rig.turn_for(0.2)
    assert [batch.rows for batch in rig.backend.batches] == [1]
    assert steps < 1000  # it sleeps between looks
    for number in range(3):
        rig.ask(number)
    rig.turn_for(0.05)
    assert [batch.rows for batch in rig.backend.batches] == [1, 4]
    rig.ask(2)
    rig.turn_for(0.05)
    rig.backend.script = always(Answer())
    rig.backend.wake()
    rig.turn_until_all_ended()
    assert [batch.rows for batch in rig.backend.batches] == [1, 4, 1]


def test_a_drain_waits_for_no_full_batch() -> None:
    """Partitions that are handed over: what there is of them runs, however busy the backend is."""
    rig = Rig(lanes=4, max_rows=4, drain_timeout_s=5.0)
    rig.backend.share = 0
    rig.ask(1)
    rig.turn_for(0.05)
    assert rig.backend.batches == []
    rig.pipeline.stop()
    rig.pipeline.run()
    assert [batch.rows for batch in rig.backend.batches] == [1]
    assert rig.delivery.in_flight() == 0
