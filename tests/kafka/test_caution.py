"""Who is suspected, who runs alone, who is given up."""

from __future__ import annotations

import pytest

from worker.kafka.caution import CAREFUL_RECORDS, GROUP_RECORDS, RUN, Caution, read

PLACE = ("requests", 0)
OTHER = ("requests", 1)


def sources(first: int, count: int) -> list[tuple[tuple[str, int], int]]:
    return [(PLACE, offset) for offset in range(first, first + count)]


def successor(metadata: str | None, offset: int = 100, max_attempts: int = 3) -> Caution:
    caution = Caution(max_attempts)
    caution.assign([PLACE])
    caution.note(PLACE, offset, metadata)
    return caution


@pytest.mark.parametrize("metadata", [None, "", "somebody else's", "trt-worker/1 care x y", "trt-worker/2 run"])
def test_an_orderly_end_needs_no_care(metadata: str | None) -> None:
    """What is not ours, or not understood, is no reason for care either."""
    caution = successor(metadata)
    assert not caution.is_active
    assert caution.mark(PLACE) == RUN
    assert caution.last_mark(PLACE) == ""


def test_a_death_at_work_makes_the_next_stretch_careful() -> None:
    caution = successor(RUN)
    assert caution.is_active
    assert caution.group(sources(100, 256)) == GROUP_RECORDS
    caution.begin([(PLACE, 100 + CAREFUL_RECORDS)])
    assert not caution.is_active


def test_from_death_to_dead_letter_in_as_many_restarts_as_are_allowed() -> None:
    """run -> together -> alone -> given up: three deaths with max_attempts 3."""
    first = successor(RUN)
    first.begin(sources(100, 64))
    second = successor(first.mark(PLACE))
    assert second.group(sources(100, 64)) == 1
    assert not second.is_over(PLACE, 100)
    second.begin(sources(120, 1))
    third = successor(second.mark(PLACE), offset=120)
    assert third.is_over(PLACE, 120)
    assert third.deaths(PLACE) == 3
    assert not third.is_over(PLACE, 121)
    third.give_up(PLACE)
    assert not third.is_over(PLACE, 120)
    assert third.group(sources(121, 64)) == 64


def test_with_few_attempts_records_run_alone_at_once() -> None:
    assert successor(RUN, max_attempts=2).group(sources(100, 64)) == 1


def test_the_records_behind_a_suspected_group_run_together_again() -> None:
    first = successor(RUN)
    first.begin(sources(100, 64))
    second = successor(first.mark(PLACE), offset=164)
    assert second.group(sources(164, 64)) == 64


def test_a_group_ends_before_a_suspect() -> None:
    """So that the suspect is alone."""
    first = successor(RUN)
    first.begin(sources(110, 2))
    second = successor(first.mark(PLACE), offset=100)
    assert second.group(sources(100, 64)) == 10


def test_care_survives_an_orderly_end_without_a_new_death() -> None:
    caution = successor(RUN)
    caution.begin(sources(100, 64))
    caution.end()
    left = read(164, caution.last_mark(PLACE))
    assert left is not None
    assert (left.until, left.deaths, left.how) == (100 + CAREFUL_RECORDS, 1, "idle")


def test_a_partition_that_is_gone_is_forgotten() -> None:
    caution = successor(RUN)
    caution.forget([PLACE])
    assert not caution.is_active
    assert caution.mark(OTHER) == RUN
