"""What every delivery mode makes of an answer: messages for the output and the dead-letter topic."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable

from confluent_kafka import KafkaError, KafkaException

from worker.errors import ErrorCode, KafkaRefused
from worker.kafka import dead_letter
from worker.kafka.ledger import Entry, Failure, Outgoing, PartitionLedger, Reports, size_of
from worker.kafka.membership import Membership
from worker.kafka.producer import ResultProducer
from worker.kafka.remedies import with_remedy
from worker.records import Headers, Ticket, source_of
from worker.sections import DeliverySettings, KafkaSettings

log = logging.getLogger(__name__)

TOPIC_REFUSALS = frozenset(
    (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)
)
NO_TIMESTAMP = (0, 0)
Explain = Callable[[Ticket, ErrorCode, str], tuple[bytes, Headers, ErrorCode, str]]  # the arguments of refuse()


def _no_answer(_ticket: Ticket, code: ErrorCode, message: str) -> tuple[bytes, Headers, ErrorCode, str]:
    raise KafkaRefused(f"{code}: {message}")


class Publishing(ABC):
    """The part of a delivery mode that faces the producer; see protocols.Delivery for what the pipeline uses."""

    unanswered = "nothing was committed for it"  # a record whose answer no topic takes, and which ends the process

    def __init__(self, kafka: KafkaSettings, delivery: DeliverySettings, producer: ResultProducer) -> None:
        self._kafka = kafka
        self._output_topic = kafka.output_topic
        self._errors_to_output = delivery.errors_to in ("output", "both")
        self._dead_letter_topic = kafka.dead_letter_topic if delivery.errors_to in ("dead_letter", "both") else None
        self._keeps_timestamp = kafka.result_timestamp == "record"
        self._producer = producer
        self._reports = Reports()
        self._touched: set[PartitionLedger] = set()  # ledgers with answers that may be publishable
        self._is_full = False
        self.refusals = 0  # that were made, settled or not
        self.explain: Explain = _no_answer  # the pipeline knows how to word an error answer
        self.on_taken: Callable[[PartitionLedger, int], None] = lambda _ledger, _count: None  # so many records of it
        self.on_full: Callable[[], None] = lambda: None
        self.on_settled: Callable[[list[Entry]], None] = lambda _entries: None
        self.on_transaction: Callable[[str], None] = lambda _outcome: None

    @property
    @abstractmethod
    def consumer(self) -> Membership:
        """What we have of the input topics, and hooks for metrics."""

    def start(self) -> None:
        """check(), then join()."""
        self.check()
        self.join()

    def check(self) -> None:
        """See that the cluster and the topics are there; waits for a broker.

        Raises:
            KafkaRefused: no broker, no login, or a topic is missing.
        """
        written = [self._output_topic, *([self._dead_letter_topic] if self._dead_letter_topic else [])]
        self._producer.check(list(self._kafka.input_topics), written)

    @abstractmethod
    def join(self) -> None:
        """Become a member of the group.

        Raises:
            KafkaRefused: this cluster has no such groups.
        """

    def stay(self, timeout_s: float) -> None:
        """Remain a member for so long, without taking anything in."""
        time.sleep(timeout_s)

    @property
    def is_calm(self) -> bool:
        """Whether its partitions, if it needs any and has them, hold no record that must be run with care."""
        return True

    @abstractmethod
    def in_flight(self, places: frozenset[tuple[str, int]] | None = None) -> int: ...

    @abstractmethod
    def settle(self, timeout_s: float) -> None: ...

    @abstractmethod
    def commit(self) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Leave the group; what is not committed goes to the successor."""

    def answer(self, ticket: Entry, value: bytes, headers: Headers) -> None:
        ticket.outgoing = [(self._output_topic, value, ticket.record.key(), headers)]
        ticket.unacknowledged = 1
        self._touched.add(ticket.ledger)

    def refuse(self, ticket: Entry, value: bytes, headers: Headers, code: ErrorCode, message: str) -> None:
        ticket.answer(self._refusal(ticket, value, headers, code, message))
        self._touched.add(ticket.ledger)

    @property
    def unacknowledged(self) -> int:
        return self._producer.queued

    @property
    def has_room(self) -> bool:
        return not self._is_full

    def _refusal(self, ticket: Entry, value: bytes, headers: Headers, code: ErrorCode, message: str) -> list[Outgoing]:
        """The messages that say so, as delivery.errors_to wants them."""
        self.refusals += 1
        ticket.refusal = (code, message)
        record = ticket.record
        outgoing: list[Outgoing] = []
        if self._errors_to_output:
            outgoing.append((self._output_topic, value, record.key(), headers))
        if self._dead_letter_topic is not None:
            told = dead_letter.headers_of(record, code, message)
            outgoing.append((self._dead_letter_topic, record.value(), record.key(), told))
        return outgoing

    def _send_turn(self, ledger: PartitionLedger, sent: list[Entry]) -> bool:
        """Hand to the producer what is answered and whose turn it is, and append it to `sent`.

        Returns:
            False where the producer is full; the entry in front may have been sent in part.

        Raises:
            KafkaException: the producer is no good any more.
        """
        unpublished, produce, keeps_timestamp = ledger.unpublished, self._producer.produce, self._keeps_timestamp
        while unpublished and (outgoing := (entry := unpublished[0]).outgoing) is not None:
            if len(outgoing) == 1 and not entry.sent:
                topic, value, key, headers = outgoing[0]
                if key is not None:  # the common answer goes without a call of our own
                    kind, timestamp_ms = entry.record.timestamp() if keeps_timestamp else NO_TIMESTAMP
                    try:
                        produce(topic, value, key, -1, entry.delivered, None, timestamp_ms if kind else 0, headers)
                        entry.sent = 1
                    except (BufferError, KafkaException):
                        pass  # see what _send() makes of it
            if entry.sent < len(outgoing) and not self._send(entry):
                return False
            sent.append(unpublished.popleft())
        return True

    def _send(self, entry: Entry) -> bool:
        """Send all that the entry has; False where the producer is full."""
        outgoing = entry.outgoing or []
        timestamp_ms = entry.created_ms if self._keeps_timestamp else 0
        producer, place = self._producer, entry.ledger.partition
        while entry.sent < len(outgoing):
            topic, value, key, headers = outgoing[entry.sent]
            try:
                # by position: names would cost half a microsecond a record; partition -1: by the key
                producer.produce(
                    topic,
                    value,
                    key,
                    place % producer.partitions[topic] if key is None else -1,
                    entry.delivered,
                    None,
                    timestamp_ms,
                    headers,
                )
            except BufferError:
                return False
            except KafkaException as error:
                if error.args[0].code() in TOPIC_REFUSALS:  # the client knows by now
                    raise self._refused_by(topic, entry, error.args[0]) from error
                if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                    raise
                self._replace(entry, topic, size_of(outgoing[entry.sent]))  # above the producer's own limit
                outgoing = entry.outgoing or []
                continue
            entry.sent += 1
        return True

    def _refused_by(self, topic: str, entry: Entry, error: KafkaError) -> KafkaRefused:
        reason = with_remedy(error, self._kafka, topic)
        source = source_of(entry.record)
        return KafkaRefused(f"topic {topic} did not take the answer to {source}: {reason}; {self.unanswered}")

    def _replace(self, entry: Entry, topic: str, size: int) -> None:
        """Put something smaller in the place of a message of `size` bytes, which is too large for its topic."""
        if entry.refusal is None:
            why = f"the result has {size} bytes with key and headers, more than topic {topic} takes"
            smaller = self._refusal(entry, *self.explain(entry, "too_large", why))
        else:
            smaller = self._bare(entry, topic, *entry.refusal)
        if not smaller:
            log.error("an answer to %s was given up: topic %s takes next to nothing", source_of(entry.record), topic)
        entry.replace(topic, smaller)

    def _bare(self, entry: Entry, topic: str, code: str, message: str) -> list[Outgoing]:
        """An error answer or a dead letter without what the record brought: first its value, then key and headers."""
        (refused,) = [each for each in entry.outgoing or () if each[0] == topic]
        _, value, key, headers = refused
        if topic != self._dead_letter_topic:
            bare = [header for header in headers if header[0] in dead_letter.OF_ANSWERS]
        else:
            omitted = (dead_letter.OMITTED_HEADER, str(len(entry.record.value() or b"")))
            if value:
                return [(topic, None, key, [*headers, omitted])]
            bare = [*dead_letter.headers_of(entry.record, code, message, with_own=False), omitted]
        return [(topic, value, None, bare)] if key is not None or len(bare) < len(headers) else []


