"""How far behind a partition is: by our own account, not by the client's."""

from __future__ import annotations

import pytest

from tests.records import FakeRecord
from worker.kafka.lag import lags_of
from worker.kafka.ledger import PartitionLedger, Reports

UNKNOWN = -1001  # librdkafka's word for an offset that it does not know


def lag(ledger: PartitionLedger, **told: int) -> int | None:
    """The lag of the only partition, by what the client's statistics tell of it."""
    place = (ledger.topic, ledger.partition)
    report = {"topics": {ledger.topic: {"partitions": {str(ledger.partition): told}}}}
    return lags_of(report, {place: ledger}).get(place)


@pytest.fixture
def ledger() -> PartitionLedger:
    return PartitionLedger("requests", 3, Reports())


def test_what_is_not_settled_is_behind(ledger: PartitionLedger) -> None:
    """Also what was taken in; nothing has to be committed for it to count."""
    entries = ledger.admit(FakeRecord(b"", partition=3, offset=offset) for offset in (10, 11, 12))
    told = {"ls_offset": 20, "app_offset": 13, "committed_offset": UNKNOWN, "consumer_lag": -1}
    assert lag(ledger, **told) == 10
    entries[0].is_done = True
    ledger.settle()
    assert lag(ledger, **told) == 9


def test_control_records_at_the_end_are_nothing_to_wait_for(ledger: PartitionLedger) -> None:
    """The client's position is behind them, once all is settled."""
    ledger.admit([FakeRecord(b"", partition=3, offset=10)])[0].is_done = True
    ledger.settle()
    assert lag(ledger, ls_offset=12, app_offset=12) == 0


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"app_offset": UNKNOWN, "committed_offset": 40, "next_offset": 90}, 60),
        ({"app_offset": UNKNOWN, "committed_offset": UNKNOWN, "next_offset": 90}, 10),
        ({"app_offset": UNKNOWN, "committed_offset": UNKNOWN, "next_offset": UNKNOWN}, None),
    ],
)
def test_before_the_first_record_the_commit_counts(
    ledger: PartitionLedger, told: dict[str, int], expected: int | None
) -> None:
    assert lag(ledger, ls_offset=100, **told) == expected


def test_without_an_end_nothing_is_said(ledger: PartitionLedger) -> None:
    """A lag of 0 would be a lie, and would let an autoscaler sleep."""
    assert lag(ledger, ls_offset=UNKNOWN, app_offset=5) is None
    assert lags_of({}, {("requests", 3): ledger}) == {}


def test_a_partition_that_was_handed_over_is_not_counted(ledger: PartitionLedger) -> None:
    report = {"topics": {"requests": {"partitions": {"7": {"ls_offset": 9, "app_offset": 1}}}}}
    assert lags_of(report, {("requests", 3): ledger}) == {}
