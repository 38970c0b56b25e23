"""A group member and a producer that do as they are told; they stand for librdkafka's."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from tests.records import FakeRecord

TOPIC = "requests"
NOWHERE = -1001  # the position before anything was read


class Read(FakeRecord):
    """A record as the consumer gives it."""

    def error(self) -> None: ...


class Member:
    """A consumer of several partitions: the group's committed offsets, and commits whose answers are heard in poll().

    `troubles` are what the next commits are answered with, one by one; None: it is committed.
    """

    def __init__(self, config: dict[str, Any], partitions: int) -> None:
        self._on_commit = config["on_commit"]
        self.partitions = list(range(partitions))
        self.ends = dict.fromkeys(self.partitions, 0)  # partition -> what may be read
        self.at = dict.fromkeys(self.partitions, 0)
        self.committed_now: dict[int, int] = {}  # partition -> offset
        self.most: dict[int, int] = {}  # partition -> highest offset that was ever committed, or asked to be
        self.metadata: dict[int, str] = {}  # partition -> what its last commit says besides
        self.commits: list[list[int]] = []  # partitions of each commit
        self.may_leave = threading.Event()  # whether the group lets it go
        self.may_leave.set()
        self.troubles: deque[KafkaError | None] = deque()
        self.answers = True  # whether the broker does
        self.rebalances: deque[tuple[str, list[int]]] = deque([("on_assign", self.partitions)])
        self.rebalances_in_consume: deque[tuple[str, list[int]]] = deque()
        self._answers: deque[tuple[KafkaError | None, list[TopicPartition]]] = deque()
        self._callbacks: dict[str, Callable[[Any, list[TopicPartition]], None]] = {}

    def subscribe(self, _topics: list[str], **callbacks: Any) -> None:
        self._callbacks = callbacks

    def poll(self, _timeout_s: float) -> Read | None:
        self._rebalance(self.rebalances)
        while self._answers:
            self._on_commit(*self._answers.popleft())
        return next(iter(self._read(1)), None)

    def consume(self, count: int, _timeout_s: float) -> list[Read]:
        self._rebalance(self.rebalances_in_consume)
        return self._read(count)

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> list[TopicPartition] | None:
        self.commits.append([each.partition for each in offsets])
        for each in offsets:
            self.most[each.partition] = max(each.offset, self.most.get(each.partition, 0))
        if not self.answers:
            assert asynchronous, "the client would wait for ever"
            return None
        error = self.troubles.popleft() if self.troubles else None
        if error is None:
            self.committed_now.update({each.partition: each.offset for each in offsets})
            self.metadata.update({each.partition: each.metadata or "" for each in offsets})
        if asynchronous:
            self._answers.append((error, offsets))
            return None
        if error is not None:
            raise KafkaException(error)
        return offsets

    def committed(self, places: list[TopicPartition], **_options: float) -> list[TopicPartition]:
        return [
            TopicPartition(
                TOPIC,
                each.partition,
                self.committed_now.get(each.partition, NOWHERE),
                metadata=self.metadata.get(each.partition, ""),
            )
            for each in places
        ]

    def position(self, places: list[TopicPartition]) -> list[TopicPartition]:
        return [TopicPartition(TOPIC, each.partition, self.at[each.partition] or NOWHERE) for each in places]

    def assignment(self) -> list[TopicPartition]:
        return [TopicPartition(TOPIC, partition) for partition in self.partitions]

    def pause(self, _places: list[TopicPartition]) -> None: ...

    def resume(self, _places: list[TopicPartition]) -> None: ...

    def close(self) -> None:
        """Leave: what is assigned is revoked."""
        self.may_leave.wait()
        self._call("on_revoke", self.partitions)

    def _read(self, count: int) -> list[Read]:
        read: list[Read] = []
        for partition in self.partitions:
            start = self.at[partition]
            self.at[partition] = max(start, min(self.ends[partition], start + count - len(read)))
            read += [Read(b"", partition=partition, offset=offset) for offset in range(start, self.at[partition])]
        return read

    def _rebalance(self, rebalances: deque[tuple[str, list[int]]]) -> None:
        while rebalances:
            self._call(*rebalances.popleft())

    def _call(self, name: str, partitions: list[int]) -> None:
        self._callbacks[name](self, [TopicPartition(TOPIC, partition) for partition in partitions])
        if name != "on_assign":
            self.partitions = [partition for partition in self.partitions if partition not in partitions]


class Reporter:
    """A producer whose delivery reports come when the test says so."""

    def __init__(self, _config: dict[str, Any]) -> None:
        self._due: list[Callable[[None, None], None]] = []
        self._waiting: list[tuple[bytes | None, Callable[[None, None], None]]] = []

    @property
    def published(self) -> list[bytes | None]:
        """Values without a report."""
        return [value for value, _ in self._waiting]

    def acknowledge(self, *values: bytes) -> None:
        """The next poll reports these."""
        for value in values:
            place = self.published.index(value)
            self._due.append(self._waiting.pop(place)[1])

    def produce(
        self, _topic: str, value: bytes | None, _key: object, _partition: int, report: Any, *_more: object
    ) -> None:
        self._waiting.append((value, report))

    def poll(self, _timeout_s: float) -> None:
        while self._due:
            self._due.pop(0)(None, None)

    def __len__(self) -> int:
        return len(self._waiting) + len(self._due)

    def purge(self, **_how: bool) -> None: ...
