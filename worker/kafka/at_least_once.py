"""Delivery mode at_least_once: an offset is committed only after the broker acknowledged its answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from confluent_kafka import KafkaError

from worker.deadline import Deadline
from worker.errors import ErrorCode, KafkaRefused
from worker.kafka import dead_letter
from worker.kafka.connection import Connection
from worker.kafka.consumer import GroupConsumer, Place
from worker.kafka.ledger import Entry, Outgoing, PartitionLedger
from worker.kafka.producer import ResultProducer, TooLarge
from worker.records import Headers, Ticket, source_of
from worker.sections import DeliverySettings, KafkaSettings

log = logging.getLogger(__name__)

Finish = Callable[[frozenset[Place], Deadline], None]
Explain = Callable[[Ticket, ErrorCode, str], tuple[bytes, Headers, ErrorCode, str]]  # the arguments of refuse()


def _no_answer(_ticket: Ticket, code: ErrorCode, message: str) -> tuple[bytes, Headers, ErrorCode, str]:
    raise KafkaRefused(f"{code}: {message}")


class AtLeastOnce:
    """Consumer, producer and ledgers of one worker; see protocols.Delivery for what the pipeline uses.

    1. take: a record enters its partition's ledger.
    2. answer or refuse: its entry gets what is to be published.
    3. settle: publish in partition order, run the broker's acknowledgements, commit behind them.
    """

    def __init__(self, kafka: KafkaSettings, delivery: DeliverySettings, connection: Connection) -> None:
        self._kafka = kafka
        self._drain_timeout_s = delivery.drain_timeout_s
        self._commit_interval_s = delivery.commit_interval_ms / 1000
        self._errors_to_output = delivery.errors_to in ("output", "both")
        self._dead_letter_topic = kafka.dead_letter_topic if delivery.errors_to in ("dead_letter", "both") else None
        self._keeps_timestamp = kafka.result_timestamp == "record"
        self._producer = ResultProducer(kafka, connection)
        self._consumer = GroupConsumer(kafka, connection)
        self._consumer.on_revoke = self._revoke
        self._finish: Finish = lambda _places, _deadline: None
        self._touched: set[PartitionLedger] = set()  # ledgers with answers that may be publishable
        self._reports = self._consumer.reports
        self._is_full = False
        self._next_commit_s = 0.0
        self._late: list[Entry] = []  # published out of turn: a replacement that did not fit the producer's memory
        self.explain: Explain = _no_answer  # the pipeline knows how to word an error answer
        self.on_taken: Callable[[list[Entry]], None] = lambda _entries: None
        self.on_full: Callable[[], None] = lambda: None
        self.on_settled: Callable[[list[Entry]], None] = lambda _entries: None
        self.on_dead_letter: Callable[[str], None] = lambda _code: None

    @property
    def consumer(self) -> GroupConsumer:
        """The group membership: assignments, and hooks for metrics."""
        return self._consumer

    def start(self) -> None:
        """See that the cluster and the topics are there, then join the group.

        Raises:
            KafkaRefused: no broker, no login, or a topic is missing.
        """
        written = [self._kafka.output_topic, *([self._dead_letter_topic] if self._dead_letter_topic else [])]
        self._producer.check(list(self._kafka.input_topics), written)
        self._consumer.subscribe()

    def on_revoke(self, finish: Finish) -> None:
        self._finish = finish

    def take(self, max_records: int, timeout_s: float) -> list[Entry]:
        entries = self._consumer.take(max_records, timeout_s)
        if entries:
            self.on_taken(entries)
        return entries

    def answer(self, ticket: Entry, value: bytes, headers: Headers) -> None:
        ticket.outgoing = [(self._kafka.output_topic, value, headers)]
        self._touched.add(ticket.ledger)

    def refuse(self, ticket: Entry, value: bytes, headers: Headers, code: ErrorCode, message: str) -> None:
        ticket.refusal = (code, message)
        ticket.outgoing = []
        if self._errors_to_output:
            ticket.outgoing.append((self._kafka.output_topic, value, headers))
        if self._dead_letter_topic is not None:
            record = ticket.record
            ticket.outgoing.append(
                (self._dead_letter_topic, record.value(), dead_letter.headers_of(record, code, message))
            )
            self.on_dead_letter(code)
        self._touched.add(ticket.ledger)

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

    def in_flight(self, places: frozenset[Place] | None = None) -> int:
        if places is None:
            return self._consumer.in_flight
        ledgers = self._consumer.ledgers
        return sum(len(ledgers[place]) for place in places if place in ledgers)

    @property
    def unacknowledged(self) -> int:
        return self._producer.queued

    @property
    def has_room(self) -> bool:
        return not self._is_full

    def hold(self, is_held: bool) -> None:
        self._consumer.hold(is_held)

    def commit(self) -> None:
        self._consumer.commit(wait=True)

    def close(self) -> None:
        self._consumer.on_revoke = lambda _places: None
        self._consumer.close()
        self._producer.close()

    def _revoke(self, places: frozenset[Place]) -> None:
        """Bring the records of these partitions to an end before somebody else gets them."""
        deadline = Deadline(self._drain_timeout_s)
        self._finish(places, deadline)
        if left := self.in_flight(places):
            log.warning(
                "%d records of revoked partitions were not answered in time; the next owner reads them again", left
            )

    def _publish(self) -> None:
        """Hand to the producer what is answered and whose turn it is."""
        self._is_full = False
        while self._late:
            if not self._send(self._late[-1]):
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

    def _send(self, entry: Entry) -> bool:
        """Send all that the entry has; False where the producer is full (what is left stays in the entry)."""
        outgoing = entry.outgoing
        record = entry.record
        kind, timestamp_ms = record.timestamp() if self._keeps_timestamp else (0, 0)
        while outgoing:
            topic, value, headers = outgoing[0]
            try:
                if not self._producer.send(
                    topic,
                    value,
                    record.key(),
                    headers,
                    entry.ledger.partition,
                    timestamp_ms if kind else 0,
                    entry.delivered,
                ):
                    return False
            except TooLarge:
                outgoing[:1] = self._smaller(entry, topic, len(value or b""))
                continue
            entry.unacknowledged += 1
            del outgoing[0]
        if not entry.unacknowledged:  # nothing could be published at all
            entry.is_done = True
            self._reports.done.append(entry)
        return True

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
            if not self._send(entry):
                self._late.append(entry)

    def _smaller(self, entry: Entry, topic: str, size: int) -> list[Outgoing]:
        """What to publish in place of a message of `size` bytes, which is too large for its topic."""
        source = source_of(entry.record)
        if entry.refusal is None:
            why = f"the result has {size} bytes, more than topic {topic} takes"
            self.refuse(entry, *self.explain(entry, "too_large", why))
            return entry.outgoing or []
        if topic == self._dead_letter_topic and size > 0:
            headers = dead_letter.headers_of(entry.record, *entry.refusal)
            return [(topic, None, [*headers, (dead_letter.OMITTED_HEADER, str(size))])]
        log.error("the error answer or dead letter of %s was given up: key and headers alone are too large", source)
        return []
