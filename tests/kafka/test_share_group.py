"""Which records are accepted, rejected, given back, and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from confluent_kafka import AcknowledgeType, KafkaError, KafkaException, TopicPartition

from tests.records import FakeRecord
from worker.errors import ErrorCode
from worker.kafka import share_intake
from worker.kafka.connection import Connection
from worker.kafka.ledger import Entry
from worker.kafka.share_group import ShareGroup
from worker.records import Headers, Ticket
from worker.sections import DeliverySettings, KafkaSettings

ACCEPT, RELEASE, REJECT = AcknowledgeType.ACCEPT, AcknowledgeType.RELEASE, AcknowledgeType.REJECT


class GivenOut(FakeRecord):
    """A record as a share consumer gives it."""

    def __init__(self, offset: int, times: int = 1) -> None:
        super().__init__(b"", offset=offset)
        self._times = times

    def delivery_count(self) -> int:
        return self._times

    def error(self) -> None: ...


class Member:
    """A share consumer: gives what it is told to, and notes what is said of it."""

    def __init__(self) -> None:
        self.next: list[GivenOut] = []
        self.said: dict[int, AcknowledgeType] = {}
        self.known: dict[int, AcknowledgeType] = {}  # to the broker, too
        self.is_closed = False
        self.on_close: Callable[[], object] = lambda: None

    def set_acknowledgement_commit_callback(self, callback: Callable[[dict[Any, set[int]], Any], None]) -> None:
        self._report = callback

    def subscribe(self, _topics: list[str]) -> None: ...

    def poll(self, _timeout_s: float) -> list[GivenOut]:
        given, self.next = self.next, []
        return given

    def acknowledge_offset(self, _topic: str, _partition: int, offset: int, how: AcknowledgeType) -> None:
        assert offset not in self.said
        self.said[offset] = how

    def commit_async(self) -> None:
        self.known |= self.said

    def commit_sync(self, _timeout_s: float) -> None:
        self.known |= self.said

    def fail(self, *offsets: int) -> None:
        """The broker does not hear what was said of these, and it will give them out again."""
        error = KafkaException(KafkaError(KafkaError._TRANSPORT))
        self._report({TopicPartition("requests", 0): set(offsets)}, error)
        for offset in offsets:
            self.said.pop(offset, None)
        self.known.clear()

    def close(self) -> None:
        self.on_close()
        self.is_closed = True


class Producer:
    """The broker acknowledges when it is told to."""

    def __init__(self) -> None:
        self._reports: list[Callable[[None, Any], None]] = []
        self.is_away = False
        self.taken = 0

    def produce(self, *arguments: Any) -> None:
        self.taken += 1
        self._reports.append(arguments[4])

    def poll(self, _timeout_s: float) -> None:
        if not self.is_away:
            reports, self._reports = self._reports, []
            for report in reports:
                report(None, None)

    def purge(self, **_how: bool) -> None: ...

    def __len__(self) -> int:
        return len(self._reports)


class Site:
    """The mode between two members and a producer."""

    lost = frozenset[str]()

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.producer = Producer()
        kafka = KafkaSettings(
            bootstrap_servers="nowhere:1",
            group_id="group",
            input_topics=("requests",),
            output_topic="results",
            dead_letter_topic="dead",
        )
        self.mode = ShareGroup(kafka, DeliverySettings(mode="queue"), cast("Connection", self))
        self.mode.explain = self._explain
        self.mode.start()

    def open_client(self, *_arguments: object, **_options: object) -> Producer:
        return self.producer

    def open_share_consumer(self, *_arguments: object) -> Member:
        self.members.append(Member())
        return self.members[-1]

    def check(self, _client: object, read: list[str], written: list[str]) -> dict[str, int]:
        return dict.fromkeys([*read, *written], 1)

    def raise_refusal(self) -> None: ...

    def take(self, *records: GivenOut) -> list[Entry]:
        """One member gets these."""
        self.members[0].next = list(records)
        return [entry for _ in self.members for entry in self.mode.take(100, 0.0)]

    def answer(self, *entries: Entry) -> None:
        for entry in entries:
            self.mode.answer(entry, b"result", [])

    @staticmethod
    def _explain(_ticket: Ticket, code: ErrorCode, message: str) -> tuple[bytes, Headers, ErrorCode, str]:
        return b"error", [], code, message


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(share_intake.ShareIntake, "_prepare_group", lambda _self: None)  # asks a cluster
    return Site()


def offsets_of(entries: list[Entry]) -> list[int]:
    return [entry.record.offset() for entry in entries]


def test_a_record_is_accepted_when_the_broker_has_its_answer_and_not_before(site: Site) -> None:
    entries = site.take(GivenOut(1), GivenOut(2))
    site.producer.is_away = True
    site.answer(*entries)
    site.mode.settle(0.0)
    assert site.members[0].said == {}
    assert site.mode.in_flight() == 2
    site.producer.is_away = False
    site.mode.settle(0.0)
    assert site.members[0].known == {1: ACCEPT, 2: ACCEPT}
    assert site.mode.in_flight() == 0


def test_a_dead_letter_is_rejected(site: Site) -> None:
    good, bad = site.take(GivenOut(1), GivenOut(2))
    site.answer(good)
    site.mode.refuse(bad, b"error", [], "malformed", "not msgpack")
    site.mode.settle(0.0)
    assert site.members[0].known == {1: ACCEPT, 2: REJECT}


def test_what_would_outlast_its_lock_is_given_back_and_its_answer_dropped(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(share_intake, "LOCK_SHARE", 0.0)
    quick, slow = site.take(GivenOut(1), GivenOut(2))
    site.answer(quick)
    site.mode.settle(0.0)
    assert site.members[0].known == {1: ACCEPT, 2: RELEASE}
    site.answer(slow)
    site.mode.settle(0.0)
    assert site.producer.taken == 1
    assert site.members[0].known == {1: ACCEPT, 2: RELEASE}


def test_a_member_that_holds_records_takes_no_more_and_the_other_one_does(site: Site) -> None:
    """The client would raise."""
    site.take(GivenOut(1))
    site.members[0].next, site.members[1].next = [GivenOut(2)], [GivenOut(3)]
    assert offsets_of(site.mode.take(100, 0.0)) == [3]
    assert site.mode.take(100, 0.0) == []


def test_what_was_given_out_before_waits_for_the_others_and_runs_a_few_at_a_time(site: Site) -> None:
    fresh = site.take(*(GivenOut(offset, 2) for offset in range(40)), GivenOut(50))
    assert offsets_of(fresh) == [50]
    assert site.mode.in_flight() == 1  # a drain waits for what runs, and for nothing else
    assert site.mode.take(100, 0.0) == []
    site.answer(*fresh)
    site.mode.settle(0.0)
    first = site.mode.take(100, 0.0)
    assert offsets_of(first) == list(range(32))
    assert site.mode.take(100, 0.0) == []
    site.answer(*first)
    site.mode.settle(0.0)
    assert 31 not in site.members[0].known
    assert offsets_of(site.mode.take(100, 0.0)) == list(range(32, 40))
    assert site.members[0].known.keys() == {50, *range(32)}  # a death would not count against them


def test_the_one_that_took_three_workers_down_is_a_dead_letter(site: Site) -> None:
    assert site.take(GivenOut(7, 4), GivenOut(8, 4)) == []
    site.mode.settle(0.0)
    site.answer(*site.mode.take(100, 0.0))
    site.mode.settle(0.0)
    assert site.members[0].known == {7: REJECT, 8: ACCEPT}


def test_what_is_held_at_the_end_is_given_back(site: Site) -> None:
    site.take(GivenOut(1), GivenOut(2, 2))
    site.mode.close()
    assert site.members[0].said == {1: RELEASE, 2: RELEASE}
    assert all(member.is_closed for member in site.members)


def test_members_that_hold_nothing_leave_before_anything_is_given_back(site: Site) -> None:
    """They would be given it at once, and an innocent record would have been given out once more."""
    site.take(GivenOut(1))
    holder, idle = site.members
    given_back: list[dict[int, AcknowledgeType]] = []
    idle.on_close = lambda: given_back.append(dict(holder.said))
    site.mode.close()
    assert given_back == [{}]
    assert holder.known == {1: RELEASE}


def test_a_second_member_joins_only_when_nothing_was_given_out_before(site: Site) -> None:
    """An idle one's records count as given out whenever the process dies, though they never ran."""
    site.take(GivenOut(1, 2))
    assert len(site.members) == 1
    site.answer(*site.mode.take(100, 0.0))
    site.mode.settle(0.0)
    site.take(GivenOut(2))
    assert len(site.members) == 2


