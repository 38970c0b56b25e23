"""What the delivery modes of a consumer group share: records in, with care where it is needed, and messages out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping

from confluent_kafka import KafkaException, Message

from worker.deadline import Deadline
from worker.kafka.caution import GROUP_RECORDS, Caution
from worker.kafka.connection import Connection
from worker.kafka.consumer import GroupConsumer
from worker.kafka.ledger import Entry, Place, place_of
from worker.kafka.producer import ResultProducer
from worker.kafka.publishing import Publishing
from worker.sections import ClientValue, DeliverySettings, KafkaSettings

log = logging.getLogger(__name__)

Finish = Callable[[frozenset[Place], Deadline], None]

MARKS_TIMEOUT_S = 5.0
WAITING_S = 0.001  # while a careful group is at work, or a commit is to be heard of
EARLY_TAKES = 32  # as many records as so many full takes have may be early; a few more if it lasts
LISTEN_EVERY_S = 0.005


class Answers(Publishing):
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
        super().__init__(kafka, delivery, producer)
        self._connection = connection
        self._drain_timeout_s = delivery.drain_timeout_s
        self._caution = Caution(delivery.max_attempts)
        self._leaving: frozenset[Place] = frozenset()  # partitions whose next commit is the last
        self._consumer = GroupConsumer(kafka, connection, self._reports, consumer_keys)
        self._consumer.on_admit = lambda ledger, count: self.on_taken(ledger, count)
        self._consumer.on_assign = self._caution.assign
        self._consumer.on_revoke = self._revoke
        self._consumer.on_forget = self._caution.forget
        self._consumer.on_committed = self._mark
        self._consumer.offsets.metadata_of = self._metadata_of
        self._next_read_s = 0.0
        self._finish: Finish = lambda _places, _deadline: None

    @property
    def consumer(self) -> GroupConsumer:
        """The group membership: assignments, and hooks for metrics."""
        return self._consumer

    def join(self) -> None:
        self._consumer.subscribe()

    def on_revoke(self, finish: Finish) -> None:
        self._finish = finish

    def take(self, max_records: int, timeout_s: float) -> list[Entry]:
        if self._connection.lost:
            self._replace_lost()
        consumer, caution = self._consumer, self._caution
        if consumer.waiting and not consumer.is_held:
            if not consumer.in_flight:
                return self._next_group()
            time.sleep(min(timeout_s, WAITING_S))
            return []
        messages = self._read(max_records, timeout_s)
        if caution.is_active or consumer.waiting:
            consumer.keep(messages)
            return self._next_group()
        entered = consumer.admit(consumer.early.take(caution.unmarked)) if consumer.early else []
        return entered + consumer.admit(messages, caution.unmarked)

    def _read(self, max_records: int, timeout_s: float) -> list[Message]:
        """Fetch; while early records wait, at most so many, and never for long: who reads hears of commits."""
        early = self._consumer.early
        if not early:
            return self._fetch(max_records, timeout_s)
        if len(early) < EARLY_TAKES * max_records:
            return self._fetch(max_records, min(timeout_s, WAITING_S))
        time.sleep(min(timeout_s, WAITING_S))
        if time.monotonic() < self._next_read_s:
            return []
        self._next_read_s = time.monotonic() + LISTEN_EVERY_S
        return self._fetch(1, 0.0)

    def in_flight(self, places: frozenset[Place] | None = None) -> int:
        if places is None:
            return self._consumer.in_flight
        ledgers = self._consumer.ledgers
        return sum(len(ledgers[place]) for place in places if place in ledgers)

    def stay(self, timeout_s: float) -> None:
        self._consumer.hold(True)
        self._consumer.keep(self._consumer.fetch(1, timeout_s))

    @property
    def is_calm(self) -> bool:
        consumer = self._consumer
        is_at_work = bool(consumer.waiting or consumer.in_flight)
        return bool(consumer.ledgers) and not (self._caution.is_active and is_at_work)

    def hold(self, is_held: bool) -> None:
        self._consumer.hold(is_held)

    def _fetch(self, max_records: int, timeout_s: float) -> list[Message]:
        return self._consumer.fetch(max_records, timeout_s)

    def _revoke(self, places: frozenset[Place]) -> None:
        raise NotImplementedError

    def _replace_lost(self) -> None:
        """Have others in the place of lost clients, and go on where the group has committed."""
        raise NotImplementedError

    def _commit_marks(self) -> bool:
        """Make what mark() says durable, now; False where that failed."""
        raise NotImplementedError

    def _metadata_of(self, place: Place) -> str:
        if place in self._leaving and not self.in_flight(frozenset((place,))):
            return self._caution.last_mark(place)
        if place not in self._caution.unmarked and (records := self._consumer.offsets.reach(place)) is not None:
            self._caution.reach(place, records)
        return self._caution.mark(place)

    def _next_group(self) -> list[Entry]:
        """The records of `waiting` that may run now; see caution.py."""
        consumer, caution, waiting = self._consumer, self._caution, self._consumer.waiting
        if consumer.early:  # read before those that wait
            waiting.extendleft(reversed(consumer.early.take_all()))
        if not waiting or consumer.in_flight or (caution.unread and not self._read_marks()):
            return []
        if not caution.is_active:
            messages = list(waiting)
            waiting.clear()
            return consumer.admit(messages, caution.unmarked)
        sources = self._next_sources()
        place, offset = sources[0]
        if caution.is_over(place, offset):
            (entry,) = consumer.admit([waiting.popleft()])
            why = f"the process died {caution.deaths(place)} times with this record in it, the last time with no other"
            log.error("%s/%d/%d becomes a dead letter: %s", *place, offset, why)
            caution.give_up(place)
            self.refuse(entry, *self.explain(entry, "inference_failed", why))
            return []
        count = caution.group(sources)
        caution.begin(sources[:count])
        if not self._write_marks() or self._next_sources()[:count] != sources[:count]:  # partitions may go meanwhile
            caution.end()
            return []
        return consumer.admit([waiting.popleft() for _ in range(count)])

    def _next_sources(self) -> list[tuple[Place, int]]:
        """Partition and offset of what waits in front."""
        return [
            (place_of(message), message.offset() or 0)
            for message, _ in zip(self._consumer.waiting, range(GROUP_RECORDS), strict=False)
        ]

    def _read_marks(self) -> bool:
        """Learn what the predecessors of newly assigned partitions left; False where nobody answered."""
        try:
            answered = self._consumer.offsets.committed(self._caution.unread, MARKS_TIMEOUT_S)
        except KafkaException as error:
            log.warning("cannot read the committed offsets yet: %s", error.args[0].str())
            return False
        for each in answered:
            self._caution.note((each.topic, each.partition), each.offset, each.metadata)
        self._consumer.offsets.note(each for each in answered if each.offset >= 0)
        return True

    def _write_marks(self) -> bool:
        if not self._commit_marks():
            return False
        self._mark(self._caution.unmarked.copy())
        return True

    def _mark(self, places: Iterable[Place]) -> None:
        """What mark() says of these partitions is committed, so far as a commit was made: they may be entered."""
        self._caution.unmarked.difference_update(place for place in places if self._consumer.offsets.is_noted(place))
