"""Who is suspected, who runs alone, who is given up."""

from __future__ import annotations

import pytest

from worker.kafka.caution import CAREFUL_RECORDS, GROUP_RECORDS, LEAST_CAREFUL, RUN, Caution, read

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
    assert caution.group(sources(100, 2 * GROUP_RECORDS)) == GROUP_RECORDS
    caution.begin([(PLACE, 100 + CAREFUL_RECORDS)])
    assert not caution.is_active


def test_care_goes_as_far_as_the_work_went_behind_a_commit() -> None:
    """A kill -9 of a worker with little in hand costs its successor little."""
    worker = successor("")
    assert worker.mark(PLACE) == RUN  # before anything is known: as far as can be
    for records, reach in ((3, LEAST_CAREFUL), (1_500, 4_096), (3, 4_096), (CAREFUL_RECORDS, CAREFUL_RECORDS)):
        worker.reach(PLACE, records)
        caution = successor(worker.mark(PLACE))
        caution.begin([(PLACE, 100 + reach - 1)])
        assert caution.is_active
        caution.begin([(PLACE, 100 + reach)])
        assert not caution.is_active


def test_what_is_known_of_a_partition_is_not_said_of_its_next_assignment() -> None:
    worker = successor("")
    worker.reach(PLACE, 3)
    worker.assign([PLACE])
    assert worker.mark(PLACE) == RUN


def test_a_rebalance_that_brings_nothing_asks_for_no_care() -> None:
    caution = Caution(max_attempts=3)
    caution.assign(frozenset())
    assert not caution.is_active


def test_from_death_to_dead_letter_in_as_many_restarts_as_are_allowed() -> None:
    """run -> together -> alone -> given up: three deaths with max_attempts 3."""
    first = successor(RUN)
    first.begin(sources(100, GROUP_RECORDS))
    second = successor(first.mark(PLACE))
    assert second.group(sources(100, GROUP_RECORDS)) == 1
    assert not second.is_over(PLACE, 100)
    second.begin(sources(120, 1))
    third = successor(second.mark(PLACE), offset=120)
    assert third.is_over(PLACE, 120)
    assert third.deaths(PLACE) == 3
    assert not third.is_over(PLACE, 121)
    third.give_up(PLACE)
    assert not third.is_over(PLACE, 120)
    assert third.group(sources(121, GROUP_RECORDS)) == GROUP_RECORDS


def test_with_few_attempts_records_run_alone_at_once() -> None:
    assert successor(RUN, max_attempts=2).group(sources(100, GROUP_RECORDS)) == 1


def test_the_records_behind_a_suspected_group_run_together_again() -> None:
    first = successor(RUN)
    first.begin(sources(100, GROUP_RECORDS))
    behind = 100 + GROUP_RECORDS
    second = successor(first.mark(PLACE), offset=behind)
    assert second.group(sources(behind, GROUP_RECORDS)) == GROUP_RECORDS


def test_a_group_ends_before_a_suspect() -> None:
    """So that the suspect is alone."""
    first = successor(RUN)
    first.begin(sources(110, 2))
    second = successor(first.mark(PLACE), offset=100)
    assert second.group(sources(100, GROUP_RECORDS)) == 10


def test_care_survives_an_orderly_end_without_a_new_death() -> None:
    caution = successor(RUN)
    caution.begin(sources(100, GROUP_RECORDS))
    caution.end()
    left = read(100 + GROUP_RECORDS, caution.last_mark(PLACE))
    assert left is not None
    assert (left.until, left.deaths, left.how) == (100 + CAREFUL_RECORDS, 1, "idle")


def test_a_partition_that_is_gone_is_forgotten() -> None:
    caution = successor(RUN)
    caution.forget([PLACE])
    assert not caution.is_active
    assert caution.mark(OTHER) == RUN
