"""Publishes images as requests, reads the answers, checks each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from worker.client import InferenceFailure, decode_result, encode_request
from worker.demo.digits import Digits
from worker.demo.stage import Stage
from worker.demo.tally import Tally
from worker.errors import KafkaRefused

MAX_OUTSTANDING = 512  # the embedded broker keeps some 5 MB of a partition; this is a tenth of one
READ_S = 0.005
ANSWER_S = 10.0


class Traffic:
    """The producer of requests and the reader of answers; a context manager. One thread calls it.

    The topics are the demo's own and new, so it reads them from their first record: whatever is there is an answer.
    """

    def __init__(self, stage: Stage, digits: Digits, tally: Tally, tolerance: float) -> None:
        self._stage, self._digits, self._tally, self._tolerance = stage, digits, tally, tolerance
        self.last: tuple[int, int] | None = None  # the last image that was answered, and the answer
        shared = {"bootstrap.servers": stage.bootstrap_servers, "log_level": 2}
        self._producer = Producer({**shared, "linger.ms": 1, "enable.idempotence": True})
        self._reader = Consumer(
            {**shared, "group.id": f"{stage.name}-reader", "enable.auto.commit": False, **stage.consumer}
        )
        with _translated(f"{stage.results} cannot be read"):
            found = self._reader.list_topics(stage.results, ANSWER_S).topics[stage.results].partitions
        self._places = [TopicPartition(stage.results, partition, 0) for partition in found]
        self._reader.assign(self._places)
        self._read_up_to = {place.partition: 0 for place in self._places}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._producer.purge()
        self._reader.close()

    def step(self, publishable: int) -> None:
        """Publish up to that many requests, as far as the bound on outstanding ones allows, and read what has come."""
        tally = self._tally
        for _ in range(min(publishable, MAX_OUTSTANDING - tally.missing)):
            image = tally.published % len(self._digits)
            number = tally.publish(image)
            value = encode_request({"image": self._digits.images[image : image + 1]}, id=str(number))
            self._producer.produce(self._stage.requests, value, key=str(image), on_delivery=_delivered)
        self._producer.poll(0)
        self._read(READ_S)

    def read_to_the_end(self, timeout_s: float) -> None:
        """Read all that the result topic holds by now, so that no second answer stays unseen."""
        due_s = time.monotonic() + timeout_s
        with _translated(f"the end of {self._stage.results} cannot be found"):
            ends = {place.partition: self._reader.get_watermark_offsets(place, ANSWER_S)[1] for place in self._places}
        while any(self._read_up_to[partition] < end for partition, end in ends.items()):
            if time.monotonic() > due_s:
                raise KafkaRefused(f"the end of {self._stage.results} was not reached in {timeout_s:g} s")
            self._read(READ_S)

    def _read(self, timeout_s: float) -> None:
        first = self._reader.poll(timeout_s)
        if first is None:
            return
        for message in (first, *self._reader.consume(1000, 0)):
            error = message.error()
            if error is None:
                self._check(message)
                self._read_up_to[message.partition() or 0] = (message.offset() or 0) + 1
            elif error.fatal():
                raise KafkaRefused(f"{self._stage.results} cannot be read: {error.str()}")

    def _check(self, message: Message) -> None:
        tally = self._tally
        try:
            result = decode_result(message.value() or b"")
            number = int(result.id)
        except ValueError as error:
            tally.blame(str(error))
            return
        image = tally.answer(number)
        if image is None:
            return
        if isinstance(result, InferenceFailure):
            tally.blame(f"request {number}: error {result.code}: {result.message}")
            return
        fault = self._digits.fault_in(image, result.outputs, self._tolerance)
        if fault is None and message.key() != str(image).encode():
            fault = f"key {message.key()!r} instead of {image}"
        if fault is not None:
            tally.blame(f"request {number} (image {image}): {fault}")
            return
        label = int(result.outputs["label"][0])
        tally.correct_labels += label == self._digits.labels[image]
        self.last = (image, label)


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except KafkaException as error:
        raise KafkaRefused(f"{what}: {error.args[0].str()}") from error


def _delivered(error: KafkaError | None, _message: Message) -> None:
    if error is not None:
        raise KafkaRefused(f"a request could not be published: {error.str()}")
