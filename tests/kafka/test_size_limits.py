"""What a topic did not take is published smaller the next time."""

from __future__ import annotations

from tests.records import FakeRecord
from worker.kafka.ledger import Entry, Outgoing, PartitionLedger, Reports
from worker.kafka.size_limits import SizeLimits

LARGE: Outgoing = ("results", b"x" * 100, None, [])
DEAD: Outgoing = ("dead", b"y" * 50, None, [])


def answered(offset: int) -> Entry:
    (entry,) = PartitionLedger("requests", 0, Reports()).admit([FakeRecord(b"", offset=offset)])
    entry.answer([LARGE, DEAD])
    return entry


class Smaller:
    """Halves what it is asked to replace."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, str, int]] = []

    def __call__(self, entry: Entry, topic: str, size: int) -> None:
        self.asked.append((entry.record.offset(), topic, size))
        (old,) = [each for each in entry.outgoing or () if each[0] == topic]
        entry.replace(topic, [(topic, (old[1] or b"")[: size // 2], None, [])])


def test_what_was_never_refused_stays_as_it_is() -> None:
    limits, replace = SizeLimits(), Smaller()
    assert not limits
    limits.refuse(answered(1), "results")
    assert limits
    limits.shrink(answered(2), replace)
    assert replace.asked == []


def test_the_same_record_read_again_is_answered_with_less_there_and_nowhere_else() -> None:
    """Its entry is another one by then."""
    limits, replace = SizeLimits(), Smaller()
    limits.refuse(answered(1), "results")
    again = answered(1)
    limits.shrink(again, replace)
    assert replace.asked == [(1, "results", 100)]
    assert [len(each[1] or b"") for each in again.outgoing or ()] == [50, 50]


def test_each_refusal_takes_it_one_step_further() -> None:
    limits, replace = SizeLimits(), Smaller()
    for _ in range(3):
        limits.refuse(answered(1), "results")
    limits.shrink(answered(1), replace)
    assert [size for _, _, size in replace.asked] == [100, 50, 25]


def test_it_is_forgotten_once_it_is_answered() -> None:
    limits = SizeLimits()
    entry = answered(1)
    limits.refuse(entry, "results")
    limits.forget([entry, answered(2)])
    assert not limits
