"""When a transaction closes, what it commits, and where reading goes on after it failed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, Message, TopicPartition

from tests.kafka.transactional_client import TransactionalClient
from tests.records import FakeRecord
from worker.errors import KafkaRefused
from worker.kafka import recovery, transactions
from worker.kafka.caution import GROUP_RECORDS, LEAST_CAREFUL, RUN
from worker.kafka.connection import Connection
from worker.kafka.exactly_once import ExactlyOnce
from worker.kafka.ledger import Entry
from worker.sections import DeliverySettings, KafkaSettings

ABORT = KafkaError(KafkaError.UNKNOWN_MEMBER_ID, "somebody else's", txn_requires_abort=True)
TOO_LARGE = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE, "too large")
NO_TRANSACTION = KafkaError(KafkaError._STATE, "producing is not allowed in this transaction")
PLACE = ("requests", 0)


class Read(FakeRecord):
    """A record as the consumer gives it."""

    def error(self) -> None: ...


class Sent:
    """What a delivery report is about."""

    def __init__(self, topic: str) -> None:
        self._topic = topic

    def topic(self) -> str:
        return self._topic


class Group:
    """A consumer of one partition, with a log of its own and the group's committed offset."""

    def __init__(self, _config: dict[str, Any]) -> None:
        self.log = [Read(b"", offset=offset) for offset in range(1_000)]
        self.end = 0  # what may be read
        self.at = 0
        self.commit: tuple[int, str] = (-1001, "")
        self.member = "me"
        self.pauses = 0
        self.rebalances: deque[str] = deque(["on_assign"])
        self._callbacks: dict[str, Callable[[Any, list[TopicPartition]], None]] = {}

    def subscribe(self, _topics: list[str], **callbacks: Any) -> None:
        self._callbacks = callbacks

    def poll(self, _timeout_s: float) -> Read | None:
        while self.rebalances:
            self._callbacks[self.rebalances.popleft()](self, [TopicPartition(*PLACE)])
        return next(iter(self.consume(1, 0)), None)

    def consume(self, count: int, _timeout_s: float) -> list[Read]:
        start, self.at = self.at, max(self.at, min(self.end, self.at + count))
        return self.log[start : self.at]

    def committed(self, places: list[TopicPartition], **_options: float) -> list[TopicPartition]:
        return [TopicPartition(*PLACE, self.commit[0], metadata=self.commit[1]) for _ in places]

    def seek(self, place: TopicPartition) -> None:
        self.at = place.offset

    def position(self, _places: list[TopicPartition]) -> list[TopicPartition]:
        return [TopicPartition(*PLACE, self.at)]

    def assignment(self) -> list[TopicPartition]:
        return [TopicPartition(*PLACE)]

    def pause(self, _places: list[TopicPartition]) -> None:
        self.pauses += 1

    def resume(self, _places: list[TopicPartition]) -> None: ...

    def consumer_group_metadata(self) -> bytes:
        return b"of me" if self.member else b"of nobody"

    def memberid(self) -> str:
        return self.member

    def close(self) -> None: ...


class Site:
    """The mode between a group and a transactional producer."""

    lost = frozenset[str]()

    def __init__(self, commit_interval_ms: int) -> None:
        self.group: Group
        self.producers: list[TransactionalClient] = []
        kafka = KafkaSettings(
            bootstrap_servers="nowhere:1",
            group_id="group",
            input_topics=("requests",),
            output_topic="results",
            dead_letter_topic="dead",
        )
        settings = DeliverySettings(mode="exactly_once", commit_interval_ms=commit_interval_ms)
        self.mode = ExactlyOnce(kafka, settings, cast("Connection", self))
        self.mode.start()

    def open_client(self, _kind: object, name: str, defaults: Any, own: Any, **_options: bool) -> Any:
        if name == "consumer":
            self.group = Group({**defaults, **own})
            return self.group
        self.producers.append(TransactionalClient({**defaults, **own}))
        return self.producers[-1]

    def check(self, _client: object, read: list[str], written: list[str]) -> dict[str, int]:
        return dict.fromkeys([*read, *written], 1)

    def raise_refusal(self) -> None: ...

    @property
    def producer(self) -> TransactionalClient:
        return self.producers[-1]

    def take(self, count: int) -> list[Entry]:
        """Read so many more."""
        self.group.end = self.group.at + count
        entries: list[Entry] = []

        def has_all() -> bool:
            entries.extend(self.mode.take(100, 0.01))
            return len(entries) >= count

        self.until(has_all)
        return entries

    def answer(self, entries: list[Entry]) -> None:
        for entry in entries:
            self.mode.answer(entry, str(entry.record.offset()).encode(), [])

    def until(self, is_so: Callable[[], object]) -> None:
        """Settle until it is so."""
        give_up_s = time.monotonic() + 20
        while not is_so():
            assert time.monotonic() < give_up_s
            self.mode.settle(0.001)

    def commits(self, offset: int) -> Callable[[], bool]:
        """Whether a transaction with this offset was committed."""
        return lambda: (
            self.producer.calls[-1] == "commit" and [each.offset for each in self.producer.offsets] == [offset]
        )


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(transactions, "RETRY_S", 0.001)
    site = Site(commit_interval_ms=20)
    yield site
    site.mode.close()


