"""The account of one partition: turn to be published, turn to be committed."""

from __future__ import annotations

from confluent_kafka import KafkaError
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.records import FakeRecord
from worker.kafka.ledger import Entry, PartitionLedger, Reports


def ledger_of(*offsets: int) -> tuple[PartitionLedger, list[Entry]]:
    ledger = PartitionLedger("requests", 3, Reports())
    return ledger, ledger.admit(FakeRecord(b"", partition=3, offset=offset) for offset in offsets)


def answer(entry: Entry) -> None:
    entry.answer([("results", b"answer", None, [])])


def published(ledger: PartitionLedger) -> list[int]:
    """Offsets of what is answered and whose turn it is; it counts as published then."""
    offsets = []
    while ledger.is_publishable:
        offsets.append(ledger.unpublished.popleft().record.offset())
    return offsets


def test_a_gap_holds_the_commit_back() -> None:
    """An offset is committable only once every earlier one is finished."""
    ledger, (first, second, third) = ledger_of(10, 11, 12)
    second.is_done = third.is_done = True
    assert ledger.settle() == 0
    assert ledger.next_offset is None
    first.is_done = True
    assert ledger.settle() == 3
    assert ledger.next_offset == 13


def test_what_is_behind_an_open_entry_stays_open() -> None:
    ledger, (first, _, third) = ledger_of(10, 11, 12)
    first.is_done = third.is_done = True
    assert ledger.settle() == 1
    assert ledger.next_offset == 11
    assert len(ledger) == 2
    assert ledger.settle() == 0
    assert ledger.next_offset == 11


def test_offsets_need_not_be_consecutive() -> None:
    """Compaction and transactions leave holes; a successor starts behind the last settled record."""
    ledger, entries = ledger_of(5, 90, 1000)
    for entry in entries[:2]:
        entry.is_done = True
    assert ledger.settle() == 2
    assert ledger.next_offset == 91


def test_nothing_settled_means_nothing_to_commit() -> None:
    ledger, _ = ledger_of()
    assert ledger.settle() == 0
    assert ledger.next_offset is None
    assert len(ledger) == 0


def test_answers_are_published_in_the_partitions_order() -> None:
    """Whatever order the batches ended in."""
    ledger, (first, second, third) = ledger_of(1, 2, 3)
    answer(third)
    answer(second)
    assert published(ledger) == []
    answer(first)
    assert published(ledger) == [1, 2, 3]


def test_each_answer_is_published_once() -> None:
    ledger, (first, second) = ledger_of(1, 2)
    answer(first)
    assert published(ledger) == [1]
    assert published(ledger) == []
    answer(second)
    assert published(ledger) == [2]


def test_an_answer_with_nothing_to_send_still_takes_its_turn() -> None:
    """A refused record whose errors go nowhere is answered: an empty list is not None."""
    ledger, (first, second) = ledger_of(1, 2)
    first.answer([])
    answer(second)
    assert published(ledger) == [1, 2]


def test_the_places_of_what_is_open_and_published_are_known() -> None:
    """Oldest open record, end of what is published, and whether anything waits for its turn."""
    ledger, (first, second, third) = ledger_of(5, 9, 20)
    assert (ledger.oldest_offset, ledger.published_end, ledger.is_published) == (5, None, False)
    answer(first)
    answer(second)
    assert published(ledger) == [5, 9]
    assert (ledger.oldest_offset, ledger.published_end, ledger.is_published) == (5, 10, False)
    first.is_done = True
    ledger.settle()
    assert (ledger.oldest_offset, ledger.published_end, ledger.is_published) == (9, 10, False)
    answer(third)
    assert published(ledger) == [20]
    second.is_done = third.is_done = True
    assert (ledger.published_end, ledger.is_published) == (21, True)
    ledger.settle()
    assert (ledger.oldest_offset, ledger.published_end, ledger.is_published) == (None, None, True)


def test_settling_and_publishing_are_apart() -> None:
    """Published is not acknowledged."""
    ledger, (first,) = ledger_of(1)
    answer(first)
    published(ledger)
    assert ledger.settle() == 0
    assert len(ledger) == 1


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=20), st.data())
def test_whatever_ends_first_the_commit_is_the_end_of_the_finished_beginning(
    steps: list[int], data: st.DataObject
) -> None:
    """Against a plain restatement of the rule, with holes in the offsets and entries ending in any order."""
    offsets = [sum(steps[: place + 1]) for place in range(len(steps))]
    ledger, entries = ledger_of(*offsets)
    done: set[int] = set()
    settled = 0
    for place in data.draw(st.permutations(range(len(entries)))):
        entries[place].is_done = True
        done.add(place)
        settled += ledger.settle()
        leading = next((n for n in range(len(entries)) if n not in done), len(entries))
        assert settled == leading
        assert len(ledger) == len(entries) - leading
        assert ledger.next_offset == (offsets[leading - 1] + 1 if leading else None)


def test_new_records_join_behind_the_old_ones() -> None:
    ledger, (first,) = ledger_of(1)
    answer(first)
    assert published(ledger) == [1]
    (second,) = ledger.admit([FakeRecord(b"", offset=2)])
    answer(second)
    assert published(ledger) == [2]
    first.is_done = second.is_done = True
    assert ledger.settle() == 2


# what the broker says


class Message:
    """A delivered message, as far as an entry looks at it."""

    def topic(self) -> str:
        return "results"

    def value(self) -> bytes:
        return b"answer"


def delivered(entry: Entry, error: KafkaError | None = None) -> None:
    entry.delivered(error, Message())  # type: ignore[arg-type]  # confluent_kafka.Message cannot be made by hand


def test_an_entry_is_done_when_all_of_its_messages_are_acknowledged() -> None:
    """An error answer and a dead letter are two, and the one may be acknowledged before the other is sent."""
    ledger, (entry,) = ledger_of(1)
    entry.answer([("results", b"error", None, []), ("dead", b"letter", None, [])])
    delivered(entry)
    assert ledger.reports.done == []
    assert ledger.settle() == 0
    delivered(entry)
    assert ledger.reports.done == [entry]
    assert ledger.settle() == 1


def test_a_failed_delivery_is_reported_and_never_counts_as_done() -> None:
    ledger, (entry,) = ledger_of(1)
    answer(entry)
    error = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)
    delivered(entry, error)
    assert not entry.is_done
    assert ledger.reports.done == []
    assert ledger.reports.failed == [(entry, "results", len(b"answer"), error)]
    assert ledger.settle() == 0


def test_what_replaces_a_refused_message_is_still_to_be_sent_and_acknowledged() -> None:
    _, (entry,) = ledger_of(1)
    entry.answer([("results", b"large", None, []), ("dead", b"letter", None, [])])
    entry.sent = 2
    entry.replace("results", [("results", b"small", None, []), ("other", b"one more", None, [])])
    assert entry.outgoing is not None
    assert [topic for topic, *_ in entry.outgoing[entry.sent :]] == ["results", "other"]
    assert entry.outgoing[: entry.sent] == [("dead", b"letter", None, [])]
    assert entry.unacknowledged == 3


def test_a_message_that_is_sent_again_is_owed_one_acknowledgement_as_before() -> None:
    _, (entry,) = ledger_of(1)
    answer(entry)
    entry.sent = 1
    entry.send_again("results")
    assert (entry.outgoing, entry.sent, entry.unacknowledged) == ([("results", b"answer", None, [])], 0, 1)