class Acknowledged(Publishing):
    """The modes whose answers go out at once, and count when the broker has acknowledged them."""

    def __init__(self, kafka: KafkaSettings, delivery: DeliverySettings, producer: ResultProducer) -> None:
        super().__init__(kafka, delivery, producer)
        self._late: deque[Entry] = deque()  # to be published out of turn: in place of what was too large
        self._refused: list[Failure] = []  # by their batches' size; sent again in smaller ones

    @abstractmethod
    def _publish(self) -> bool:
        """Hand to the producer what is answered and whose turn it is; False where it is full."""

    @abstractmethod
    def _close_accounts(self, settled: list[Entry]) -> None:
        """All answers to these records are acknowledged."""

    def settle(self, timeout_s: float) -> None:
        """Publish, hear what the broker has acknowledged, mend what it refused.

        Raises:
            KafkaRefused: an answer was refused, not for its size, after the client's own retries; or the client broke.
        """
        was_full = self._is_full
        try:
            self._is_full = bool(self._refused) or not (self._publish_late() and self._publish())
            if self._is_full and not was_full:
                self.on_full()
            self._producer.poll(timeout_s)
        except KafkaException as error:
            raise KafkaRefused(f"the producer broke: {error.args[0].str()}; a successor goes on") from error
        if self._reports.failed or self._refused:
            self._mend()
        if self._reports.done:
            settled, self._reports.done = self._reports.done, []
            self.on_settled(settled)
            self._close_accounts(settled)

    def _publish_late(self) -> bool:
        while self._late:
            if not self._send(self._late[0]):
                return False
            self._look_at([self._late.popleft()])
        return True

    def _look_at(self, sent: Iterable[Entry]) -> None:
        """Where nothing is left that the broker could acknowledge, no report will say that the entry is done."""
        for entry in sent:
            if not entry.unacknowledged and not entry.is_done:  # it may stand in the queue twice, for two topics
                entry.is_done = True
                self._reports.done.append(entry)

    def _mend(self) -> None:
        """See to what the broker did not take.

        A batch above the topic's limit is refused as a whole. Which of its messages are too large by themselves shows
        when they are sent again, in batches smaller than they are.
        """
        failed, self._reports.failed = self._reports.failed, []
        for failure in failed:
            entry, topic, size, error = failure
            if entry.ledger.is_revoked:
                continue
            if error.code() != KafkaError.MSG_SIZE_TOO_LARGE:
                raise self._refused_by(topic, entry, error)
            if self._producer.is_alone(size):
                self._replace(entry, topic, size)
                self._late.append(entry)
            else:
                self._refused.append(failure)
        if self._refused and not self._producer.queued:
            self._producer.shrink_batches()
            self._producer.renew()  # which has nothing left to send: order and idempotence end with the client
            for entry, topic, _, _ in self._refused:
                entry.send_again(topic)
                self._late.append(entry)
            self._refused.clear()
