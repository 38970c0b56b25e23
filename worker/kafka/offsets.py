"""Offsets of the group: what is committed of each partition, and what is due to be."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from worker.errors import KafkaRefused
from worker.kafka.early_records import EarlyRecords
from worker.kafka.ledger import PartitionLedger, Place, place_of

SEEK_TIMEOUT_S = 5.0


class Offsets:
    """Belongs to a GroupConsumer, which sends what is due. One thread calls it."""

    def __init__(
        self,
        client: Consumer,
        ledgers: Mapping[Place, PartitionLedger],
        waiting: deque[Message],
        early: EarlyRecords,
    ) -> None:
        """Args:
        client: the consumer's own.
        ledgers: of the assigned partitions; kept up to date by the consumer.
        waiting: read, and not yet in a ledger; likewise.
        early: the same, and before those in waiting.
        """
        self._client = client
        self._ledgers = ledgers
        self._waiting = waiting
        self._early = early
        self._committed: dict[Place, tuple[int, str]] = {}  # what was last sent to be committed: offset, metadata
        self.is_reading = False  # somebody holds records that are behind the position, and in no ledger
        self.metadata_of: Callable[[Place], str] = lambda _place: ""  # what a commit says besides the offset

    def adopt(self, client: Consumer) -> None:
        """Another client has taken the place of the consumer's."""
        self._client = client

    def due(self, places: frozenset[Place] | None = None) -> list[TopicPartition]:
        """Offsets, with their metadata, that are settled and were not sent to be committed before."""
        found = []
        for place, ledger in self._ledgers.items():
            if places is not None and place not in places:
                continue
            offset = self._committable(ledger)
            if offset is None:
                continue
            metadata = self.metadata_of(place)
            if self._committed.get(place) != (offset, metadata):
                found.append(TopicPartition(*place, offset, metadata=metadata))
        return found

    def note(self, offsets: Iterable[TopicPartition]) -> None:
        """These are committed, or sent to be: they are not due again."""
        for each in offsets:
            self._committed[(each.topic, each.partition)] = (each.offset, each.metadata or "")

    def noted(self, places: Iterable[Place]) -> list[TopicPartition]:
        """The last commits of these partitions again, where their metadata should be other by now."""
        found = []
        for place in places:
            offset, metadata = self._committed.get(place, (None, ""))
            if offset is not None and (now := self.metadata_of(place)) != metadata:
                found.append(TopicPartition(*place, offset, metadata=now))
        return found

    def forget(self, places: Iterable[Place]) -> None:
        """Nothing is known of these partitions any more: a commit failed, or they are no longer ours."""
        for place in places:
            self._committed.pop(place, None)

    def is_noted(self, place: Place) -> bool:
        """Whether a commit of this partition was made, or read."""
        return place in self._committed

    def reach(self, place: Place) -> int | None:
        """How many records were taken in behind the last commit; None where none is known."""
        ledger, (offset, _) = self._ledgers.get(place), self._committed.get(place, (None, ""))
        if ledger is None or offset is None:
            return None
        return 0 if ledger.start is None else max(0, ledger.start + len(ledger) - offset)

    def committed(self, places: Iterable[Place], timeout_s: float) -> list[TopicPartition]:
        """Offsets and metadata that the group has committed; with read_committed it waits for open transactions.

        Raises:
            KafkaException: no answer, or not for every partition.
        """
        answered = self._client.committed([TopicPartition(*place) for place in places], timeout=timeout_s)
        for each in answered:
            if each.error is not None:
                raise KafkaException(each.error)
        return answered

    def published(self, ledgers: Iterable[PartitionLedger]) -> list[TopicPartition]:
        """Behind what was published of these ledgers, with their metadata."""
        found = []
        for ledger in ledgers:
            offset = ledger.published_end
            if ledger.is_published:
                offset = self.position(ledger, offset)
            if offset is not None:
                found.append(TopicPartition(*ledger.place, offset, metadata=self.metadata_of(ledger.place)))
        return found

    def rewind(self, starts: Mapping[Place, int]) -> None:
        """Go on reading at these offsets; partitions that are no longer ours are left out.

        Raises:
            KafkaRefused: the client would not.
        """
        for place, offset in starts.items():
            if place not in self._ledgers:
                continue
            give_up_s = time.monotonic() + SEEK_TIMEOUT_S
            while True:
                try:
                    self._client.seek(TopicPartition(*place, offset))
                    break
                except KafkaException as error:
                    if time.monotonic() > give_up_s:
                        raise KafkaRefused(
                            f"cannot go back to {place[0]}/{place[1]}/{offset}: {error.args[0].str()}"
                        ) from error
                time.sleep(0.05)

    def position(self, ledger: PartitionLedger, settled: int | None) -> int | None:
        """`settled`, or the place behind the control records that follow it, where nothing else was read."""
        if (early := self._early.first_offset(ledger.place)) is not None:
            return early
        if self.is_reading:
            return settled
        for message in self._waiting:
            if place_of(message) == ledger.place:
                return message.offset()
        (here,) = self._client.position([TopicPartition(*ledger.place)])
        return settled if here.offset < 0 else max(here.offset, settled or 0)

    def _committable(self, ledger: PartitionLedger) -> int | None:
        """Where a successor would start. With nothing in flight that is the position, behind control records too."""
        if len(ledger):
            return ledger.start
        return self.position(ledger, ledger.next_offset)
