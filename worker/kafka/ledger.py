"""The account of one partition: what was taken in, what may be published next, what may be committed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import msgspec
from confluent_kafka import KafkaError, Message, TopicPartition

from worker.records import Headers, Record, readable

Place = tuple[str, int]  # (topic, partition)
Source = tuple[str, int, int]  # (topic, partition, offset)
Outgoing = tuple[str, bytes | None, bytes | None, Headers]  # (topic, value, key, headers)


def place_of(message: Message) -> Place:
    """Where a record was read; by their types a message may know neither."""
    return message.topic() or "", message.partition() or 0


def places_of(partitions: Iterable[TopicPartition]) -> frozenset[Place]:
    """The same of what the client lists."""
    return frozenset((each.topic, each.partition) for each in partitions)


def named(partitions: Iterable[TopicPartition]) -> str:
    """The same in words."""
    return ", ".join(f"{each.topic}/{each.partition}" for each in partitions) or "nothing"


class Failure(NamedTuple):
    """A message that the broker did not take, or the client gave up."""

    entry: Entry
    topic: str
    size: int  # see size_of()
    error: KafkaError


def size_of(outgoing: Outgoing) -> int:
    """Bytes of a message's key, value and headers."""
    _, value, key, headers = outgoing
    return len(value or b"") + len(key or b"") + sum(len(name) + len(value or b"") for name, value in headers)


class Reports:
    """What the broker said of the messages of all ledgers, until somebody looks."""

    def __init__(self) -> None:
        self.done: list[Entry] = []  # everything of theirs is acknowledged
        self.failed: list[Failure] = []


class Entry(msgspec.Struct, eq=False):  # one is made for every record: half the time of a class with slots
    """A record taken in. Waits for its answer, then for its turn, then for the broker."""

    ledger: PartitionLedger
    record: Record
    source_prefix: str = ""  # see records.Ticket
    outgoing: list[Outgoing] | None = None  # None until it is answered; kept until it is acknowledged
    sent: int = 0  # how many of them the producer has
    unacknowledged: int = 0  # how many of them the broker does not have
    refusal: tuple[str, str] | None = None  # (code, message) of what could not be answered
    is_done: bool = False

    @property
    def source(self) -> Source:
        return *self.ledger.place, self.record.offset()

    @property
    def created_ms(self) -> int:
        """Timestamp of the record; 0: it has none."""
        kind, timestamp_ms = self.record.timestamp()
        return timestamp_ms if kind else 0

    def answer(self, outgoing: list[Outgoing]) -> None:
        """What is to be published for this record; it replaces what was said before, all of it."""
        self.outgoing = outgoing
        self.sent = 0
        self.unacknowledged = len(outgoing)

    def replace(self, topic: str, smaller: list[Outgoing]) -> None:
        """Publish other messages in place of the one for this topic."""
        outgoing = self.outgoing or []
        place = next(place for place, each in enumerate(outgoing) if each[0] == topic)
        sent = self.sent - (place < self.sent)
        self.outgoing = [*outgoing[:place], *outgoing[place + 1 :]]
        self.outgoing[sent:sent] = smaller
        self.sent = sent
        self.unacknowledged += len(smaller) - 1

    def send_again(self, topic: str) -> None:
        """Publish once more what goes to this topic."""
        self.replace(topic, [each for each in self.outgoing or () if each[0] == topic])

    def delivered(self, error: KafkaError | None, message: Message) -> None:
        """One of its messages was acknowledged, or given up by the client."""
        if error is not None:
            topic = message.topic() or ""
            size = sum(size_of(each) for each in self.outgoing or () if each[0] == topic)
            self.ledger.reports.failed.append(Failure(self, topic, size, error))
            return
        self.unacknowledged -= 1
        if not self.unacknowledged:
            self.is_done = True
            self.ledger.reports.done.append(self)


class PartitionLedger:
    """Entries of one partition in offset order.

    Offsets need not be consecutive (compaction, transactions); an offset is committable only once every earlier entry
    is done.
    """

    __slots__ = (
        "_entries",
        "is_revoked",
        "next_offset",
        "partition",
        "place",
        "reports",
        "source_prefix",
        "topic",
        "unpublished",
    )

    def __init__(self, topic: str, partition: int, reports: Reports) -> None:
        self.reports = reports
        self.topic = topic
        self.partition = partition
        self.place: Place = (topic, partition)
        self.source_prefix = f"{topic}/{partition}/"
        self.is_revoked = False  # set when the partition is handed over: its answers are dropped from then on
        self.next_offset: int | None = None  # where a successor would have to start; None: nothing settled yet
        self._entries: deque[Entry] = deque()
        self.unpublished: deque[Entry] = deque()  # oldest first; the one whose turn it is stands in front

    def __len__(self) -> int:
        """Entries that are not settled."""
        return len(self._entries)

    def admit(self, records: Iterable[Record]) -> list[Entry]:
        """Take records into the account; they come in offset order."""
        prefix = self.source_prefix
        entries = [Entry(self, readable(record), prefix) for record in records]
        self._entries.extend(entries)
        self.unpublished.extend(entries)
        return entries

    @property
    def oldest_offset(self) -> int | None:
        """Offset of the oldest entry that is not settled; None while there is none."""
        return self._entries[0].record.offset() if self._entries else None

    @property
    def start(self) -> int | None:
        """Offset at which a successor would have to start; None: nothing was taken in."""
        return self.next_offset if self.next_offset is not None else self.oldest_offset

    @property
    def published_end(self) -> int | None:
        """Offset behind the last published entry that is not settled; None while there is none."""
        count = len(self._entries) - len(self.unpublished)
        return self._entries[count - 1].record.offset() + 1 if count else None

    @property
    def is_publishable(self) -> bool:
        """Whether the entry whose turn it is, is answered."""
        return bool(self.unpublished) and self.unpublished[0].outgoing is not None

    @property
    def is_published(self) -> bool:
        """Whether every entry is published."""
        return not self.unpublished

    def settle(self) -> int:
        """Close the account of the leading entries that are done; the number of them."""
        entries = self._entries
        before = len(entries)
        last = None
        while entries and entries[0].is_done:
            last = entries.popleft()
        if last is not None:
            self.next_offset = last.record.offset() + 1
        return before - len(entries)
