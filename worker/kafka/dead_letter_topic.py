"""Reading the dead-letter topic, and sending its records back to where they came from."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from worker.errors import ConfigError, KafkaRefused
from worker.kafka import dead_letter, producer
from worker.kafka.connection import Connection
from worker.records import Headers, readable
from worker.sections import KafkaSettings

READ_TIMEOUT_S = 30.0  # without a single record or an end in sight
FLUSH_TIMEOUT_S = 60.0
COORDINATOR_TIMEOUT_S = 20.0
NO_COORDINATOR = frozenset(
    (KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS)
)


class DeadLetter(NamedTuple):
    """A record of the dead-letter topic."""

    topic: str  # where it came from
    source: str  # topic/partition/offset it came from
    code: str
    message: str
    written_ms: int  # Unix ms
    key: bytes | None
    value: bytes | None
    headers: Headers  # the original record's own
    omitted_bytes: int  # bytes of the value, where the topic would not take it


class Progress:
    """How far a replay has come in each partition: up to the first letter that is not acknowledged."""

    def __init__(self) -> None:
        self._ends: dict[int, int] = {}  # partition -> offset behind the last letter that was looked at
        self._open: dict[int, set[int]] = defaultdict(set)  # partition -> offsets that are not done with

    def see(self, partition: int, offset: int) -> None:
        """This letter comes next."""
        self._ends[partition] = offset + 1
        self._open[partition].add(offset)

    def end(self, partition: int, offset: int) -> None:
        """It is acknowledged, or left out."""
        self._open[partition].discard(offset)

    @property
    def reached(self) -> dict[int, int]:
        """partition -> offset of the first letter that must be looked at again."""
        return {partition: min(self._open[partition], default=end) for partition, end in self._ends.items()}


class DeadLetterTopic:
    """Opens the topic that the settings name; a context manager."""

    def __init__(self, settings: KafkaSettings) -> None:
        """Raises:
        ConfigError: the settings name no dead-letter topic.
        KafkaRefused: the cluster or the topic is not there.
        """
        if settings.dead_letter_topic is None:
            raise ConfigError("kafka.dead_letter_topic is missing; there are no dead letters to look at")
        self._topic = settings.dead_letter_topic
        self._connection = Connection(settings)
        self._producer = self._connection.open_client(Producer, "dlq", producer.DEFAULTS, settings.producer)
        self._partitions = self._connection.check(self._producer, [self._topic])[self._topic]
        self._group = f"{settings.group_id}-dlq-replay"  # remembers what was sent back
        group = {
            "group.id": self._group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": False,
            "isolation.level": "read_committed",
        }
        own = {key: value for key, value in settings.consumer.items() if key != "group.protocol"}
        self._consumer = self._connection.open_client(Consumer, "dlq", {}, {**own, **group})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def read(self, *, from_start: bool = True) -> Iterator[DeadLetter]:
        """The dead letters that are there now.

        Args:
            from_start: all of them; else those that were not sent back yet.

        Raises:
            KafkaRefused: the topic cannot be read.
        """
        for message in self._messages(from_start=from_start):
            yield _parse(message)

    def replay(self, *, code: str | None, limit: int | None, from_start: bool, to_topic: str | None) -> tuple[int, int]:
        """Send dead letters back, as they were before they died, and remember how far that went.

        Args:
            code: only those with this error code; nothing is remembered then: the others still wait to be sent back.
            limit: at most so many.
            from_start: also those that were sent back before.
            to_topic: instead of the topic each came from.

        Returns:
            (sent, skipped): skipped are those whose value is lost or whose code is another.

        Raises:
            KafkaRefused: a record was not acknowledged; what was acknowledged before it is remembered.
        """
        failures: list[str] = []
        sent = skipped = 0
        progress = Progress()
        try:
            for message in self._messages(from_start=from_start):
                letter = _parse(message)
                is_left_out = bool(letter.omitted_bytes) or code not in (None, letter.code)
                if not is_left_out and limit is not None and sent >= limit:
                    break
                place = message.partition() or 0, message.offset() or 0
                progress.see(*place)
                if is_left_out:
                    skipped += 1
                    progress.end(*place)
                else:
                    self._send_back(letter, to_topic or letter.topic, place, progress, failures)
                    sent += 1
        finally:  # whatever ended it
            left = self._flush(failures)
            if code is None:
                self._remember(progress)
        if left or failures:
            raise KafkaRefused(
                f"not every dead letter was sent back ({failures[0] if failures else 'no acknowledgement'}); try again"
            )
        return sent, skipped

    def _flush(self, failures: list[str]) -> int:
        """Wait for the acknowledgements; how many did not come."""
        try:
            return self._producer.flush(FLUSH_TIMEOUT_S)
        except KafkaException as error:  # the producer is no good any more
            failures.append(error.args[0].str())
            return len(self._producer)

    def _send_back(
        self, letter: DeadLetter, topic: str, place: tuple[int, int], progress: Progress, failures: list[str]
    ) -> None:
        def delivered(error: KafkaError | None, _message: Message) -> None:
            if error is None:
                progress.end(*place)
            else:
                failures.append(error.str())

        while True:
            try:
                self._producer.produce(topic, letter.value, letter.key, headers=letter.headers, on_delivery=delivered)
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:
                raise KafkaRefused(f"{letter.source} cannot be sent back: {error.args[0].str()}") from error
            else:
                return

    def _remember(self, progress: Progress) -> None:
        """Commit how far it went, never less than was committed before."""
        try:
            before = self._committed()
            offsets = [
                TopicPartition(self._topic, partition, offset)
                for partition, offset in progress.reached.items()
                if offset > before.get(partition, 0)
            ]
            if offsets:
                _patiently(lambda: self._consumer.commit(offsets=offsets, asynchronous=False) or [])
        except KafkaException as error:
            raise KafkaRefused(
                f"what was sent back cannot be remembered by group {self._group}: {error.args[0].str()}; "
                "the next replay sends it again"
            ) from error

    def _committed(self) -> dict[int, int]:
        """partition -> offset of the first letter that was not yet sent back."""
        places = [TopicPartition(self._topic, partition) for partition in range(self._partitions)]
        committed = _patiently(lambda: self._consumer.committed(places, timeout=10.0))
        return {place.partition: place.offset for place in committed if place.offset >= 0}

    def _messages(self, *, from_start: bool) -> Iterator[Message]:
        """Records up to the end as it is now."""
        places = [TopicPartition(self._topic, partition) for partition in range(self._partitions)]
        try:
            committed = {} if from_start else self._committed()
            starts, ends = {}, {}
            for place in places:
                low, high = self._consumer.get_watermark_offsets(place, timeout=10.0)
                start = max(low, committed.get(place.partition, low))  # letters may have gone with their retention
                if high > start:
                    starts[place.partition], ends[place.partition] = start, high
            self._consumer.assign(
                [TopicPartition(self._topic, partition, start) for partition, start in starts.items()]
            )
        except KafkaException as error:
            raise KafkaRefused(
                f"topic {self._topic} cannot be read by group {self._group}: {error.args[0].str()}"
            ) from error
        give_up_s = time.monotonic() + READ_TIMEOUT_S
        while ends:
            message = self._consumer.poll(0.1)
            self._connection.raise_refusal()
            if message is None:
                for position in self._consumer.position([TopicPartition(self._topic, partition) for partition in ends]):
                    if position.offset >= ends[position.partition]:  # only control records were left
                        del ends[position.partition]
                if time.monotonic() > give_up_s:
                    raise KafkaRefused(f"topic {self._topic} gave nothing for {READ_TIMEOUT_S:g} s; is the broker up?")
                continue
            give_up_s = time.monotonic() + READ_TIMEOUT_S
            if (trouble := message.error()) is not None:
                raise KafkaRefused(f"topic {self._topic} cannot be read by group {self._group}: {trouble.str()}")
            partition, offset = message.partition() or 0, message.offset() or 0
            if partition not in ends:
                continue
            if offset >= ends[partition] - 1:
                del ends[partition]
            yield message


def _patiently(call: Callable[[], list[TopicPartition]]) -> list[TopicPartition]:
    """Ask the group's coordinator, and ask again while the cluster is finding one.

    Raises:
        KafkaException: for all partitions, or for one.
    """
    give_up_s = time.monotonic() + COORDINATOR_TIMEOUT_S
    while True:
        try:
            answered = call()
            for each in answered:
                if each.error is not None:
                    raise KafkaException(each.error)
        except KafkaException as error:
            if error.args[0].code() not in NO_COORDINATOR or time.monotonic() > give_up_s:
                raise
        else:
            return answered
        time.sleep(0.1)


def _parse(message: Message) -> DeadLetter:
    headers = list(readable(message).headers() or [])  # type: ignore[arg-type]  # see records.Record
    told = {name: value.decode("utf-8", "replace") for name, value in headers if isinstance(value, bytes)}
    return DeadLetter(
        topic=told.get(dead_letter.STREAMS_PREFIX + "topic", ""),
        source=told.get(dead_letter.SOURCE_HEADER, ""),
        code=told.get(dead_letter.CODE_HEADER, ""),
        message=told.get(dead_letter.MESSAGE_HEADER, ""),
        written_ms=message.timestamp()[1],
        key=message.key(),
        value=message.value(),
        headers=[header for header in headers if not dead_letter.is_ours(header[0])],
        omitted_bytes=int(told.get(dead_letter.OMITTED_HEADER, "0")),
    )
