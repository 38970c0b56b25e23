"""Delivery mode at_least_once: an offset is committed only after the broker acknowledged its answer."""

from __future__ import annotations

import logging
import time

from confluent_kafka import KafkaError

from worker.deadline import Deadline
from worker.errors import KafkaRefused
from worker.kafka.answers import Answers
from worker.kafka.connection import Connection
from worker.kafka.consumer import Place
from worker.kafka.ledger import Entry
from worker.kafka.producer import ResultProducer
from worker.records import source_of
from worker.sections import DeliverySettings, KafkaSettings

log = logging.getLogger(__name__)

COMMIT_INTERVAL_MS = 500
MARK_TIMEOUT_S = 2.0
COMMIT_TIMEOUT_S = 10.0  # of the last commit, in the middle of a rebalance


class AtLeastOnce(Answers):
    """settle: publish in partition order, run the broker's acknowledgements, commit behind them."""

    def __init__(self, kafka: KafkaSettings, delivery: DeliverySettings, connection: Connection) -> None:
        super().__init__(kafka, delivery, connection, ResultProducer(kafka, connection))
        self._commit_interval_s = (delivery.commit_interval_ms or COMMIT_INTERVAL_MS) / 1000
        self._next_commit_s = 0.0
        self._late: list[Entry] = []  # published out of turn: a replacement that did not fit the producer's memory

    def settle(self, timeout_s: float) -> None:
        self._publish()
        self._producer.poll(timeout_s)
        if self._reports.failed:
            self._mend()
        if self._reports.done:
            settled, self._reports.done = self._reports.done, []
            self.on_settled(settled)
            self._consumer.settle({entry.ledger for entry in settled})
        now_s = time.monotonic()
        if now_s >= self._next_commit_s:
            self._next_commit_s = now_s + self._commit_interval_s
            self._consumer.commit()

    def commit(self) -> None:
        self._leaving = frozenset(self._consumer.ledgers)
        deadline = Deadline(COMMIT_TIMEOUT_S)
        while not self._consumer.commit(wait=True) and not deadline.is_over:
            self._consumer.hold(True)  # the group is changing, and takes no commit until that is over: go along with it
            self._consumer.keep(self._consumer.fetch(1, 0.05))

    def close(self) -> None:
        self._consumer.on_revoke = self._commit_settled
        self._consumer.close()
        self._producer.close()

    def _commit_marks(self) -> bool:
        return self._consumer.commit_within(MARK_TIMEOUT_S)

    def _revoke(self, places: frozenset[Place]) -> None:
        """Bring the records of these partitions to an end before somebody else gets them."""
        deadline = Deadline(self._drain_timeout_s)
        self._finish(places, deadline)
        if left := self.in_flight(places):
            log.warning(
                "%d records of revoked partitions were not answered in time; the next owner reads them again", left
            )
        self._leaving = places
        self._commit_settled(places)
        self._leaving = frozenset()

    def _commit_settled(self, places: frozenset[Place]) -> None:
        self._consumer.commit(wait=True, places=places)

    def _publish(self) -> None:
        """Hand to the producer what is answered and whose turn it is."""
        self._is_full = False
        while self._late:
            if not self._try(self._late[-1]):
                self._is_full = True
                return
            self._late.pop()
        while self._touched:
            ledger = self._touched.pop()
            if ledger.is_revoked:
                continue
            for entry in ledger.publishable():
                if not self._send(entry):
                    self._touched.add(ledger)
                    self._is_full = True
                    self.on_full()
                    return
                if not entry.unacknowledged:  # nothing could be published at all
                    entry.is_done = True
                    self._reports.done.append(entry)

    def _try(self, entry: Entry) -> bool:
        is_sent = self._send(entry)
        if is_sent and not entry.unacknowledged:  # nothing could be published at all
            entry.is_done = True
            self._reports.done.append(entry)
        return is_sent

    def _mend(self) -> None:
        """Send something smaller in place of what the broker would not take.

        Raises:
            KafkaRefused: it was refused for another reason, after the client's own retries.
        """
        failed, self._reports.failed = self._reports.failed, []
        for entry, topic, size, error in failed:
            if entry.ledger.is_revoked:
                continue
            if error.code() != KafkaError.MSG_SIZE_TOO_LARGE:
                raise KafkaRefused(
                    f"topic {topic} did not take the answer to {source_of(entry.record)}: {error.str()}; "
                    "nothing was committed for it"
                )
            entry.unacknowledged -= 1
            entry.outgoing = [*self._smaller(entry, topic, size), *(entry.outgoing or ())]
            if not self._try(entry):
                self._late.append(entry)
