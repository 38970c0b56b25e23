"""What a dead-letter topic holds."""

from __future__ import annotations

import uuid
from contextlib import closing
from typing import Any, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from worker.kafka import dead_letter


class Letter(NamedTuple):
    source: str  # topic/partition/offset of the record that could not be answered
    code: str
    value: bytes | None  # the record's own


def read(servers: str, topic: str, partitions: int) -> list[Letter]:
    """All that are there by now; committed data only."""
    settings = {
        "bootstrap.servers": servers,
        "group.id": uuid.uuid4().hex,
        "enable.auto.commit": False,
        "enable.partition.eof": True,
    }
    found, ended = list[Letter](), set[int | None]()
    with closing(Consumer(settings)) as consumer:
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(partitions)])
        while len(ended) < partitions:
            for message in consumer.consume(1000, 1.0):
                if (error := message.error()) is not None:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    ended.add(message.partition())
                    continue
                told: dict[str, Any] = dict(message.headers() or ())
                source, code = (told[name].decode() for name in (dead_letter.SOURCE_HEADER, dead_letter.CODE_HEADER))
                found.append(Letter(source, code, message.value()))
    return found
