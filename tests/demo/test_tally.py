"""The demo's account: each request, one answer, and right."""

from __future__ import annotations

import pytest

from worker.demo.tally import Tally


def test_one_right_answer_for_each_is_perfect() -> None:
    tally = Tally()
    numbers = [tally.publish(image) for image in (5, 6, 7)]
    assert numbers == [0, 1, 2]
    assert [tally.answer(number) for number in (2, 0, 1)] == [7, 5, 6]
    assert tally.is_perfect
    assert tally.missing == 0


def test_nothing_at_all_is_not_perfect() -> None:
    assert not Tally().is_perfect


def test_a_missing_answer_is_not_perfect() -> None:
    tally = Tally()
    tally.publish(0)
    tally.publish(1)
    tally.answer(0)
    assert not tally.is_perfect
    assert tally.missing == 1


def test_a_second_answer_is_a_duplicate() -> None:
    tally = Tally()
    tally.publish(3)
    assert tally.answer(0) == 3
    assert tally.answer(0) is None
    assert (tally.answered, tally.duplicates) == (1, 1)
    assert not tally.is_perfect


@pytest.mark.parametrize("number", [1, -1])
def test_an_answer_to_nothing_is_wrong(number: int) -> None:
    tally = Tally()
    tally.publish(0)
    tally.answer(0)
    assert tally.answer(number) is None
    assert tally.wrong == 1
    assert "never published" in tally.first_fault
    assert not tally.is_perfect


def test_the_first_fault_is_kept() -> None:
    tally = Tally()
    tally.blame("one")
    tally.blame("two")
    assert (tally.wrong, tally.first_fault) == (2, "one")


def test_latencies_are_nearest_ranks() -> None:
    tally = Tally()
    assert tally.latency_ms(0.5) == 0
    tally.latencies_s.extend(number / 1000 for number in range(100, 0, -1))
    assert tally.latency_ms(0.5) == pytest.approx(50)
    assert tally.latency_ms(0.99) == pytest.approx(99)
    assert tally.latency_ms(1.0) == pytest.approx(100)
    assert tally.latency_ms(1.0, last=10) == pytest.approx(10)
