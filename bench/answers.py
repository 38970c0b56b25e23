"""The output topic read back: are all answers there, once, and right, and when did the broker take them?"""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgpack
from confluent_kafka import Consumer, Message, TopicPartition

from bench.scenario import OUTPUT, Scenario

CHECK_EVERY = 97  # every 97th answer's content is looked at
QUIET_S = 1.0
READ_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Answers:
    """What one round left in its output topic."""

    first_s: float  # Unix time at which the broker appended the first result
    last_s: float
    missing: int
    duplicates: int
    wrong: int  # of those looked at
    checked: int

    @property
    def are_right(self) -> bool:
        return not (self.missing or self.duplicates or self.wrong)


def read(bootstrap_servers: str, topic: str, results: int, scenario: Scenario, *, is_raw: bool) -> Answers:
    """Read all results of a topic.

    Args:
        bootstrap_servers: of the cluster.
        topic: the round's output topic, with the broker's append time as timestamps.
        results: how many the topic holds.
        scenario: what was asked.
        is_raw: a result is the request itself.
    """
    seen = bytearray(scenario.records)
    sources: set[bytes | str | None] = set()
    first_ms, last_ms, wrong, checked, repeated = 2**63, 0, 0, 0, 0
    for message in _messages(bootstrap_servers, topic, results, scenario.partitions):
        number = int(message.key() or b"-1")
        seen[number] = 1
        source = dict(message.headers() or ()).get("trt-worker-source", message.key())
        repeated += source in sources
        sources.add(source)
        at_ms = message.timestamp()[1]
        first_ms, last_ms = min(first_ms, at_ms), max(last_ms, at_ms)
        if number % CHECK_EVERY == 0:
            checked += 1
            wrong += not _is_right(message.value() or b"", number, scenario, is_raw=is_raw)
    return Answers(first_ms / 1000, last_ms / 1000, seen.count(0), repeated, wrong, checked)


def _messages(bootstrap_servers: str, topic: str, count: int, partitions: int) -> list[Message]:
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": "answers", "enable.auto.commit": False})
    places = [TopicPartition(topic, partition, 0) for partition in range(partitions)]
    consumer.assign(places)
    messages: list[Message] = []
    give_up_s = time.monotonic() + READ_TIMEOUT_S
    while len(messages) < count:
        got = consumer.consume(min(10_000, count - len(messages)), QUIET_S)
        if not got and sum(max(0, place.offset) for place in consumer.position(places)) >= count:
            break  # the rest are the marks of transactions
        if not got and time.monotonic() > give_up_s:
            raise TimeoutError(f"{topic} holds {count} results, only {len(messages)} could be read")
        if failed := next((message.error() for message in got if message.error() is not None), None):
            raise RuntimeError(f"{topic} cannot be read: {failed}")
        messages += got
    consumer.close()
    return messages


def _is_right(value: bytes, number: int, scenario: Scenario, *, is_raw: bool) -> bool:
    row = scenario.row(number)
    if is_raw:
        return value == scenario.request(number, row)
    result = msgpack.unpackb(value)
    expected = [{"name": OUTPUT, "datatype": "FP32", "shape": [1, scenario.features], "data": row}]
    return bool(result.get("id") == str(number) and result.get("outputs") == expected)
