"""The output topic read back: are all answers there, once, and right, and when did the broker take them?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from confluent_kafka import Consumer, Message, TopicPartition

from bench.requests import Requests

CHECK_EVERY = 97  # every 97th answer's content is looked at
QUIET_S = 1.0
READ_TIMEOUT_S = 20.0
AT_ONCE = 1000
STEADY = (0.3, 0.9)  # shares of the answers: when all processes have joined the group, and before the stragglers


@dataclass(frozen=True)
class Answers:
    """What one round left in its output topic."""

    first_s: float  # Unix time at which the broker appended the first result
    last_s: float
    steady_per_s: float  # of the STEADY part
    missing: int
    duplicates: int
    wrong: int  # of those looked at
    checked: int

    @property
    def are_right(self) -> bool:
        return not (self.missing or self.duplicates or self.wrong)


def read(bootstrap_servers: str, topic: str, results: int, requests: Requests, *, cut: int | None = None) -> Answers:
    """Read all results of a topic.

    Args:
        bootstrap_servers: of the cluster.
        topic: the round's output topic, with the broker's append time as timestamps.
        results: how many the topic holds.
        requests: what was asked.
        cut: None: results of the model; else a result is the request itself, as far as this many bytes.
    """
    scenario = requests.scenario
    seen = bytearray(scenario.records)
    when_ms = np.zeros(scenario.records, np.int64)
    wrong = checked = duplicates = 0
    for message in _messages(bootstrap_servers, topic, results, scenario.partitions):
        number = int(message.key() or b"-1")
        duplicates += seen[number]
        seen[number] = 1
        when_ms[number] = message.timestamp()[1]
        if number % CHECK_EVERY == 0:
            checked += 1
            value = message.value() or b""
            is_right = requests.is_right(value, number) if cut is None else value == requests.value(number)[:cut]
            wrong += not is_right
    missing = seen.count(0)
    came_s = np.sort(when_ms[when_ms > 0]) / 1000
    return Answers(float(came_s[0]), float(came_s[-1]), _steady(came_s), missing, duplicates, wrong, checked)


def _steady(came_s: np.ndarray) -> float:
    first, last = (int(share * (len(came_s) - 1)) for share in STEADY)
    return float((last - first) / max(0.001, came_s[last] - came_s[first]))


def _messages(bootstrap_servers: str, topic: str, count: int, partitions: int) -> Iterator[Message]:
    settings = {
        "bootstrap.servers": bootstrap_servers,
        "group.id": "answers",
        "enable.auto.commit": False,
        "queued.max.messages.kbytes": 64 << 10,
        "fetch.queue.backoff.ms": 5,
    }
    with closing(Consumer(settings)) as consumer:
        places = [TopicPartition(topic, partition, 0) for partition in range(partitions)]
        consumer.assign(places)
        seen = 0
        give_up_s = time.monotonic() + READ_TIMEOUT_S
        while seen < count:
            got = consumer.consume(min(AT_ONCE, count - seen), QUIET_S)
            if not got and sum(max(0, place.offset) for place in consumer.position(places)) >= count:
                break  # the rest are the marks of transactions
            if not got and time.monotonic() > give_up_s:
                raise TimeoutError(f"{topic} holds {count} results, only {seen} could be read")
            if failed := next((message.error() for message in got if message.error() is not None), None):
                raise RuntimeError(f"{topic} cannot be read: {failed}")
            if got:
                give_up_s = time.monotonic() + READ_TIMEOUT_S
            seen += len(got)
            yield from got
