"""Queue mode: what runs in company, what runs alone, what is given up."""

from __future__ import annotations

from tests.records import FakeRecord
from worker.kafka.ledger import Entry, PartitionLedger, Reports
from worker.kafka.suspects import GROUP_RECORDS, LAST_TIME, NEAR, Suspects


class GivenOut(FakeRecord):
    """A record of a share group."""

    def __init__(self, offset: int, times: int, partition: int = 0) -> None:
        super().__init__(b"", partition=partition, offset=offset)
        self._times = times

    def delivery_count(self) -> int:
        return self._times


def entries(offsets: range, times: int, partition: int = 0) -> list[Entry]:
    ledger = PartitionLedger("requests", partition, Reports())
    return [Entry(ledger, GivenOut(offset, times, partition)) for offset in offsets]


def offsets_of(group: list[Entry]) -> list[int]:
    return [entry.record.offset() for entry in group]


def test_the_second_time_they_run_in_groups_and_in_order() -> None:
    suspects = Suspects()
    assert suspects.add(reversed(entries(range(40), 2))) == []
    assert len(suspects) == 40
    assert offsets_of(suspects.group()) == list(range(GROUP_RECORDS))
    assert offsets_of(suspects.group()) == list(range(GROUP_RECORDS, 40))
    assert suspects.group() == []


def test_the_third_time_those_run_alone_among_whom_the_guilty_one_is_and_all_others_before_them() -> None:
    """So that nobody keeps it company when it takes the process down once more."""
    suspects = Suspects()
    assert suspects.add(entries(range(40), 3)) == []
    assert offsets_of(suspects.group()) == list(range(GROUP_RECORDS, 40))
    assert [offsets_of(suspects.group()) for _ in range(GROUP_RECORDS)] == [[each] for each in range(GROUP_RECORDS)]
    assert suspects.group() == []


def test_the_fourth_time_the_first_is_guilty_and_no_other() -> None:
    suspects = Suspects()
    (guilty,) = suspects.add(entries(range(10, 13), 4))
    assert guilty.record.offset() == 10
    assert [offsets_of(suspects.group()) for _ in range(3)] == [[11], [12], []]


def test_each_partition_has_its_own_first() -> None:
    guilty = Suspects().add([*entries(range(2), 4, partition=0), *entries(range(5, 7), 4, partition=1)])
    assert [(entry.record.partition(), entry.record.offset()) for entry in guilty] == [(0, 0), (1, 5)]


def test_who_comes_right_behind_the_guilty_one_is_innocent() -> None:
    """One fetch need not bring all that were held together."""
    suspects = Suspects()
    assert offsets_of(suspects.add(entries(range(10, 13), 4))) == [10]
    assert suspects.add(entries(range(13, 15), 4)) == []
    assert offsets_of(suspects.add(entries(range(13 + NEAR, 15 + NEAR), 4))) == [13 + NEAR]


def test_a_first_one_that_was_given_out_less_often_is_innocent() -> None:
    """It was not there when the process died."""
    assert Suspects().add([*entries(range(1), 2), *entries(range(1, 3), 4)]) == []


def test_what_kafka_would_drop_is_given_up() -> None:
    assert len(Suspects().add(entries(range(3), LAST_TIME))) == 3


def test_what_was_given_back_meanwhile_does_not_run() -> None:
    suspects = Suspects()
    late = entries(range(GROUP_RECORDS + 4), 2)
    suspects.add(late)
    for entry in late[: GROUP_RECORDS + 1]:
        entry.is_done = True
    assert len(suspects) == 3
    assert offsets_of(suspects.group()) == [GROUP_RECORDS + 1, GROUP_RECORDS + 2, GROUP_RECORDS + 3]
    assert len(suspects) == 0
    assert suspects.group() == []
