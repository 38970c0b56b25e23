"""Delivery mode at_least_once: an offset is committed only after the broker acknowledged its answer."""

from __future__ import annotations

import logging
import time
from operator import attrgetter

from worker.deadline import Deadline
from worker.kafka.answers import Answers
from worker.kafka.caution import MARK_TIMEOUT_S
from worker.kafka.connection import Connection
from worker.kafka.ledger import Entry, Place
from worker.kafka.producer import ResultProducer
from worker.kafka.publishing import Acknowledged
from worker.sections import DeliverySettings, KafkaSettings

log = logging.getLogger(__name__)

COMMIT_INTERVAL_MS = 500
GATHER_S = 0.005  # for up to so many partitions of the output topic:
GATHER_PARTITIONS = 16
LONGEST_GATHER = 10  # times that, however many there are
LEDGER = attrgetter("ledger")
COMMIT_TIMEOUT_S = 10.0  # of the last commit, in the middle of a rebalance


class AtLeastOnce(Answers, Acknowledged):
    """settle: publish in partition order, run the broker's acknowledgements, commit behind them."""

    def __init__(self, kafka: KafkaSettings, delivery: DeliverySettings, connection: Connection) -> None:
        super().__init__(kafka, delivery, connection, ResultProducer(kafka, connection))
        self._commit_interval_s = (delivery.commit_interval_ms or COMMIT_INTERVAL_MS) / 1000
        self._next_commit_s = 0.0
        self._is_behind = False  # the last take brought as much as it asked for
        self._gather_s = GATHER_S
        self._publish_s = 0.0  # when answers go out, though there is more to be taken in
        self._is_last_made = False  # the last commit, or the attempt; the client's own wait would know no deadline

    def check(self) -> None:
        super().check()
        count = self._producer.partitions[self._output_topic]  # a request of the client holds the answers of one
        self._gather_s = GATHER_S * min(LONGEST_GATHER, max(1.0, count / GATHER_PARTITIONS))

    def take(self, max_records: int, timeout_s: float) -> list[Entry]:
        entries = super().take(max_records, timeout_s)
        self._is_behind = len(entries) >= max_records
        return entries

    def settle(self, timeout_s: float) -> None:
        super().settle(timeout_s)
        now_s = time.monotonic()
        if now_s >= self._next_commit_s or self._consumer.early.is_news:
            self._next_commit_s = now_s + self._commit_interval_s
            self._consumer.early.forget_news()
            self._consumer.commit()

    def commit(self) -> None:
        self._leaving = frozenset(self._consumer.ledgers)
        deadline = Deadline(COMMIT_TIMEOUT_S)
        self._consumer.hold(True)  # no more records; but the group may be changing, and that must go on meanwhile
        while not self._consumer.commit_within(deadline.left_s) and not deadline.is_over:
            self._consumer.keep(self._consumer.fetch(1, 0.05))
        self._is_last_made = True

    def close(self) -> None:
        self._consumer.on_revoke = (lambda _places: None) if self._is_last_made else self._commit_settled
        self._consumer.close()
        self._producer.close()

    def _replace_lost(self) -> None:
        self._consumer.rejoin()  # whichever it was: what is not acknowledged is read again
        if self._producer.is_lost:
            self._producer.renew()

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
        self._leaving |= places
        self._commit_settled(places)
        self._leaving -= places

    def _commit_settled(self, places: frozenset[Place]) -> None:
        self._consumer.commit(wait=True, places=places)

    def _publish(self) -> bool:
        if self._gathers():
            return True
        while self._touched:
            ledger, sent = self._touched.pop(), list[Entry]()
            if ledger.is_revoked:
                continue
            has_room = self._send_turn(ledger, sent)
            self._look_at(sent)
            if not has_room:
                self._touched.add(ledger)
                return False
        return True

    def _gathers(self) -> bool:
        """Whether answers wait a little longer: with more records at hand they go out some at a time.

        The client makes fewer batches of them, and has less to do for each answer. A record that comes out of such a
        backlog has waited for longer already.
        """
        is_behind, self._is_behind = self._is_behind, False  # who takes in nothing more must not wait
        now_s = time.monotonic()
        if is_behind and now_s < self._publish_s:
            return True
        self._publish_s = now_s + self._gather_s
        return False

    def _close_accounts(self, settled: list[Entry]) -> None:
        self._consumer.settle(set(map(LEDGER, settled)))
