"""What goes to the producer, in which order, and what is published in place of what a topic does not take."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from confluent_kafka import KafkaError, KafkaException

from tests.records import FakeRecord
from worker.errors import ErrorCode, KafkaRefused
from worker.kafka import dead_letter
from worker.kafka.ledger import Entry, PartitionLedger, size_of
from worker.kafka.membership import Membership
from worker.kafka.publishing import Acknowledged
from worker.records import Headers, Ticket
from worker.sections import DeliverySettings, KafkaSettings

OURS: Headers = [("trt-worker-source", "requests/1/7"), ("trt-worker-engine", "abc")]
OnDelivery = Callable[[KafkaError | None, "Sent"], None]


class Sent:
    """A message that the producer has; its own delivery report, too."""

    def __init__(self, topic: str, value: bytes | None, key: bytes | None, headers: Headers, report: OnDelivery):
        self._topic, self._value, self._key = topic, value, key
        self.headers, self.report = headers, report

    def topic(self) -> str:
        return self._topic

    def value(self) -> bytes | None:
        return self._value

    def key(self) -> bytes | None:
        return self._key

    @property
    def size(self) -> int:
        return size_of((self._topic, self._value, self._key, self.headers))


class Producer:
    """Batches as librdkafka makes them, refused as a broker refuses them: as a whole, above the topic's limit."""

    def __init__(self, limits: Mapping[str, int], *, room: int = 1000, batch_bytes: int = 10_000) -> None:
        self.partitions = {"results": 4, "dead": 4}
        self.taken: list[Sent] = []
        self.renewals = 0
        self.is_away = False  # the broker does not answer
        self.refuses_at_once = False  # the client knows the broker's answer already
        self.room = room
        self.error = KafkaError.MSG_SIZE_TOO_LARGE
        self._limits = limits
        self._batch_bytes = batch_bytes
        self._queue: list[Sent] = []

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        _partition: int,
        report: OnDelivery,
        _: None,
        _timestamp_ms: int,
        headers: Headers,
    ) -> None:
        if len(self._queue) >= self.room:
            raise BufferError
        if self.refuses_at_once:
            raise KafkaException(KafkaError(self.error))
        self._queue.append(Sent(topic, value, key, headers, report))

    def poll(self, _timeout_s: float) -> None:
        if self.is_away:
            return
        queue, self._queue = self._queue, []
        while queue:
            batch = [queue.pop(0)]
            while queue and queue[0].topic() == batch[0].topic():
                if sum(sent.size for sent in (*batch, queue[0])) > self._batch_bytes:
                    break
                batch.append(queue.pop(0))
            is_taken = sum(sent.size for sent in batch) <= self._limits.get(batch[0].topic(), 10**9)
            for sent in batch:
                sent.report(None if is_taken else KafkaError(self.error), sent)
            self.taken += batch if is_taken else []

    @property
    def queued(self) -> int:
        return len(self._queue)

    def is_alone(self, size: int) -> bool:
        return size > self._batch_bytes or self._batch_bytes <= 1

    def shrink_batches(self) -> None:
        self._batch_bytes //= 4

    def renew(self) -> None:
        assert not self._queue, "what the old client still had is lost"
        self.renewals += 1


