"""The cycle of a transaction: published into, closed when it is due, committed, or done again.

    idle --(something to publish)--> open --(due)--> closing --(all acknowledged)--> committing --> idle
                                        \\_________________ anything goes wrong ______________/
                                                              recovering --> idle

A transaction takes what is publishable until it is due; then its answers are flushed, and the offsets sent and
committed by a thread, while intake, lanes and encoding go on and the next transaction's answers gather in the ledgers.
When it fails, the work of all partitions is forgotten, and reading goes back; see recovery.py.
"""

from __future__ import annotations

import contextlib
import logging
import time
from enum import Enum

from confluent_kafka import KafkaException, Message, TopicPartition

from worker.deadline import Deadline
from worker.errors import KafkaRefused
from worker.kafka.answers import WAITING_S, Answers
from worker.kafka.connection import Connection
from worker.kafka.failures import judge_failures
from worker.kafka.ledger import Entry, places_of
from worker.kafka.recovery import Recovery
from worker.kafka.size_limits import SizeLimits
from worker.kafka.transactions import RECOVERY_TIMEOUT_S, Outcome, Transactions, judge, transactional_id
from worker.sections import DeliverySettings, KafkaSettings

log = logging.getLogger(__name__)

COMMIT_INTERVAL_MS = 100
TRANSACTION_RECORDS = 3_000  # fewer cost more commits, more cost more memory that is no longer in a cache
IDLE_COMMIT_S = 0.5  # between looks for positions behind control records
REPORTS_S = 0.2  # for what the client has still to say of a failed transaction


class State(Enum):
    IDLE = "idle"
    OPEN = "open"
    CLOSING = "closing"
    COMMITTING = "committing"
    RECOVERING = "recovering"


