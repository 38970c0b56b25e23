"""Delivery mode queue (preview): a share group. More workers than partitions, no order, at least once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError

from worker.errors import ErrorCode, KafkaRefused
from worker.kafka.connection import Connection
from worker.kafka.ledger import Entry
from worker.kafka.producer import ResultProducer
from worker.kafka.publishing import Publishing
from worker.kafka.share_intake import ShareIntake
from worker.records import Headers, source_of
from worker.sections import DeliverySettings, KafkaSettings

log = logging.getLogger(__name__)

MAX_DELIVERIES = 4  # Kafka drops a record after the fifth, without a word
COMMIT_TIMEOUT_S = 10.0


class ShareGroup(Publishing):
    """settle: publish what is answered, acknowledge what the broker has, give back what is late."""

    def __init__(self, kafka: KafkaSettings, delivery: DeliverySettings, connection: Connection) -> None:
        super().__init__(kafka, delivery, ResultProducer(kafka, connection))
        self._intake = ShareIntake(kafka, connection)
        self._reports = self._intake.reports
        self._max_deliveries = min(delivery.max_attempts, MAX_DELIVERIES)
        self._ready: list[Entry] = []  # answered, not yet published

    @property
    def consumer(self) -> ShareIntake:
        return self._intake

    def start(self) -> None:
        self._check()
        log.warning("delivery.mode is queue: a preview, as the client library calls it")
        self._intake.subscribe()

    def on_revoke(self, _finish: Callable[[Any, Any], None]) -> None:
        """Nothing is ever revoked: a record belongs to who holds its lock."""

    def take(self, max_records: int, timeout_s: float) -> list[Entry]:
        taken = self._intake.take(timeout_s)
        if not taken:
            return []
        self.on_taken(taken)
        entries = []
        for entry in taken:
            if (entry.record.delivery_count() or 1) <= self._max_deliveries:  # type: ignore[attr-defined]  # a share consumer's message has it
                entries.append(entry)
                continue
            why = f"the record was given out {self._max_deliveries} times and never answered"
            log.error("%s becomes a dead letter: %s", source_of(entry.record), why)
            self.refuse(entry, *self.explain(entry, "inference_failed", why))
        return entries

    def answer(self, ticket: Entry, value: bytes, headers: Headers) -> None:
        if not ticket.is_done:
            ticket.outgoing = [(self._kafka.output_topic, value, headers)]
            self._ready.append(ticket)

    def refuse(self, ticket: Entry, value: bytes, headers: Headers, code: ErrorCode, message: str) -> None:
        if not ticket.is_done:
            super().refuse(ticket, value, headers, code, message)
            self._ready.append(ticket)

    def settle(self, timeout_s: float) -> None:
        self._publish()
        self._producer.poll(timeout_s)
        if self._reports.failed:
            self._mend()
        if self._reports.done:
            settled, self._reports.done = self._reports.done, []
            for entry in settled:
                self._intake.accept(entry)
            self.on_settled(settled)
        if late := self._intake.release_late():
            log.warning("%d records were not answered before their locks end, and are given back", late)

    def in_flight(self, places: frozenset[tuple[str, int]] | None = None) -> int:
        return self._intake.in_flight

    def hold(self, is_held: bool) -> None:
        """Who does not take has nothing to hold: the members need no polling."""

    def commit(self) -> None:
        self._intake.commit(COMMIT_TIMEOUT_S)

    def close(self) -> None:
        self._intake.close()
        self._producer.close()

    def _publish(self) -> None:
        self._is_full = False
        while self._ready:
            entry = self._ready[-1]
            if not entry.is_done and not self._send(entry):
                self._is_full = True
                self.on_full()
                return
            self._ready.pop()
            if not entry.is_done and not entry.unacknowledged:  # nothing could be published at all
                self._reports.done.append(entry)

    def _mend(self) -> None:
        """Send something smaller in place of what the broker would not take.

        Raises:
            KafkaRefused: it was refused for another reason, after the client's own retries.
        """
        failed, self._reports.failed = self._reports.failed, []
        for entry, topic, size, error in failed:
            if error.code() != KafkaError.MSG_SIZE_TOO_LARGE:
                raise KafkaRefused(
                    f"topic {topic} did not take the answer to {source_of(entry.record)}: {error.str()}; "
                    "the record is given back"
                )
            entry.unacknowledged -= 1
            entry.outgoing = [*self._smaller(entry, topic, size), *(entry.outgoing or ())]
            self._ready.append(entry)