class Mode(Acknowledged):
    """One partition, published in turn."""

    unanswered = "nothing is lost"

    def __init__(self, producer: Producer, errors_to: str = "both") -> None:
        kafka = KafkaSettings(
            bootstrap_servers="nowhere:1",
            group_id="g",
            input_topics=("requests",),
            output_topic="results",
            dead_letter_topic="dead",
        )
        delivery = DeliverySettings.model_validate({"errors_to": errors_to})
        super().__init__(kafka, delivery, producer)  # type: ignore[arg-type]  # as much of a ResultProducer as it needs
        self.ledger = PartitionLedger("requests", 1, self._reports)
        self.settled: list[Entry] = []
        self.explain = self._explain

    @property
    def consumer(self) -> Membership:
        raise NotImplementedError

    def join(self) -> None: ...

    def in_flight(self, places: frozenset[tuple[str, int]] | None = None) -> int:
        return len(self.ledger)

    def commit(self) -> None: ...

    def close(self) -> None: ...

    def take(self, *values: bytes | None, key: bytes | None = None, headers: Headers | None = None) -> list[Entry]:
        start = len(self.ledger)
        return self.ledger.admit(
            FakeRecord(value, partition=1, offset=start + place, key=key, headers=headers)
            for place, value in enumerate(values)
        )

    def settle_all(self) -> None:
        for _ in range(50):
            self.settle(0.0)

    def _publish(self) -> bool:
        sent: list[Entry] = []
        has_room = self._send_turn(self.ledger, sent)
        self._look_at(sent)
        return has_room

    def _close_accounts(self, settled: list[Entry]) -> None:
        self.settled += settled
        self.ledger.settle()

    @staticmethod
    def _explain(_ticket: Ticket, code: ErrorCode, message: str) -> tuple[bytes, Headers, ErrorCode, str]:
        return b"error", list(OURS), code, message


def values(producer: Producer, topic: str = "results") -> list[bytes | None]:
    return [sent.value() for sent in producer.taken if sent.topic() == topic]


def test_answers_go_out_in_the_partitions_order() -> None:
    mode = Mode(producer := Producer({}))
    first, second = mode.take(b"1", b"2")
    mode.answer(second, b"two", [])
    mode.settle_all()
    assert values(producer) == []
    mode.answer(first, b"one", [])
    mode.settle_all()
    assert values(producer) == [b"one", b"two"]
    assert mode.settled == [first, second]
    assert len(mode.ledger) == 0


def test_a_full_producer_takes_the_rest_later_and_says_so() -> None:
    """Of a refused record the error answer may fit, and the dead letter not."""
    mode = Mode(producer := Producer({}, room=3))
    full = []
    mode.on_full = lambda: full.append(1)
    for entry in mode.take(b"a", b"b"):
        mode.refuse(entry, b"error", [], "malformed", "why")
    producer.is_away = True
    mode.settle_all()
    had_room = mode.has_room
    producer.is_away = False
    mode.settle_all()
    assert (had_room, mode.has_room) == (False, True)
    assert len(full) == 1
    assert (values(producer), values(producer, "dead")) == ([b"error", b"error"], [b"a", b"b"])


def test_a_result_above_its_topics_limit_becomes_an_error_answer_and_a_dead_letter() -> None:
    """Its neighbours, refused in the same batch, are published as they are."""
    mode = Mode(producer := Producer({"results": 600}))
    entries = mode.take(b"1", b"2", b"3")
    for entry, value in zip(entries, (b"one", b"x" * 900, b"three"), strict=True):
        mode.answer(entry, value, list(OURS))
    mode.settle_all()
    assert sorted(filter(None, values(producer))) == [b"error", b"one", b"three"]
    assert values(producer, "dead") == [b"2"]
    assert entries[1].refusal is not None
    assert entries[1].refusal[0] == "too_large"
    assert f"{size_of(('', b'x' * 900, None, OURS))} bytes" in entries[1].refusal[1]
    assert len(mode.ledger) == 0


def test_a_topic_that_takes_less_than_a_batch_costs_no_answer() -> None:
    """Only their order, once: the last batch was smaller, and taken at once."""
    mode = Mode(producer := Producer({"results": 600}))
    entries = mode.take(*[b"x"] * 100)
    for number, entry in enumerate(entries):
        mode.answer(entry, b"%d" % number, list(OURS))
    mode.settle_all()
    assert sorted(filter(None, values(producer)), key=int) == [b"%d" % number for number in range(100)]
    assert values(producer, "dead") == []
    assert producer.renewals > 0


def test_a_dead_letter_above_its_topics_limit_goes_without_its_value() -> None:
    mode = Mode(producer := Producer({"dead": 600}))
    (entry,) = mode.take(b"x" * 20_000, key=b"k")
    mode.refuse(entry, b"error", list(OURS), "malformed", "why")
    mode.settle_all()
    (letter,) = [sent for sent in producer.taken if sent.topic() == "dead"]
    assert (letter.value(), letter.key()) == (None, b"k")
    assert (dead_letter.OMITTED_HEADER, "20000") in letter.headers
    assert values(producer) == [b"error"]