def test_answers_and_the_offset_behind_them_are_one_transaction(site: Site) -> None:
    site.answer(site.take(3))
    site.until(site.commits(3))
    assert site.producer.published == [b"0", b"1", b"2"]
    site.until(lambda: not site.mode.in_flight())


def test_a_transaction_commits_what_it_published_and_no_more(site: Site) -> None:
    """Records in the backend are somebody's next."""
    first, second, third = site.take(3)
    site.answer([first, third])
    site.until(site.commits(1))
    assert site.producer.published == [b"0"]
    site.answer([second])
    site.until(site.commits(3))
    assert site.producer.published == [b"1", b"2"]


def test_after_an_abort_reading_goes_back_to_what_is_committed(site: Site) -> None:
    """And nothing is paused for it: the client would throw away what it fetches next."""
    site.answer(site.take(3))
    site.until(site.commits(3))
    site.until(lambda: not site.mode.in_flight())
    site.group.commit = (3, "")
    site.producer.troubles["commit"] = [ABORT]
    site.answer(site.take(2))
    site.until(lambda: site.producer.calls[-1] == "abort" and not site.mode.unacknowledged)
    assert site.group.at == 3
    assert site.mode.in_flight() == 0
    site.answer(site.take(2))
    site.until(site.commits(5))
    assert site.producer.published == [b"3", b"4"]
    assert site.group.pauses == 0


def test_where_nothing_is_committed_reading_goes_back_to_where_it_began(site: Site) -> None:
    site.group.at = 40
    entries = site.take(2)
    site.until(lambda: not site.mode.unacknowledged)
    site.producer.troubles["commit"] = [ABORT]
    site.answer(entries)
    site.until(lambda: site.producer.calls[-1] == "abort" and not site.mode.unacknowledged)
    assert site.group.at == 40


def test_records_that_wait_for_a_mark_close_the_transaction() -> None:
    """However long it could last."""
    site = Site(commit_interval_ms=60_000)
    entries = site.take(3)
    site.until(lambda: not site.mode.unacknowledged)
    site.answer(entries[:1])
    for _ in range(10):
        site.mode.settle(0.001)
    assert not site.commits(1)()
    site.mode.consumer.early.add(("requests", 1), [])
    site.until(site.commits(1))
    site.mode.close()


def test_a_hold_outlives_the_recovery(site: Site) -> None:
    entries = site.take(2)
    site.producer.troubles["commit"] = [ABORT]
    site.answer(entries)
    site.mode.hold(True)
    site.until(lambda: site.producer.calls[-1] == "abort" and not site.mode.unacknowledged)
    assert site.mode.consumer.is_held


def test_a_batch_too_large_for_its_topic_is_seen_by_its_report_not_by_the_call_that_fails_first() -> None:
    """The client refuses the next answers before it tells why; who looks no further keeps the batches as they are."""
    site = Site(commit_interval_ms=60_000)
    entries = site.take(4)
    site.until(lambda: not site.mode.unacknowledged)
    site.answer(entries[:2])
    site.mode.settle(0.0)
    site.producer.report = lambda: entries[0].delivered(TOO_LARGE, cast("Message", Sent("results")))
    site.producer.troubles["produce"] = [NO_TRANSACTION] * 2
    site.answer(entries[2:])
    site.mode.settle(0.0)
    site.until(lambda: not site.mode.unacknowledged)
    assert len(site.producers) == 2
    assert site.producer.config["batch.size"] < 1_000_000
    site.mode.close()


