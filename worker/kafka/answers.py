"""What the delivery modes of a consumer group share: records in, with care where it is needed, and messages out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from confluent_kafka import KafkaException, Message

from worker.deadline import Deadline
from worker.errors import ErrorCode, KafkaRefused
from worker.kafka import dead_letter
from worker.kafka.caution import GROUP_RECORDS, Caution
from worker.kafka.connection import Connection
from worker.kafka.consumer import GroupConsumer, Place
from worker.kafka.ledger import Entry, Outgoing, PartitionLedger
from worker.kafka.producer import ResultProducer, TooLarge
from worker.records import Headers, Ticket, source_of
from worker.sections import ClientValue, DeliverySettings, KafkaSettings

log = logging.getLogger(__name__)

Finish = Callable[[frozenset[Place], Deadline], None]
Explain = Callable[[Ticket, ErrorCode, str], tuple[bytes, Headers, ErrorCode, str]]  # the arguments of refuse()

MARKS_TIMEOUT_S = 5.0
WAITING_S = 0.001  # while a careful group is at work


def _no_answer(_ticket: Ticket, code: ErrorCode, message: str) -> tuple[bytes, Headers, ErrorCode, str]:
    raise KafkaRefused(f"{code}: {message}")


class Answers:
    """Consumer, producer and ledgers of one worker; see protocols.Delivery for what the pipeline uses.

    1. take: a record enters its partition's ledger.
    2. answer or refuse: its entry gets what is to be published.
    3. settle: publish in partition order, and make good what the mode promises; the modes differ here.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        delivery: DeliverySettings,
        connection: Connection,
        producer: ResultProducer,
        consumer_keys: Mapping[str, ClientValue] | None = None,
    ) -> None:
        self._kafka = kafka
        self._drain_timeout_s = delivery.drain_timeout_s
        self._errors_to_output = delivery.errors_to in ("output", "both")
        self._dead_letter_topic = kafka.dead_letter_topic if delivery.errors_to in ("dead_letter", "both") else None
        self._keeps_timestamp = kafka.result_timestamp == "record"
        self._producer = producer
        self._caution = Caution(delivery.max_attempts)
        self._leaving: frozenset[Place] = frozenset()  # partitions whose next commit is the last
        self._consumer = GroupConsumer(kafka, connection, consumer_keys)
        self._consumer.on_assign = self._caution.assign
        self._consumer.on_revoke = self._revoke
        self._consumer.on_forget = self._caution.forget
        self._consumer.metadata_of = self._metadata_of
        self._finish: Finish = lambda _places, _deadline: None
        self._touched: set[PartitionLedger] = set()  # ledgers with answers that may be publishable
        self._reports = self._consumer.reports
        self._is_full = False
        self.explain: Explain = _no_answer  # the pipeline knows how to word an error answer
        self.on_taken: Callable[[list[Entry]], None] = lambda _entries: None
        self.on_full: Callable[[], None] = lambda: None
        self.on_settled: Callable[[list[Entry]], None] = lambda _entries: None
        self.on_dead_letter: Callable[[str], None] = lambda _code: None
        self.on_transaction: Callable[[str], None] = lambda _outcome: None

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
        consumer, caution = self._consumer, self._caution
        if consumer.waiting and consumer.in_flight and not consumer.is_held:
            time.sleep(min(timeout_s, WAITING_S))
            return []
        if not consumer.waiting or consumer.is_held:
            messages = self._fetch(max_records, timeout_s)
            if caution.is_active or consumer.waiting:
                for message in messages:
                    if (error := message.error()) is not None:
                        consumer.failed(error)
                    else:
                        consumer.waiting.append(message)
                entries = self._next_group()
            else:
                entries = consumer.admit(messages)
        else:
            entries = self._next_group()
        if entries:
            if caution.unmarked and any(len(consumer.ledgers[place]) for place in caution.unmarked):
                self._write_marks()  # failing that, the next take tries again; the records run all the same
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

    def settle(self, timeout_s: float) -> None:
        raise NotImplementedError

    def commit(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Leave the group; what is not committed goes to the successor."""
        raise NotImplementedError

    def _fetch(self, max_records: int, timeout_s: float) -> list[Message]:
        return self._consumer.fetch(max_records, timeout_s)

    def _revoke(self, places: frozenset[Place]) -> None:
        raise NotImplementedError

    def _commit_marks(self) -> bool:
        """Make what mark() says durable, now; False where that failed."""
        raise NotImplementedError

    def _metadata_of(self, place: Place) -> str:
        if place in self._leaving and not self.in_flight(frozenset((place,))):
            return self._caution.last_mark(place)
        return self._caution.mark(place)

    def _next_group(self) -> list[Entry]:
        """The records of `waiting` that may run now; see caution.py."""
        consumer, caution, waiting = self._consumer, self._caution, self._consumer.waiting
        if not waiting or consumer.in_flight or (caution.unread and not self._read_marks()):
            return []
        if not caution.is_active:
            entries = consumer.admit(list(waiting))
            waiting.clear()
            return entries
        sources = [
            ((message.topic() or "", message.partition() or 0), message.offset() or 0)
            for message, _ in zip(waiting, range(GROUP_RECORDS), strict=False)
        ]
        place, offset = sources[0]
        if caution.is_over(place, offset):
            (entry,) = consumer.admit([waiting.popleft()])
            why = f"the process died {caution.deaths(place)} times with this record in it, the last time with no other"
            log.error("%s/%d/%d becomes a dead letter: %s", *place, offset, why)
            caution.give_up(place)
            self.on_taken([entry])
            self.refuse(entry, *self.explain(entry, "inference_failed", why))
            return []
        count = caution.group(sources)
        caution.begin(sources[:count])
        if not self._write_marks():
            caution.end()
            return []
        return consumer.admit([waiting.popleft() for _ in range(count)])

    def _read_marks(self) -> bool:
        """Learn what the predecessors of newly assigned partitions left; False where nobody answered."""
        try:
            answered = self._consumer.committed(self._caution.unread, MARKS_TIMEOUT_S)
        except KafkaException as error:
            log.warning("cannot read the committed offsets yet: %s", error.args[0].str())
            return False
        for each in answered:
            self._caution.note((each.topic, each.partition), each.offset, each.metadata)
        self._consumer.note(each for each in answered if each.offset >= 0)
        return True

    def _write_marks(self) -> bool:
        if not self._commit_marks():
            return False
        self._caution.unmarked = {place for place in self._caution.unmarked if not self._consumer.is_noted(place)}
        return True

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
