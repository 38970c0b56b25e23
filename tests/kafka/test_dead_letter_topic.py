"""Replaying dead letters on real Kafka: what is sent back, where to, and what is remembered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from tests.conftest import MakeTopic
from tests.kafka_server import KafkaCluster
from tests.records import FakeRecord
from worker.errors import KafkaRefused
from worker.kafka import dead_letter
from worker.kafka.dead_letter_topic import DeadLetterTopic, Progress
from worker.sections import KafkaSettings

LARGE = b"x" * 20_000


@dataclass
class Grave:
    """A dead-letter topic of one partition, and the topic its letters came from, of four."""

    kafka: KafkaCluster
    settings: KafkaSettings

    @property
    def origin(self) -> str:
        return self.settings.input_topics[0]

    def bury(self, values: Sequence[bytes], key: bytes | None = None) -> None:
        """Write a letter for each value."""
        producer = Producer({"bootstrap.servers": self.settings.bootstrap_servers, "message.max.bytes": 4 << 20})
        for offset, value in enumerate(values):
            record = FakeRecord(value, topic=self.origin, offset=offset, key=key)
            headers = dead_letter.headers_of(record, "malformed", "why")
            producer.produce(self.settings.dead_letter_topic or "", value, key, headers=headers)
        assert producer.flush(30) == 0

    def replay(self, **options: Any) -> int:
        """How many were sent back."""
        with DeadLetterTopic(self.settings) as topic:
            wanted = {"code": None, "limit": None, "from_start": False, "to_topic": None, **options}
            return topic.replay(**wanted)[0]

    def came_back(self, count: int) -> list[tuple[int, bytes | None]]:
        """(partition, value) of so many records of the topic the letters came from, sorted."""
        reader = Consumer({"bootstrap.servers": self.settings.bootstrap_servers, "group.id": self.settings.group_id})
        reader.assign([TopicPartition(self.origin, partition, OFFSET_BEGINNING) for partition in range(4)])
        found: list[tuple[int, bytes | None]] = []
        while len(found) < count:
            messages = reader.consume(count, 20.0)
            assert messages, f"only {len(found)} of {count} came back"
            found += [(message.partition() or 0, message.value()) for message in messages]
        reader.close()
        return sorted(found, key=lambda each: each[1] or b"")

    def limit(self, max_bytes: int) -> None:
        """Have the topic the letters came from take messages up to this size."""
        entry = ConfigEntry("max.message.bytes", str(max_bytes), incremental_operation=AlterConfigOpType.SET)
        wanted = ConfigResource(ResourceType.TOPIC, self.origin, incremental_configs=[entry])
        self.kafka.admin.incremental_alter_configs([wanted])[wanted].result(30)


@pytest.fixture
def grave(kafka: KafkaCluster, topics: MakeTopic) -> Grave:
    origin = topics("in", 4, max_message_bytes=str(8 << 20))
    settings = KafkaSettings(
        bootstrap_servers=kafka.bootstrap_servers,
        group_id=f"of-{origin}",
        input_topics=(origin,),
        output_topic="unused",
        dead_letter_topic=topics("dead", 1, max_message_bytes=str(8 << 20)),
        producer={"batch.num.messages": 1},  # a broker refuses a batch as a whole
    )
    return Grave(kafka, settings)


def test_a_few_of_them_again_do_not_make_it_forget_the_others(grave: Grave) -> None:
    """What was sent back once is sent a second time only by those who ask for it."""
    grave.bury([b"1", b"2", b"3", b"4"])
    assert grave.replay() == 4
    assert grave.replay(from_start=True, limit=1) == 1
    assert grave.replay() == 0
    grave.bury([b"5"])
    assert grave.replay() == 1


def test_what_was_acknowledged_before_a_failure_is_remembered(grave: Grave) -> None:
    """The next replay begins with the letter that was refused."""
    grave.bury([b"1", b"2", LARGE, b"4"])
    grave.limit(1000)
    with pytest.raises(KafkaRefused, match="not every dead letter was sent back"):
        grave.replay()
    grave.limit(1 << 20)
    assert grave.replay() == 2
    assert [value for _, value in grave.came_back(5)] == [b"1", b"2", b"4", b"4", LARGE]


def test_what_was_acknowledged_is_remembered_when_the_reading_fails(
    grave: Grave, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after Ctrl-C, or when the broker goes away midway."""
    grave.bury([b"1", b"2", b"3"])
    read = DeadLetterTopic._messages

    def interrupted(self: DeadLetterTopic, *, from_start: bool) -> Any:
        for number, message in enumerate(read(self, from_start=from_start)):
            if number == 2:
                raise KeyboardInterrupt
            yield message

    with monkeypatch.context() as patch:
        patch.setattr(DeadLetterTopic, "_messages", interrupted)
        with pytest.raises(KeyboardInterrupt):
            grave.replay()
    assert grave.replay() == 1


def test_letters_that_are_gone_by_their_retention_are_passed_over(grave: Grave) -> None:
    """The committed offset is older than what the topic still has."""
    grave.bury([b"1", b"2", b"3", b"4"])
    assert grave.replay(limit=1) == 1
    place = TopicPartition(grave.settings.dead_letter_topic or "", 0, 3)
    grave.kafka.admin.delete_records([place])[place].result(30)
    assert grave.replay() == 1


def test_a_replay_takes_what_the_worker_takes_and_goes_where_its_key_belongs(grave: Grave) -> None:
    """More than librdkafka's default of a megabyte; to the partition where the Java client has that key."""
    grave.bury([b"x" * 2_000_000], key=b"abc")
    assert grave.replay() == 1
    ((partition, value),) = grave.came_back(1)
    assert len(value or b"") == 2_000_000
    assert partition == 3  # murmur2 says 479470107


def test_a_partition_is_remembered_up_to_its_first_letter_without_an_acknowledgement() -> None:
    progress = Progress()
    for offset in (3, 4, 7):
        progress.see(0, offset)
    progress.see(1, 9)
    assert progress.reached == {0: 3, 1: 9}
    progress.end(0, 4)
    assert progress.reached[0] == 3
    progress.end(0, 3)
    assert progress.reached[0] == 7
    progress.end(0, 7)
    progress.end(1, 9)
    assert progress.reached == {0: 8, 1: 10}
