"""Requests in, answers out, and what is missing, doubled or out of order."""

from __future__ import annotations

import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import msgpack
import numpy as np
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

COLUMNS = 144  # of the pass-through model: 0.6 KB a request


def request(number: int, columns: int = COLUMNS) -> bytes:
    """A request whose only row tells its number, so that an answer can be seen to be its own."""
    row = np.full((1, columns), number, np.float32)
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, columns], "data": row.tobytes()}
    return bytes(msgpack.packb({"id": str(number), "inputs": [tensor]}))


def publish(
    servers: str, topic: str, values: Iterable[bytes | None], partitions: int, rate: float | None = None
) -> list[int]:
    """Publish values round robin over the partitions, `rate` a second at most; the number of records in each."""
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 20, "message.max.bytes": 16 << 20})
    counts = [0] * partitions
    start_s = time.monotonic()
    for number, value in enumerate(values):
        partition = number % partitions
        if rate is not None and number % 100 == 0:
            producer.poll(max(0.0, start_s + number / rate - time.monotonic()))
        while True:
            try:
                producer.produce(topic, value, partition=partition)
                break
            except BufferError:
                producer.poll(0.1)
        counts[partition] += 1
    assert producer.flush(150) == 0  # a broker may be gone for a while
    return counts


@dataclass
class Answers:
    """What an output topic holds."""

    times: Counter[str] = field(default_factory=Counter)  # id -> how often answered
    sources: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))  # partition -> source offsets
    wrong: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)  # code -> error answers
    refused: set[str] = field(default_factory=set)  # ids with an error answer

    @property
    def duplicates(self) -> int:
        return sum(count - 1 for count in self.times.values())

    def out_of_order(self) -> int:
        """Answers that come after the answer to a later record of their partition, repeats left out."""
        count = 0
        for offsets in self.sources.values():
            first_seen = list(dict.fromkeys(offsets))
            count += sum(later < earlier for earlier, later in pairwise(first_seen))
        return count


class Reader:
    """Reads an output topic from its start; may be asked again as more arrives."""

    def __init__(self, servers: str, topic: str, partitions: int) -> None:
        self._consumer = Consumer(
            {"bootstrap.servers": servers, "group.id": uuid.uuid4().hex, "enable.auto.commit": False}
        )
        self._consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(partitions)])
        self.answers = Answers()

    def read(self, *, until: int, timeout_s: float, quiet_s: float = 0.0) -> Answers:
        """Read until so many different ids are answered; with quiet_s, go on until nothing came for so long."""
        answers = self.answers
        deadline_s = time.monotonic() + timeout_s
        last_s = time.monotonic()
        while time.monotonic() < deadline_s:
            messages = self._consumer.consume(1000, 0.2)
            for message in messages:
                assert message.error() is None, message.error()
                self._take(answers, message)
            now_s = time.monotonic()
            if messages:
                last_s = now_s
            if len(answers.times) >= until and now_s - last_s >= quiet_s:
                break
        return answers

    def close(self) -> None:
        self._consumer.close()

    @staticmethod
    def _take(answers: Answers, message: Any) -> None:
        answer = msgpack.unpackb(message.value())
        answers.times[answer["id"]] += 1
        source = dict(message.headers())["trt-worker-source"].decode().rsplit("/", 2)
        answers.sources[int(source[1])].append(int(source[2]))
        if "error" in answer:
            answers.errors[answer["error"]["code"]] += 1
            answers.refused.add(answer["id"])
            return
        row = np.frombuffer(answer["outputs"][0]["data"], np.float32)
        if not (row == float(answer["id"])).all():
            answers.wrong.append(answer["id"])


def committed(servers: str, group: str) -> dict[int, int]:
    """partition -> committed offset of a group, over its only topic."""
    admin = AdminClient({"bootstrap.servers": servers})
    give_up_s = time.monotonic() + 30
    while True:
        try:
            found = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result(30)
            return {place.partition: place.offset for place in found.topic_partitions if place.offset >= 0}
        except KafkaException as error:
            if error.args[0].code() != KafkaError.COORDINATOR_LOAD_IN_PROGRESS or time.monotonic() > give_up_s:
                raise
        time.sleep(0.1)


def lag(servers: str, group: str, published: list[int]) -> int:
    """Records that the group has not committed."""
    done = committed(servers, group)
    return sum(count - done.get(partition, 0) for partition, count in enumerate(published))
