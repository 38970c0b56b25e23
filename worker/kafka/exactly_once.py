"""Delivery mode exactly_once: answers and the offsets of their records in one transaction.

transaction_cycle.py is the work; here is how it begins, how partitions are handed over, and how it ends.
"""

from __future__ import annotations

import logging

from confluent_kafka import KafkaException, TopicPartition

from worker.deadline import Deadline
from worker.kafka.group_client import CONSUMER
from worker.kafka.ledger import Place
from worker.kafka.transaction_cycle import State, TransactionCycle
from worker.kafka.transactions import CALL_TIMEOUT_S, Outcome, judge

log = logging.getLogger(__name__)


class ExactlyOnce(TransactionCycle):
    """Lets go of partitions only behind a transaction that is over."""

    def check(self) -> None:
        self._producer.check([], [])
        self._transactions.start(self._startup_timeout_s)
        super().check()

    def commit(self) -> None:
        deadline = Deadline(CALL_TIMEOUT_S)
        self._settle_all(deadline)
        self._leaving = frozenset(self._consumer.ledgers)
        self._consumer.hold(True)  # no more records; but the group may be changing, and that must go on meanwhile
        while not self._commit_last(deadline, self._leaving) and not deadline.is_over:
            self._consumer.keep(self._fetch(1, 0.05))

    def close(self) -> None:
        self._consumer.on_revoke = lambda _places: None
        self._transactions.close(is_open=self._is_in(State.OPEN, State.CLOSING))
        self._consumer.close()

    def _replace_lost(self) -> None:
        is_replaced = self._transactions.is_busy or self._is_in(State.RECOVERING)  # by the thread, then or behind it
        if self._producer.is_lost and not is_replaced:
            self._rewind(Outcome.BROKEN)
        if CONSUMER in self._connection.lost:
            self._consumer.rejoin()

    def _revoke(self, places: frozenset[Place]) -> None:
        """Bring the records of these partitions to an end, in a transaction that is over, before they are let go."""
        deadline = Deadline(self._drain_timeout_s)
        self._finish(places, deadline)
        deadline = Deadline(max(CALL_TIMEOUT_S, deadline.left_s))
        self._settle_all(deadline)
        if left := self.in_flight(places):
            log.warning(
                "%d records of revoked partitions were not answered in time; the next owner reads them again", left
            )
        self._leaving |= places
        if not self._commit_last(deadline, places):
            log.warning("the last commit of revoked partitions failed; the next owner takes care, as after a death")
        self._leaving -= places

    def _commit_last(self, deadline: Deadline, places: frozenset[Place]) -> bool:
        """Before these partitions are let go: what is due, and that nobody died with them; False where that failed."""
        self._commit_due(deadline, places)
        self._await_thread(deadline)
        if not self._transactions.is_busy and (offsets := self._consumer.offsets.noted(places)):
            if self._is_in(State.IDLE):
                self._commit_only(offsets)
            elif self._is_in(State.RECOVERING):  # from a transaction of the group's last generation; now it has another
                self._commit_while_recovering(offsets)
            self._await_thread(deadline)
        return not self._consumer.offsets.noted(places)

    def _commit_while_recovering(self, offsets: list[TopicPartition]) -> None:
        """However it ends, the recovery goes on behind it."""
        if (metadata := self._consumer.group_metadata()) is None:
            return
        try:
            self._transactions.begin()
        except KafkaException as error:
            self._transactions.recover(judge(error.args[0]))
        else:
            self._offsets = offsets
            self._transactions.commit(offsets, metadata)

    def _await_thread(self, deadline: Deadline) -> None:
        while self._transactions.is_busy and not deadline.is_over:
            self.settle(0.01)

    def _commit_due(self, deadline: Deadline, places: frozenset[Place] | None = None) -> bool:
        """Commit what is due in a transaction of its own, and wait for it."""
        if self._is_in(State.IDLE) and (offsets := self._consumer.offsets.due(places)):
            self._commit_only(offsets)
            while self._is_in(State.COMMITTING) and not deadline.is_over:
                self.settle(0.01)
        return self._is_in(State.IDLE)

    def _commit_marks(self) -> bool:
        deadline = Deadline(CALL_TIMEOUT_S)
        self._settle_all(deadline)
        return self._commit_due(deadline)
