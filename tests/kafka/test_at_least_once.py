"""What is committed, and when: behind the broker's acknowledgements, never before them."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError

from tests.kafka.at_least_once_clients import TOPIC, Member, Reporter
from worker.deadline import Deadline
from worker.kafka import at_least_once, early_records
from worker.kafka.at_least_once import AtLeastOnce
from worker.kafka.caution import RUN
from worker.kafka.connection import Connection
from worker.kafka.ledger import Entry, Place
from worker.sections import DeliverySettings, KafkaSettings

UNAVAILABLE = KafkaError(KafkaError.COORDINATOR_NOT_AVAILABLE, "nobody at home")
INTERVAL_MS = 10


class Site:
    """The mode between a member and a producer."""

    lost = frozenset[str]()

    def __init__(self, partitions: int = 1, interval_ms: int = INTERVAL_MS, *, output_partitions: int = 1) -> None:
        self.member: Member
        self.producer: Reporter
        self._partitions = partitions
        self._output_partitions = output_partitions
        kafka = KafkaSettings(
            bootstrap_servers="nowhere:1",
            group_id="group",
            input_topics=(TOPIC,),
            output_topic="results",
            dead_letter_topic="dead",
        )
        settings = DeliverySettings(commit_interval_ms=interval_ms)
        self.mode = AtLeastOnce(kafka, settings, cast("Connection", self))
        self.mode.start()
        self.mode.take(1, 0.01)  # has the partitions assigned

    def open_client(self, _kind: object, name: str, defaults: Any, own: Any, **_options: bool) -> Any:
        if name == "consumer":
            self.member = Member({**defaults, **own}, self._partitions)
            return self.member
        self.producer = Reporter({**defaults, **own})
        return self.producer

    def check(self, _client: object, read: list[str], written: list[str]) -> dict[str, int]:
        return dict.fromkeys([*read, *written], self._output_partitions)

    def raise_refusal(self) -> None: ...

    def refuse(self, _error: KafkaError) -> bool:
        return False

    def take(self, count: int, partition: int = 0) -> list[Entry]:
        """Read so many more of a partition."""
        self.member.ends[partition] = self.member.at[partition] + count
        entries: list[Entry] = []
        give_up_s = time.monotonic() + 20
        while len(entries) < count:
            assert time.monotonic() < give_up_s
            entries.extend(self.mode.take(100, 0.01))
            self.mode.settle(0.0)
        return entries

    def answer(self, *entries: Entry) -> None:
        for entry in entries:
            self.mode.answer(entry, value(entry), [])

    def publish(self, *entries: Entry) -> None:
        """Answer, and hand the answers to the producer."""
        self.answer(*entries)
        self.mode.settle(0.0)

    def acknowledge(self, *entries: Entry) -> None:
        self.producer.acknowledge(*map(value, entries))

    def go_on(self) -> None:
        """For several commit intervals."""
        for _ in range(5):
            time.sleep(INTERVAL_MS / 1000)
            self.mode.settle(0.0)
            self.mode.take(100, 0.01)  # which also hears how the last commit went

    def committed(self, partition: int = 0) -> int:
        """What a successor would find."""
        return self.member.committed_now.get(partition, 0)


def value(entry: Entry) -> bytes:
    return b"%d/%d" % (entry.record.partition(), entry.record.offset())


@pytest.fixture
def site() -> Site:
    return Site()


def test_nothing_is_committed_before_the_delivery_report(site: Site) -> None:
    """However long it takes, and however often a commit would be due."""
    entries = site.take(3)
    site.publish(*entries)
    assert site.producer.published == [b"0/0", b"0/1", b"0/2"]
    site.go_on()
    assert site.member.most == {0: 0}, "the mark that somebody is at work here, and no more"
    site.acknowledge(*entries)
    site.go_on()
    assert site.committed() == 3
    assert site.mode.in_flight() == 0


def test_an_acknowledgement_out_of_turn_waits_for_the_ones_before_it(site: Site) -> None:
    first, second, third = site.take(3)
    site.publish(first, second, third)
    site.acknowledge(third, second)
    site.go_on()
    assert site.member.most == {0: 0}
    site.acknowledge(first)
    site.go_on()
    assert site.committed() == 3


def test_what_is_answered_and_not_yet_published_is_not_committed(site: Site) -> None:
    """Its turn has not come: the record before it is still in the backend."""
    first, second = site.take(2)
    site.publish(second)
    site.go_on()
    assert site.producer.published == []
    assert site.member.most == {0: 0}
    site.publish(first)
    site.acknowledge(first)
    site.go_on()
    assert site.committed() == 1


def test_a_commit_that_failed_is_due_again(site: Site) -> None:
    """The broker said no, twice; nobody has to do anything for the third."""
    entries = site.take(2)
    site.publish(*entries)
    site.acknowledge(*entries)
    site.member.troubles.extend([UNAVAILABLE, UNAVAILABLE])
    site.mode.settle(0.0)
    site.go_on()
    assert site.committed() == 2
    commits = len(site.member.commits)
    site.go_on()
    assert len(site.member.commits) == commits, "what is committed is not due any more"


def test_a_commit_that_succeeded_for_one_partition_is_due_for_the_other_alone() -> None:
    site = Site(partitions=2)
    entries = [*site.take(1, 0), *site.take(1, 1)]
    site.publish(*entries)
    site.acknowledge(entries[0])
    site.go_on()
    site.member.commits.clear()
    site.acknowledge(entries[1])
    site.go_on()
    assert site.member.commits == [[1]]
    assert (site.committed(0), site.committed(1)) == (1, 1)


def test_a_revoke_commits_only_what_is_settled() -> None:
    """Finished within the deadline, or somebody else's; the other partition's records are nobody else's."""
    site = Site(partitions=2)
    first, second, third = site.take(3, 0)
    (kept,) = site.take(1, 1)
    site.publish(first, third, kept)
    asked: list[frozenset[Place]] = []

    def finish(places: frozenset[Place], deadline: Deadline) -> None:
        """What the pipeline does: the second one comes too late."""
        asked.append(places)
        assert not deadline.is_over
        site.acknowledge(first)
        site.mode.settle(0.0)

    site.mode.on_revoke(finish)
    site.member.rebalances.append(("on_revoke", [0]))
    site.mode.take(1, 0.01)
    assert asked == [frozenset({(TOPIC, 0)})]
    assert site.committed(0) == 1
    site.publish(second)  # by now it is nobody's
    site.acknowledge(kept)
    site.go_on()
    assert site.producer.published == []
    assert (site.committed(0), site.committed(1)) == (1, 1)


