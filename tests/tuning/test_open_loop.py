"""Arrivals by the clock."""

from __future__ import annotations

import time

import numpy as np
import pytest

from worker.tuning.open_loop import OpenLoop, schedule_s


def loop_of(*due_s: float, patience_s: float = 60.0) -> OpenLoop:
    return OpenLoop([b"a", b"b"], due_s, patience_s=patience_s)


def test_a_schedule_has_the_rate_that_was_asked_for() -> None:
    """Even arrivals have equal gaps; Poisson arrivals the gaps of an exponential distribution."""
    even = np.diff(schedule_s(1000, 2, "even", 1))
    assert even == pytest.approx(0.001)
    poisson = schedule_s(1000, 20, "poisson", 1)
    gaps = np.diff(poisson)
    assert len(poisson) == 20_000
    assert gaps.mean() == pytest.approx(0.001, rel=0.05)
    assert gaps.std() == pytest.approx(0.001, rel=0.05)
    assert poisson == sorted(poisson)
    assert schedule_s(1000, 1, "poisson", 1) != schedule_s(1000, 1, "poisson", 2)


def test_nothing_is_taken_before_it_is_due() -> None:
    loop = loop_of(0.0, 0.05)
    assert [each.number for each in loop.take(10, 0.0)] == [0]
    assert loop.take(10, 0.001) == []
    assert [each.number for each in loop.take(10, 1.0)] == [1]  # waits for it, not for the whole second


def test_what_waits_because_the_worker_is_away_has_waited() -> None:
    """No coordinated omission: the latency counts from the schedule, not from the moment of taking."""
    loop = loop_of(0.0, 0.01, 0.02)
    first = loop.take(1, 0.0)
    time.sleep(0.1)  # the worker is busy with the first
    rest = loop.take(10, 0.0)
    for each in (*first, *rest):
        loop.answer(each, b"", [])
    loop.settle(0.0)
    latencies = [latency_s for _, latency_s in loop.latencies]
    assert min(latencies) >= 0.08
    assert latencies == sorted(latencies, reverse=True)
    assert loop.is_over


def test_answers_count_in_the_order_of_arrival() -> None:
    """As Kafka publishes them: an answer waits for those before it."""
    loop = loop_of(0.0, 0.0)
    first, second = loop.take(2, 0.0)
    loop.answer(second, b"", [])
    loop.settle(0.0)
    assert loop.answered == 0
    loop.answer(first, b"", [])
    loop.settle(0.0)
    assert loop.answered == 2


def test_who_cannot_keep_up_is_told_so() -> None:
    loop = loop_of(*[0.001 * number for number in range(100)], patience_s=0.02)
    loop.take(1, 0.0)
    time.sleep(0.05)
    loop.settle(0.0)
    assert loop.is_hopeless
    assert loop.is_over


def test_without_a_schedule_there_is_always_another_request() -> None:
    loop = OpenLoop([b"a", b"b"], None, patience_s=1.0)
    assert [each.value() for each in loop.take(3, 0.0)] == [b"a", b"b", b"a"]
    assert len(loop.take(128, 0.0)) == 128
    assert loop.in_flight() == 131


def test_a_refused_request_ends_the_measuring() -> None:
    """Figures of refusals would say nothing."""
    loop = loop_of(0.0, 1.0)
    (ticket,) = loop.take(1, 0.0)
    was_over = loop.is_over
    loop.refuse(ticket, b"", [], "wrong_shape", "too long")
    assert (was_over, loop.is_over) == (False, True)
    assert loop.refusal == "wrong_shape: too long"