def test_a_transaction_that_fails_again_and_again_ends_the_process(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """An output partition that takes nothing, with a coordinator that does; a success in between counts."""
    monkeypatch.setattr(recovery, "PATIENCE_S", 1.0)
    site.answer(site.take(3))
    site.until(site.commits(3))
    site.group.commit = (3, "")
    give_up_s = time.monotonic() + 20

    def fail_for_ever() -> None:
        while time.monotonic() < give_up_s:
            site.producer.troubles["commit"] = [ABORT]
            site.group.end = 5
            site.answer(site.mode.take(100, 0.01))
            site.mode.settle(0.001)

    with pytest.raises(KafkaRefused, match="no transaction could be committed for"):
        fail_for_ever()


def test_whoever_is_no_member_commits_nothing(site: Site) -> None:
    """The broker would take the offsets of an expelled client without a look at its generation."""
    entries = site.take(2)
    site.until(lambda: not site.mode.unacknowledged)
    site.producer.calls.clear()
    site.group.member = ""
    site.answer(entries)
    site.until(lambda: "abort" in site.producer.calls)
    assert "offsets" not in site.producer.calls


def test_partitions_that_are_lost_take_their_transaction_with_them() -> None:
    site = Site(commit_interval_ms=60_000)  # so that it does not close by itself
    entries = site.take(2)
    site.until(lambda: not site.mode.unacknowledged)
    site.producer.calls.clear()
    site.answer(entries[:1])
    site.mode.settle(0.0)
    assert site.producer.published == [b"0"]
    site.group.rebalances.append("on_lost")
    site.mode.take(1, 0.01)
    site.mode.commit()
    assert "offsets" not in site.producer.calls
    assert site.producer.calls[-1] == "abort"


def test_who_hands_over_after_an_abort_says_that_nobody_died(site: Site) -> None:
    """The group changed while a transaction was committed: it fails, and the partition goes to somebody else."""
    site.answer(site.take(3))
    site.until(site.commits(3))
    site.until(lambda: not site.mode.in_flight())
    assert site.producer.offsets[0].metadata == f"{RUN} {LEAST_CAREFUL}"
    site.producer.troubles["commit"] = [ABORT]
    site.answer(site.take(2))
    site.mode.settle(0.0)
    site.group.rebalances.append("on_revoke")
    site.mode.take(1, 0.01)
    assert site.producer.calls[-4:] == ["abort", "begin", "offsets", "commit"]
    assert [(each.offset, each.metadata) for each in site.producer.offsets] == [(3, "")]


def test_a_last_commit_that_fails_is_made_again_while_the_group_goes_on(site: Site) -> None:
    """A member of the group's last generation commits nothing until it has polled."""
    site.answer(site.take(3))
    site.until(site.commits(3))
    site.until(lambda: not site.mode.in_flight())
    site.producer.troubles["offsets"] = [ABORT, ABORT]
    site.mode.commit()
    assert site.producer.calls[-1] == "commit"
    assert [(each.offset, each.metadata) for each in site.producer.offsets] == [(3, "")]


def test_while_care_is_taken_no_group_waits_for_the_interval() -> None:
    """The next group runs when the one before it is committed, in a transaction that also says what runs next."""
    site = Site(commit_interval_ms=60_000)
    site.group.commit = (0, "trt-worker/1 run 1024")
    site.group.end = 1_000
    done = 0
    give_up_s = time.monotonic() + 20
    while done < 1_000:
        assert time.monotonic() < give_up_s
        entries = site.mode.take(1_000, 0.01)
        done += len(entries)
        site.answer(entries)
        site.mode.settle(0.001)
    groups = -(-done // GROUP_RECORDS)
    assert groups <= site.producer.calls.count("commit") <= groups + 2
    assert (
        site.producer.offsets[0].metadata == f"trt-worker/1 care 1024 1 {done - done % GROUP_RECORDS} {done} together"
    )