def test_of_a_lost_partition_nothing_is_committed(site: Site) -> None:
    """It is somebody else's already, who may be further."""
    entries = site.take(2)
    site.publish(*entries)
    site.member.rebalances.append(("on_lost", [0]))
    site.mode.take(1, 0.01)
    site.acknowledge(*entries)
    site.go_on()
    assert site.member.most == {0: 0}
    assert site.mode.in_flight() == 0


def test_the_position_behind_control_records_is_committed_when_all_is_settled(site: Site) -> None:
    """Or a group that has done everything would have a lag for ever."""
    entries = site.take(2)
    site.publish(*entries)
    site.acknowledge(entries[0])
    site.member.at[0] = 4  # two control records, which nobody is given
    site.go_on()
    assert site.member.most == {0: 1}, "the second one is in flight"
    site.acknowledge(entries[1])
    site.go_on()
    assert site.committed() == 4


def test_the_position_behind_records_that_wait_is_not_committed(site: Site) -> None:
    """They are read, and in no ledger yet."""
    entries = site.take(2)
    site.publish(*entries)
    site.acknowledge(*entries)
    site.member.ends[0] = 3
    site.mode.stay(0.01)
    assert site.member.at[0] == 3
    for _ in range(3):
        time.sleep(INTERVAL_MS / 1000)
        site.mode.settle(0.0)
        site.mode.stay(0.01)
    assert site.committed() == 2


def test_the_position_behind_a_record_in_hand_is_not_committed(site: Site) -> None:
    """A revoke comes while the client is asked for more: the first one is read, and nobody has it."""
    entries = site.take(2)
    site.publish(*entries)
    site.acknowledge(*entries)
    site.mode.settle(0.0)
    site.member.ends[0] = 3
    site.member.rebalances_in_consume.append(("on_revoke", [0]))
    assert site.mode.take(100, 0.01) == []
    assert site.member.at[0] == 3
    assert site.committed() == 2


def test_the_last_commit_waits_for_its_answer_and_takes_in_nothing(site: Site) -> None:
    """SIGTERM: what is settled is committed, and what comes meanwhile is the successor's."""
    entries = site.take(2)
    site.publish(*entries)
    site.acknowledge(entries[0])
    site.mode.settle(0.0)
    site.member.ends[0] = 5
    site.mode.commit()
    assert site.committed() == 1
    assert site.mode.in_flight() == 1
    site.mode.close()
    assert site.committed() == 1