class TransactionCycle(Answers):
    """settle: publish into the open transaction, close it when it is due, go on when it is committed."""

    def __init__(self, kafka: KafkaSettings, delivery: DeliverySettings, connection: Connection) -> None:
        self._interval_s = (delivery.commit_interval_ms or COMMIT_INTERVAL_MS) / 1000
        name = transactional_id(kafka, delivery)
        self._transactions = Transactions(kafka, connection, name, self._interval_s)
        super().__init__(
            kafka, delivery, connection, self._transactions.producer, {"isolation.level": "read_committed"}
        )
        self._startup_timeout_s = kafka.startup_timeout_s
        self._consumer.on_assign = self._assigned
        self._state = State.IDLE
        self._published: list[Entry] = []  # of the present transaction
        self._offsets: list[TopicPartition] = []  # of the present transaction
        self._half: Entry | None = None  # published in part: its transaction cannot close yet
        self._recovery = Recovery(kafka, self._consumer)
        self._limits = SizeLimits()
        self._began_s = 0.0
        self._closed_s = 0.0
        self._next_idle_commit_s = 0.0
        self._is_asked = True  # the pipeline takes records in, else it waits for us

    @property
    def transactions(self) -> Transactions:
        """The transactional producer; tests abort on purpose."""
        return self._transactions

    def take(self, max_records: int, timeout_s: float) -> list[Entry]:
        self._is_asked = True
        return super().take(max_records, timeout_s)

    def _fetch(self, max_records: int, timeout_s: float) -> list[Message]:
        if not self._is_in(State.RECOVERING):
            messages = super()._fetch(max_records, timeout_s)
            if not self._is_in(State.RECOVERING):  # which it may have begun, in a rebalance callback
                return messages
        else:
            time.sleep(min(timeout_s, WAITING_S))  # no faster than that: it is all read again
            messages = super()._fetch(1, timeout_s)
        self._recovery.pass_over(messages)
        return []

    def settle(self, timeout_s: float) -> None:
        if self._transactions.is_busy:
            if self._transactions.wait(timeout_s):
                self._conclude()
            return
        if self._is_in(State.RECOVERING):
            if not self._consumer.offsets.is_reading:  # inside of a fetch, whose records are from before
                self._resume()
            return
        if self._is_in(State.IDLE, State.OPEN) and not self._publish():
            return
        try:
            self._producer.poll(timeout_s)
        except KafkaException as error:
            self._give_up(error)
            return
        if self._reports.failed:
            self._look_at_failures()
        elif self._is_in(State.OPEN) and self._is_due():
            self._state = State.CLOSING
        elif self._is_in(State.IDLE) and (self._consumer.early.is_news or not self._consumer.in_flight):
            self._commit_positions()
        if self._is_in(State.CLOSING) and not self._producer.queued:
            self._commit_transaction()
        self._is_asked = False

    @property
    def unacknowledged(self) -> int:
        return int(not self._is_in(State.IDLE))

    def _settle_all(self, deadline: Deadline) -> None:
        """Bring the present transaction to its end; publish nothing more."""
        while not self._is_in(State.IDLE, State.RECOVERING) and not deadline.is_over:
            if self._is_in(State.OPEN) and self._half is None:
                self._state = State.CLOSING
            self.settle(0.01)

    def _assigned(self, places: frozenset[tuple[str, int]]) -> None:
        self._caution.assign(places)
        self._recovery.assign(places)

    def _is_in(self, *states: State) -> bool:
        return self._state in states

    def _publish(self) -> bool:
        """Hand to the producer what is answered and whose turn it is; False where the transaction has failed."""
        self._is_full = False
        while self._touched and not self._is_full:
            ledger = self._touched.pop()
            if ledger.is_revoked or not ledger.is_publishable:
                continue
            try:
                if self._is_in(State.IDLE):
                    self._transactions.begin()
                    self._state, self._began_s = State.OPEN, time.monotonic()
                if self._limits:
                    self._limits.shrink_unsent(ledger.unpublished, self._replace)
                self._is_full = not self._send_turn(ledger, self._published)
            except KafkaException as error:  # the transaction failed already
                self._give_up(error)
                return False
            if self._is_full:
                self._touched.add(ledger)
                self._half = ledger.unpublished[0] if ledger.unpublished[0].sent else None
                self.on_full()
        if not self._is_full:
            self._half = None
        return True

    def _is_due(self) -> bool:
        if self._half is not None:
            return False
        if self._consumer.early.is_news:  # records that wait for this commit
            return True
        now_s = time.monotonic()
        if now_s - self._began_s >= self._interval_s or len(self._published) >= TRANSACTION_RECORDS:
            return True
        is_drained = len(self._published) >= self._consumer.in_flight
        is_awaited = not self._is_asked or self._caution.is_active  # a careful group waits for the one before it
        return is_drained and (is_awaited or now_s - self._closed_s >= self._interval_s)

    def _commit_transaction(self) -> None:
        """Send it on its way with the offsets behind what it answers."""
        self._closed_s = time.monotonic()
        metadata = self._consumer.group_metadata()  # before the assignment is read: an older one only fails
        ledgers = {entry.ledger for entry in self._published}
        if metadata is None or any(ledger.is_revoked for ledger in ledgers):
            log.warning("partitions of the open transaction were lost: it is aborted")
            self._rewind(Outcome.REFUSED)
            return
        is_drained = len(self._published) >= self._consumer.in_flight
        if is_drained:
            self._mark_next_group()
        self._offsets = self._consumer.offsets.published(ledgers)
        others = self._consumer.early.places
        if is_drained and self._caution.is_active:
            others = frozenset(self._consumer.ledgers)
        if others := others - {ledger.place for ledger in ledgers}:
            self._offsets += self._consumer.offsets.due(others)
        self._consumer.early.forget_news()
        self._state = State.COMMITTING
        self._transactions.commit(self._offsets, metadata)

    def _mark_next_group(self) -> None:
        """Have the commit that is about to be made say what runs after it, so that this needs no commit of its own."""
        caution = self._caution
        if caution.is_active and not caution.unread and (sources := self._next_sources()):
            if caution.is_over(*sources[0]):
                caution.end()
            else:
                caution.begin(sources[: caution.group(sources)])

    def _commit_positions(self) -> None:
        """With nothing in flight, behind control records, too, so that no lag is left; and what early records need."""
        now_s = time.monotonic()
        if self._caution.unread or (now_s < self._next_idle_commit_s and not self._consumer.early.is_news):
            return
        self._consumer.early.forget_news()
        self._next_idle_commit_s = now_s + max(IDLE_COMMIT_S, self._interval_s)
        if offsets := self._consumer.offsets.due():
            self._commit_only(offsets)

    def _commit_only(self, offsets: list[TopicPartition]) -> None:
        metadata = self._consumer.group_metadata()
        if metadata is None:
            return
        try:
            self._transactions.begin()
        except KafkaException as error:
            self._give_up(error)
            return
        self._offsets, self._state = offsets, State.COMMITTING
        self._transactions.commit(offsets, metadata)

    def _conclude(self) -> None:
        """The thread is done."""
        result = self._transactions.finish()
        if self._is_in(State.RECOVERING):
            if result is Outcome.COMMITTED:
                self._note_offsets()
                return
            self._offsets = []
            if self._recovery.is_over:
                raise KafkaRefused(f"no transaction can be had for {RECOVERY_TIMEOUT_S:g} s")
            self._transactions.recover(result)
        elif result is not Outcome.COMMITTED:
            self._rewind(result)
        else:
            self.on_transaction("committed")
            self._recovery.succeed()
            self._state = State.IDLE
            settled, self._published = self._published, []
            for entry in settled:
                entry.is_done = True
            if self._limits:
                self._limits.forget(settled)
            self._note_offsets()
            self._consumer.settle({entry.ledger for entry in settled})
            if settled:
                self.on_settled(settled)

    def _note_offsets(self) -> None:
        """They are committed."""
        offsets, self._offsets = self._offsets, []
        ours = [each for each in offsets if (each.topic, each.partition) in self._consumer.ledgers]
        self._consumer.offsets.note(ours)
        self._mark(places_of(ours))

    def _look_at_failures(self) -> None:
        failed, self._reports.failed = self._reports.failed, []
        self._rewind(*judge_failures(failed, self._producer, self._limits, self._kafka))

    def _give_up(self, error: KafkaException) -> None:
        """A call was refused: the transaction has failed already. The report that says why may still be on its way."""
        outcome, deadline = judge(error.args[0]), Deadline(REPORTS_S)
        with contextlib.suppress(KafkaException):
            while outcome is not Outcome.FENCED and not self._reports.failed and not deadline.is_over:
                self._producer.poll(deadline.left_s)
        if self._reports.failed and outcome is not Outcome.FENCED:
            self._look_at_failures()
            return
        log.warning("the transaction failed and is done again: %s", error.args[0].str())
        self._rewind(outcome, error.args[0].str())

    def _rewind(self, outcome: Outcome, why: str = "") -> None:
        """Forget all work, get rid of the transaction, and find out where to go back to.

        Raises:
            KafkaRefused: that has been done for too long, and nothing was committed in between.
        """
        self.on_transaction("fenced" if outcome is Outcome.FENCED else "aborted")
        self._published, self._offsets, self._half = [], [], None
        self._touched.clear()
        self._reports.failed.clear()
        self._is_full = False
        self._caution.end()
        self._recovery.begin()
        if self._recovery.is_over:
            raise KafkaRefused(
                f"no transaction could be committed for {RECOVERY_TIMEOUT_S:g} s ({why or outcome.value}); nothing of "
                "them counts"
            )
        self._state = State.RECOVERING
        self._transactions.recover(outcome)

    def _resume(self) -> None:
        if self._recovery.end():
            self._reports.failed.clear()  # what the abort itself made
            self._state = State.IDLE