def test_what_is_answered_and_not_acknowledged_is_accepted_when_it_comes_again(site: Site) -> None:
    """It does not run again, however often Kafka gave it out."""
    site.answer(*site.take(GivenOut(1)))
    site.mode.settle(0.0)
    for times in (2, 5):
        site.members[0].fail(1)
        others = site.take(GivenOut(1, times), GivenOut(times + 10))
        assert offsets_of(others) == [times + 10]
        assert site.members[0].said[1] == ACCEPT
        site.answer(*others)
        site.mode.settle(0.0)
    assert site.producer.taken == 3
    assert site.mode.in_flight() == 0
    assert site.members[0].known == {1: ACCEPT, 12: ACCEPT, 15: ACCEPT}


def test_what_was_given_back_runs_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the broker did not hear of it, and its lock had to end."""
    monkeypatch.setattr(share_intake, "LOCK_SHARE", 0.0)
    site.take(GivenOut(1))
    site.mode.settle(0.0)
    assert site.members[0].said == {1: RELEASE}
    site.members[0].fail(1)
    assert offsets_of(site.take(GivenOut(1, 2))) == [1]


def test_what_is_held_is_not_answered_whatever_the_client_says_of_it(site: Site) -> None:
    site.take(GivenOut(1))
    holder, other = site.members
    holder.fail(1)
    other.next = [GivenOut(1, 2)]
    assert site.mode.take(100, 0.0) == []
    assert (holder.said, other.said) == ({}, {})
    assert site.mode.in_flight() == 1


def test_an_offset_that_is_given_out_for_the_first_time_is_another_record(site: Site) -> None:
    """A topic that was deleted and made anew has the same offsets."""
    site.answer(*site.take(GivenOut(1)))
    site.mode.settle(0.0)
    site.members[0].fail(1)
    assert offsets_of(site.take(GivenOut(1))) == [1]