def test_who_had_no_answer_to_the_last_commit_does_not_wait_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving the group revokes all, and a commit there would have no deadline."""
    monkeypatch.setattr(at_least_once, "COMMIT_TIMEOUT_S", 0.05)
    site = Site(interval_ms=60_000)
    first, second = site.take(2)
    site.publish(first, second)
    site.acknowledge(first)
    site.mode.settle(0.0)
    site.member.answers = False
    site.mode.commit()
    site.acknowledge(second)
    site.mode.settle(0.0)
    site.mode.close()
    assert site.member.most == {0: 1}


def test_who_ends_without_a_last_commit_commits_what_is_settled_when_leaving() -> None:
    """An engine that is gone is no reason to have answered records answered again."""
    site = Site(interval_ms=60_000)
    first, second = site.take(2)
    site.publish(first, second)
    site.acknowledge(first)
    site.mode.settle(0.0)
    assert site.committed() == 0
    site.mode.close()
    assert site.committed() == 1


@pytest.mark.parametrize("count", [1, 3])
def test_what_the_report_of_several_messages_is_about_is_done_with_the_last(site: Site, count: int) -> None:
    """An error answer and a dead letter: the offset waits for both."""
    entries = site.take(count)
    for entry in entries:
        site.mode.refuse(entry, b"answer", [], "malformed", "why")
    site.mode.settle(0.0)
    assert len(site.producer.published) == 2 * count
    site.producer.acknowledge(*[b"answer"] * count)
    site.go_on()
    assert site.member.most == {0: 0}
    site.producer.acknowledge(*[b""] * count)
    site.go_on()
    assert site.committed() == count


def places(entries: list[Entry]) -> list[tuple[int | None, int | None]]:
    return [(entry.record.partition(), entry.record.offset()) for entry in entries]


def test_records_of_a_new_partition_wait_until_its_mark_is_committed_and_hold_up_no_other() -> None:
    site = Site(partitions=2)
    site.take(1)
    site.member.ends = {0: 2, 1: 2}
    assert places(site.mode.take(100, 0.01)) == [(0, 1)]
    assert places(site.mode.take(100, 0.01)) == []
    site.mode.settle(0.0)  # at once, not when a commit would be due
    assert site.member.metadata[1] == RUN
    assert places(site.mode.take(100, 0.01)) == [(1, 0), (1, 1)]


def test_who_has_no_answer_to_the_commit_of_a_mark_goes_on_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_records, "MARK_TIMEOUT_S", 0.2)
    site = Site()
    site.member.answers = False
    assert places(site.take(2)) == [(0, 0), (0, 1)]
    assert site.member.commits == [[0]]


@pytest.mark.parametrize("is_lost", [False, True])
def test_records_that_wait_for_a_mark_go_with_their_partition(is_lost: bool) -> None:
    """Handed over in order, it says that nobody died there."""
    site = Site(partitions=2)
    site.take(1)
    site.member.ends[1] = 2
    site.mode.take(100, 0.01)
    site.mode.settle(0.0)
    site.member.rebalances.append(("on_lost" if is_lost else "on_revoke", [1]))
    assert site.mode.take(100, 0.01) == []
    assert (site.committed(1), site.member.metadata[1]) == (0, RUN if is_lost else "")


def test_partitions_may_go_while_the_mark_of_a_careful_group_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(partitions=2)
    site.member.committed_now, site.member.metadata = {0: 0, 1: 0}, {0: f"{RUN} 100", 1: f"{RUN} 100"}
    site.member.ends = {0: 2, 1: 2}
    commit = site.member.commit

    def commit_and_lose(**options: Any) -> Any:
        site.member.rebalances.append(("on_revoke", [1]))
        monkeypatch.setattr(site.member, "commit", commit)
        return commit(**options)

    monkeypatch.setattr(site.member, "commit", commit_and_lose)
    entries: list[Entry] = []
    while len(entries) < 2:
        entries += site.mode.take(100, 0.01)
    assert places(entries) == [(0, 0), (0, 1)]


def test_with_more_to_be_had_answers_go_out_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before they have gathered for a while, and at once where nothing more is taken in, or there is nothing."""
    monkeypatch.setattr(at_least_once, "GATHER_S", 60.0)
    site = Site()
    site.publish(*site.take(1))
    site.member.ends[0] = 6
    for _ in range(2):
        site.answer(*site.mode.take(2, 0.01))
        site.mode.settle(0.0)
        assert site.producer.published == [b"0/0"]
    site.mode.settle(0.0)  # nothing was taken in before that
    assert site.producer.published == [b"0/0", b"0/1", b"0/2", b"0/3", b"0/4"]
    site.answer(*site.mode.take(2, 0.01))
    assert len(site.producer.published) == 5
    site.mode.settle(0.0)
    assert len(site.producer.published) == 6


def read_on(site: Site, seconds: float) -> None:
    """Answer what is taken, for so long, or until more than one answer is published; there is always more to take."""
    site.publish(*site.take(1))
    site.member.ends[0] = 1_000
    until_s = time.monotonic() + seconds
    while len(site.producer.published) == 1 and time.monotonic() < until_s:
        site.answer(*site.mode.take(1, 0.01))
        site.mode.settle(0.0)
        time.sleep(0.02)


def test_answers_that_gather_go_out_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_least_once, "GATHER_S", 0.1)
    site = Site(output_partitions=16)
    read_on(site, 5.0)
    assert len(site.producer.published) > 1


def test_over_many_partitions_answers_gather_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client sends those of each partition by themselves; but there is an end to it."""
    monkeypatch.setattr(at_least_once, "GATHER_S", 0.05)
    monkeypatch.setattr(at_least_once, "LONGEST_GATHER", 1_000_000)
    site = Site(output_partitions=16_000)
    read_on(site, 0.5)
    assert len(site.producer.published) == 1
    monkeypatch.setattr(at_least_once, "LONGEST_GATHER", 2)
    site = Site(output_partitions=16_000)
    read_on(site, 5.0)
    assert len(site.producer.published) > 1
