"""A steady flow of requests, and a reader beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from tests.system.traffic import Answers, Reader, request


class Flow:
    """Publishes consecutive numbers at a rate, on a thread of its own; each is safely in Kafka before it counts."""

    def __init__(self, servers: str, topic: str, partitions: int, count: int, per_second: float) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": servers,
                "enable.idempotence": True,
                "message.timeout.ms": 120_000,
                "log_level": 0,
            }
        )
        self._topic, self._partitions, self.count, self._per_second = topic, partitions, count, per_second
        self._failed: list[KafkaError] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._is_over = threading.Event()
        self.published = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> int:
        """Publish no more; how many there are."""
        self._is_over.set()
        return self.join()

    def join(self) -> int:
        """Wait for the end; how many there are."""
        self._thread.join(300)
        assert not self._thread.is_alive()
        assert self._producer.flush(120) == 0
        assert self._failed == []
        return self.published

    def _run(self) -> None:
        start_s = time.monotonic()
        while self.published < self.count and not self._is_over.is_set():
            due = min(self.count, int((time.monotonic() - start_s) * self._per_second))
            while self.published < due:
                try:
                    self._producer.produce(
                        self._topic,
                        request(self.published),
                        partition=self.published % self._partitions,
                        on_delivery=self._delivered,
                    )
                except BufferError:
                    break
                self.published += 1
            self._producer.poll(0.01)

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._failed.append(error)


@contextmanager
def read_along(reader: Reader) -> Iterator[Callable[[], Answers]]:
    """A reader on a thread of its own, for as long as the block lasts; gives what it has read so far."""
    is_over = threading.Event()
    troubles: list[BaseException] = []

    def read() -> None:
        try:
            while not is_over.is_set():
                reader.read(until=1 << 60, timeout_s=0.5)
        except BaseException as error:  # noqa: BLE001  # raised again by the thread that asks
            troubles.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()

    def so_far() -> Answers:
        if troubles:
            raise troubles[0]
        return reader.answers

    try:
        yield so_far
    finally:
        is_over.set()
        thread.join(30)


def await_answers(so_far: Callable[[], Answers], count: int, timeout_s: float) -> Answers:
    """Wait until so many different requests are answered."""
    deadline_s = time.monotonic() + timeout_s
    while len(so_far().times) < count and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return so_far()


def faults(answers: Answers, count: int) -> dict[str, Any]:
    """What is not as it should be; empty where everything is."""
    missing = [number for number in range(count) if str(number) not in answers.times]
    found = {
        "missing": len(missing),
        "first missing": missing[:5],
        "duplicates": answers.duplicates,
        "wrong": len(answers.wrong),
        "refused": len(answers.refused),  # nothing is wrong with any of them
        "out of order": answers.out_of_order(),
    }
    return {name: value for name, value in found.items() if value}
