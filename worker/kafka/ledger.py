"""The account of one partition: what was taken in, what may be published next, what may be committed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from confluent_kafka import KafkaError, Message

from worker.records import Headers, Record

Outgoing = tuple[str, bytes | None, Headers]  # (topic, value, headers)


class Reports:
    """What the broker said of the messages of all ledgers, until somebody looks."""

    def __init__(self) -> None:
        self.done: list[Entry] = []  # everything of theirs is acknowledged
        self.failed: list[tuple[Entry, str, int, KafkaError]] = []  # entry, topic, bytes of the value, why


class Entry:
    """A record taken in. Waits for its answer, then for its turn, then for the broker."""

    __slots__ = ("is_done", "ledger", "outgoing", "record", "refusal", "unacknowledged")

    def __init__(self, ledger: PartitionLedger, record: Record) -> None:
        self.ledger = ledger
        self.record = record
        self.outgoing: list[Outgoing] | None = None  # None until it is answered; emptied as it is published
        self.unacknowledged = 0
        self.refusal: tuple[str, str] | None = None  # (code, message) of what could not be answered
        self.is_done = False

    def delivered(self, error: KafkaError | None, message: Message) -> None:
        """One of its messages was acknowledged, or given up by the client."""
        if error is not None:
            report = (self, message.topic() or "", len(message.value() or b""), error)
            self.ledger.reports.failed.append(report)
            return
        self.unacknowledged -= 1
        if not self.unacknowledged and not self.outgoing:
            self.is_done = True
            self.ledger.reports.done.append(self)


class PartitionLedger:
    """Entries of one partition in offset order.

    Offsets need not be consecutive (compaction, transactions); an offset is committable only once every earlier entry
    is done.
    """

    __slots__ = ("_entries", "_unpublished", "is_revoked", "next_offset", "partition", "reports", "topic")

    def __init__(self, topic: str, partition: int, reports: Reports) -> None:
        self.reports = reports
        self.topic = topic
        self.partition = partition
        self.is_revoked = False  # set when the partition is handed over: its answers are dropped from then on
        self.next_offset: int | None = None  # where a successor would have to start; None: nothing settled yet
        self._entries: deque[Entry] = deque()
        self._unpublished: deque[Entry] = deque()

    def __len__(self) -> int:
        """Entries that are not settled."""
        return len(self._entries)

    def admit(self, record: Record) -> Entry:
        """Take a record into the account; records come in offset order."""
        entry = Entry(self, record)
        self._entries.append(entry)
        self._unpublished.append(entry)
        return entry

    def publishable(self) -> Iterator[Entry]:
        """Answered entries whose turn it is, oldest first.

        An entry counts as published when the iterator is asked for the one after it; stop iterating to keep it.
        """
        unpublished = self._unpublished
        while unpublished and unpublished[0].outgoing is not None:
            yield unpublished[0]
            unpublished.popleft()

    @property
    def oldest_offset(self) -> int | None:
        """Offset of the oldest entry that is not settled; None while there is none."""
        return self._entries[0].record.offset() if self._entries else None

    @property
    def published_end(self) -> int | None:
        """Offset behind the last published entry that is not settled; None while there is none."""
        count = len(self._entries) - len(self._unpublished)
        return self._entries[count - 1].record.offset() + 1 if count else None

    @property
    def is_published(self) -> bool:
        """Whether every entry is published."""
        return not self._unpublished

    def settle(self) -> int:
        """Close the account of the leading entries that are done; the number of them."""
        entries = self._entries
        count = 0
        while entries and entries[0].is_done:
            self.next_offset = entries.popleft().record.offset() + 1
            count += 1
        return count
