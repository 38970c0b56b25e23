"""Records that nobody should have sent, among ones that everybody needs answered."""

from __future__ import annotations

import random
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from functools import partial

import psutil
import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from tests.system import dead_letters
from tests.system.conftest import PARTITIONS, Site
from tests.system.dead_letters import Original
from tests.system.hostile_records import KINDS, mixture
from tests.system.traffic import publish, request
from worker.records import Headers

MEMORY_BOUND = 400 << 20  # bytes, with default settings
STALE = ("trt-worker-error-code", b"of an earlier life")  # a dead letter that was sent back by other means


class Mixer:
    """Publishes good and bad records, and learns from the broker where each one is."""

    def __init__(self, site: Site, rng: random.Random) -> None:
        self._site, self._rng = site, rng
        self._producer = Producer({"bootstrap.servers": site.servers, "linger.ms": 20, "message.max.bytes": 16 << 20})
        self.good: dict[int, set[int]] = defaultdict(set)  # partition -> offsets
        self.bad: dict[str, Original] = {}  # by source

    def add_good(self, number: int) -> None:
        self._send(number % PARTITIONS, request(number), None, [], lambda place, offset: self.good[place].add(offset))

    def add_bad(self, number: int, name: str) -> None:
        """One of a kind; every third has a key."""
        kind, partition = KINDS[name], number % PARTITIONS
        value, key = kind.make(self._rng), b"%d" % number if number % 3 == 0 else None
        own: Headers = [("number", b"%d" % number), ("bytes", b"\xff\x00"), ("empty", b""), ("null", None)]
        if kind.by_hand is not None:
            self.flush()  # so that it is known where the next one goes
            with closing(Consumer({"bootstrap.servers": self._site.servers, "group.id": "looker"})) as looker:
                _, offset = looker.get_watermark_offsets(TopicPartition(self._site.input_topic, partition))
            kind.by_hand(self._site.servers, self._site.input_topic, partition, value)
            self._note(Original(name, kind.code, None, value, kind.letter_headers or []), partition, offset)
        else:
            self._send(
                partition, value, key, [*own, STALE], partial(self._note, Original(name, kind.code, key, value, own))
            )

    def flush(self) -> None:
        assert self._producer.flush(120) == 0

    def _note(self, original: Original, partition: int, offset: int) -> None:
        self.bad[f"{self._site.input_topic}/{partition}/{offset}"] = original

    def _send(
        self,
        partition: int,
        value: bytes | None,
        key: bytes | None,
        headers: Headers,
        note: Callable[[int, int], object],
    ) -> None:
        def delivered(error: KafkaError | None, message: Message) -> None:
            assert error is None, error
            note(message.partition() or 0, message.offset() or 0)

        while True:
            try:
                self._producer.produce(
                    self._site.input_topic, value, key, partition, headers=headers, on_delivery=delivered
                )
                return
            except BufferError:
                self._producer.poll(0.1)


@pytest.mark.timeout(300)
def test_ten_thousand_bad_records_cost_their_ten_thousand_neighbours_nothing(site: Site) -> None:
    """Each good one is answered; each bad one is a dead letter, as it was, with its code; and memory stays bounded."""
    rng = random.Random(4)
    count = 10_000
    mixer = Mixer(site, rng)
    for number, name in enumerate(mixture(rng, count)):  # the huge ones come first, last and between
        mixer.add_bad(number, name)
        mixer.add_good(number)
    mixer.flush()
    worker = site.worker(delivery={"errors_to": "dead_letter"}).start()
    watch = MemoryWatch(worker.process)
    answers = site.reader().read(until=count, timeout_s=200)
    found = dead_letters.faults(site, mixer.bad)
    assert worker.await_ready().terminate() == 0
    peak = watch.stop()

    assert len(mixer.bad) == count
    assert found == [], f"{len(found)} faults, such as {found[:3]}"
    assert len(answers.times) == count
    assert answers.duplicates == 0
    assert answers.wrong == []
    assert answers.errors == {}
    assert {place: set(offsets) for place, offsets in answers.sources.items()} == mixer.good
    assert answers.out_of_order() == 0
    assert peak < MEMORY_BOUND, f"{peak >> 20} MiB"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("columns", [4096, 150_000], ids=["16kB", "600kB"])
def test_a_gigabyte_of_lag_takes_no_more_memory_than_none(site: Site, columns: int) -> None:
    """What waits in Kafka stays in Kafka; default settings, whatever the size of a record."""
    from tests.system import models

    model = models.pass_through(site.directory / "wide.onnx", columns)
    count = (1 << 30) // (4 * columns)
    publish(site.servers, site.input_topic, (request(number, columns) for number in range(count)), PARTITIONS)
    worker = site.worker(model={"name": "wide", "onnx": str(model)}).start()
    watch = MemoryWatch(worker.process)
    answers = site.reader().read(until=count, timeout_s=200)
    peak = watch.stop()

    assert len(answers.times) == count
    assert answers.wrong == []
    assert peak < MEMORY_BOUND, f"{peak >> 20} MiB"


class MemoryWatch:
    """Looks at a process's resident memory twenty times a second."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._peak = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def stop(self) -> int:
        """The most bytes that were seen."""
        self._is_over.set()
        self._thread.join()
        return self._peak

    def _look(self) -> None:
        while not self._is_over.wait(0.05):
            try:
                self._peak = max(self._peak, self._process.memory_info().rss)
            except psutil.NoSuchProcess:
                return


dead_letter_codes = dead_letters.codes