@pytest.mark.parametrize("what", ["key", "headers"])
def test_key_and_headers_that_no_topic_takes_are_left_out_in_the_end(what: str) -> None:
    """Somebody sent them; the record is answered all the same."""
    mode = Mode(producer := Producer({"results": 600, "dead": 600}, batch_bytes=100))
    large = b"x" * 5000
    if what == "key":
        (entry,) = mode.take(b"value", key=large)
        headers = list(OURS)
    else:
        (entry,) = mode.take(b"value", headers=[("theirs", large)])
        headers = [("theirs", large), *OURS]
    producer._batch_bytes = 0  # every message is alone
    mode.refuse(entry, b"error", headers, "malformed", "why")
    mode.settle_all()
    told = {sent.topic(): sent for sent in producer.taken}
    assert told["results"].value() == b"error"
    assert told["results"].headers == OURS
    assert (dead_letter.CODE_HEADER, "malformed") in told["dead"].headers
    assert all(sent.key() is None for sent in told.values())
    assert mode.settled == [entry]


@pytest.mark.parametrize("at_once", [False, True])
def test_an_answer_refused_for_another_reason_ends_the_process(at_once: bool) -> None:
    """The client tells it in its report, or when it is given the next message."""
    mode = Mode(producer := Producer({"results": 0}))
    producer.refuses_at_once = at_once
    producer.error = KafkaError.TOPIC_AUTHORIZATION_FAILED
    (entry,) = mode.take(b"1")
    mode.answer(entry, b"one", [])
    with pytest.raises(KafkaRefused, match=r"results did not take the answer to requests/1/0.*nothing is lost"):
        mode.settle_all()
    assert len(mode.ledger) == 1


@pytest.mark.parametrize("call", ["produce", "poll"])
def test_a_client_that_broke_for_good_ends_the_process_and_its_reason_is_told(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """librdkafka gives up after an error that leaves it in doubt about the order of what it sent."""
    mode = Mode(producer := Producer({}))
    (entry,) = mode.take(b"value")
    mode.answer(entry, b"result", [])

    def broken(*_arguments: object) -> None:
        raise KafkaException(KafkaError(KafkaError._FATAL, "out of order", fatal=True))

    monkeypatch.setattr(producer, call, broken)
    with pytest.raises(KafkaRefused, match="the producer broke: out of order"):
        mode.settle_all()
    assert mode.settled == []


def test_where_nothing_may_be_published_the_record_is_done_at_once() -> None:
    """errors_to: dead_letter, and a topic that takes nothing at all."""
    mode = Mode(producer := Producer({"dead": 1}), errors_to="dead_letter")
    producer._batch_bytes = 0
    (entry,) = mode.take(b"value")
    mode.refuse(entry, b"error", [], "malformed", "why")
    mode.settle_all()
    assert producer.taken == []
    assert mode.settled == [entry]


@pytest.mark.parametrize("tiny", [["dead"], ["results"], ["dead", "results"]], ids="-".join)
@pytest.mark.parametrize("batch_bytes", [10_000, 0], ids=["batches", "alone"])
def test_what_a_topic_never_takes_holds_nothing_up(tiny: list[str], batch_bytes: int) -> None:
    """errors_to: both. What the other topic takes is acknowledged, before or after; the record is settled once."""
    mode = Mode(producer := Producer(dict.fromkeys(tiny, 1), batch_bytes=batch_bytes))
    first, second, third = mode.take(b"1", b"2", b"3")
    for entry in (first, second, third):
        mode.refuse(entry, b"error", list(OURS), "malformed", "why")
    mode.settle_all()
    assert sorted(map(id, mode.settled)) == sorted(map(id, (first, second, third)))
    assert len(mode.ledger) == 0
    assert len(values(producer)) == (0 if "results" in tiny else 3)
    assert len(values(producer, "dead")) == (0 if "dead" in tiny else 3)
