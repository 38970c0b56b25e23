"""Delivery mode queue (preview): a share group. More workers than partitions, no order, at least once."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from worker.errors import ErrorCode
from worker.kafka.connection import Connection
from worker.kafka.ledger import Entry
from worker.kafka.producer import ResultProducer
from worker.kafka.publishing import Acknowledged
from worker.kafka.share_intake import ShareIntake
from worker.kafka.suspects import Suspects, times
from worker.records import Headers, source_of
from worker.sections import DeliverySettings, KafkaSettings

log = logging.getLogger(__name__)

COMMIT_TIMEOUT_S = 10.0
WAITING_S = 0.001  # while suspects are at work


class ShareGroup(Acknowledged):
    """settle: publish what is answered, acknowledge what the broker has, give back what is late."""

    unanswered = "the record is given back"

    def __init__(self, kafka: KafkaSettings, delivery: DeliverySettings, connection: Connection) -> None:
        super().__init__(kafka, delivery, ResultProducer(kafka, connection))
        self._connection = connection
        self._intake = ShareIntake(kafka, connection, self._reports)
        self._suspects = Suspects()
        self._ready: list[Entry] = []  # answered, not yet published

    @property
    def consumer(self) -> ShareIntake:
        return self._intake

    def join(self) -> None:
        log.warning("delivery.mode is queue: a preview, as the client library calls it")
        self._intake.subscribe()

    def on_revoke(self, _finish: Callable[[Any, Any], None]) -> None:
        """Nothing is ever revoked: a record belongs to who holds its lock."""

    def take(self, max_records: int, timeout_s: float) -> list[Entry]:
        if self._connection.lost:
            self._replace_lost()
        if waiting := len(self._suspects):
            if self._intake.in_flight > waiting:
                time.sleep(min(timeout_s, WAITING_S))
                return []
            self._intake.commit(COMMIT_TIMEOUT_S)  # or a death would count against what is answered
            return self._suspects.group()
        taken = self._intake.take(timeout_s)
        if not taken:
            return []
        for ledger, count in Counter([entry.ledger for entry in taken]).items():
            self.on_taken(ledger, count)
        entries = [entry for entry in taken if times(entry) == 1]
        if len(entries) == len(taken):
            self._intake.widen()
        else:
            log.warning("%d records were given out before; they run in small groups", len(taken) - len(entries))
            for entry in self._suspects.add(entry for entry in taken if times(entry) > 1):
                why = f"the record was given out {times(entry)} times and never accepted"
                log.error("%s becomes a dead letter: %s", source_of(entry.record), why)
                self.refuse(entry, *self.explain(entry, "inference_failed", why))
        return entries

    @property
    def is_calm(self) -> bool:
        return not len(self._suspects)

    def answer(self, ticket: Entry, value: bytes, headers: Headers) -> None:
        if not ticket.is_done:
            super().answer(ticket, value, headers)
            self._ready.append(ticket)

    def refuse(self, ticket: Entry, value: bytes, headers: Headers, code: ErrorCode, message: str) -> None:
        if not ticket.is_done:
            super().refuse(ticket, value, headers, code, message)
            self._ready.append(ticket)

    def settle(self, timeout_s: float) -> None:
        super().settle(timeout_s)
        if late := self._intake.release_late():
            log.warning("%d records were not answered before their locks end, and are given back", late)

    def _replace_lost(self) -> None:
        """Have others in the place of lost clients; what was in hand is given out again."""
        self._intake.rejoin()
        self._suspects = Suspects()
        if self._producer.is_lost:
            self._producer.renew()
            self._reports.failed.clear()  # what the old one was made to forget

    def _close_accounts(self, settled: list[Entry]) -> None:
        for entry in settled:
            self._intake.accept(entry)

    def in_flight(self, places: frozenset[tuple[str, int]] | None = None) -> int:
        return self._intake.in_flight - len(self._suspects)

    def hold(self, is_held: bool) -> None:
        """Who does not take has nothing to hold: the members need no polling."""

    def commit(self) -> None:
        self._intake.commit(COMMIT_TIMEOUT_S)

    def close(self) -> None:
        self._intake.close()
        self._producer.close()

    def _publish(self) -> bool:
        while self._ready:
            entry = self._ready[-1]
            if not entry.is_done:
                if not self._send(entry):
                    return False
                self._look_at([entry])
            self._ready.pop()
        return True
