"""What every delivery mode makes of an answer: messages for the output and the dead-letter topic."""

from __future__ import annotations

import logging
from collections.abc import Callable

from worker.errors import ErrorCode, KafkaRefused
from worker.kafka import dead_letter
from worker.kafka.ledger import Entry, Outgoing, PartitionLedger
from worker.kafka.membership import Membership
from worker.kafka.producer import ResultProducer, TooLarge
from worker.records import Headers, Ticket, source_of
from worker.sections import DeliverySettings, KafkaSettings

log = logging.getLogger(__name__)

Explain = Callable[[Ticket, ErrorCode, str], tuple[bytes, Headers, ErrorCode, str]]  # the arguments of refuse()


def _no_answer(_ticket: Ticket, code: ErrorCode, message: str) -> tuple[bytes, Headers, ErrorCode, str]:
    raise KafkaRefused(f"{code}: {message}")


class Publishing:
    """The part of a delivery mode that faces the producer; see protocols.Delivery for what the pipeline uses."""

    def __init__(self, kafka: KafkaSettings, delivery: DeliverySettings, producer: ResultProducer) -> None:
        self._kafka = kafka
        self._errors_to_output = delivery.errors_to in ("output", "both")
        self._dead_letter_topic = kafka.dead_letter_topic if delivery.errors_to in ("dead_letter", "both") else None
        self._keeps_timestamp = kafka.result_timestamp == "record"
        self._producer = producer
        self._touched: set[PartitionLedger] = set()  # ledgers with answers that may be publishable
        self._is_full = False
        self.explain: Explain = _no_answer  # the pipeline knows how to word an error answer
        self.on_taken: Callable[[list[Entry]], None] = lambda _entries: None
        self.on_full: Callable[[], None] = lambda: None
        self.on_settled: Callable[[list[Entry]], None] = lambda _entries: None
        self.on_dead_letter: Callable[[str], None] = lambda _code: None
        self.on_transaction: Callable[[str], None] = lambda _outcome: None

    @property
    def consumer(self) -> Membership:
        """What we have of the input topics, and hooks for metrics."""
        raise NotImplementedError

    def start(self) -> None:
        """See that the cluster and the topics are there, then join the group.

        Raises:
            KafkaRefused: no broker, no login, or a topic is missing.
        """
        raise NotImplementedError

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

    @property
    def unacknowledged(self) -> int:
        return self._producer.queued

    @property
    def has_room(self) -> bool:
        return not self._is_full

    def in_flight(self, places: frozenset[tuple[str, int]] | None = None) -> int:
        raise NotImplementedError

    def settle(self, timeout_s: float) -> None:
        raise NotImplementedError

    def commit(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Leave the group; what is not committed goes to the successor."""
        raise NotImplementedError

    def _check(self) -> None:
        written = [self._kafka.output_topic, *([self._dead_letter_topic] if self._dead_letter_topic else [])]
        self._producer.check(list(self._kafka.input_topics), written)

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
        return True

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
