"""Records that nobody should have sent, among ones that everybody needs answered."""

from __future__ import annotations

import itertools
import random
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import psutil
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from tests.system.conftest import PARTITIONS, Site
from tests.system.traffic import COLUMNS, publish, request

MEMORY_BOUND = 400 << 20  # bytes, with default settings
HUGE_RECORDS = 40  # of 10 MB


def tensor(**changes: object) -> dict[str, object]:
    return {"name": "x", "datatype": "FP32", "shape": [1, COLUMNS], "data": b"\0" * 4 * COLUMNS, **changes}


def packed(**changes: object) -> bytes:
    return bytes(msgpack.packb({"id": "bad", "inputs": [tensor(**changes)]}))


def kinds(rng: random.Random) -> dict[str, tuple[str, Callable[[], bytes | None]]]:
    """What can be wrong: name -> (the code it must get, a maker)."""
    object_array = {b"nd": True, b"type": b"|O", b"kind": b"O", b"shape": [1], b"data": b"cos\nsystem\n(S'true'\ntR."}
    return {
        "truncated": ("malformed", lambda: request(1)[: rng.randrange(1, 500)]),
        "random bytes": ("malformed", lambda: b"\xc1" + rng.randbytes(200)),
        "empty": ("malformed", lambda: b""),
        "null": ("malformed", lambda: None),
        "no map": ("malformed", lambda: bytes(msgpack.packb([1, 2, 3]))),
        "wrong types": ("malformed", lambda: bytes(msgpack.packb({"id": 7, "inputs": "x"}))),
        "no inputs": ("malformed", lambda: bytes(msgpack.packb({"id": "bad"}))),
        "deep nesting": ("malformed", lambda: b"\x91" * 20_000 + b"\xc0"),
        "deep nesting under an unknown key": (
            "malformed",
            lambda: b"\x82\xa1z" + b"\x91" * 20_000 + b"\xc0\xa2id\xa1a",
        ),
        "declares 4 billion inputs": ("malformed", lambda: b"\x81\xa6inputs\xdd\xff\xff\xff\xff"),
        "another input": ("unknown_input", lambda: packed(name="y")),
        "no input": ("missing_input", lambda: bytes(msgpack.packb({"id": "bad", "inputs": []}))),
        "another datatype": ("wrong_datatype", lambda: packed(datatype="INT64")),
        "no datatype": ("wrong_datatype", lambda: packed(datatype="STRING")),
        "a pickle": ("wrong_datatype", lambda: packed(data=object_array)),
        "another shape": ("wrong_shape", lambda: packed(shape=[1, COLUMNS + 1])),
        "a huge shape": ("wrong_shape", lambda: packed(shape=[1 << 40, 1 << 40, 1 << 40])),
        "too many rows": ("too_large", lambda: packed(shape=[1 << 40, COLUMNS])),
        "too little data": ("wrong_shape", lambda: packed(data=b"\0" * rng.randrange(4 * COLUMNS))),
    }


@pytest.mark.timeout(300)
def test_ten_thousand_bad_records_cost_their_ten_thousand_neighbours_nothing(site: Site) -> None:
    """Each good one is answered, each bad one is a dead letter with its code, and memory stays bounded."""
    rng = random.Random(4)
    count = 10_000
    expected: Counter[str] = Counter()
    makers = list(kinds(rng).values())

    def mixed() -> Iterator[bytes | None]:
        for number, (code, make) in zip(range(count - HUGE_RECORDS), itertools.cycle(makers), strict=False):
            expected[code] += 1
            yield make()
            yield request(number)
        for number in range(count - HUGE_RECORDS, count):
            expected["too_large"] += 1
            yield b"\xc1" * 10_000_000
            yield request(number)

    # shuffled by chunks: the huge ones come first, last and between
    records = list(mixed())
    rng.shuffle(records)
    publish(site.servers, site.input_topic, records, PARTITIONS)
    worker = site.worker(delivery={"errors_to": "dead_letter"}).start()
    watch = MemoryWatch(worker.process)
    answers = site.reader().read(until=count, timeout_s=200)
    codes = dead_letter_codes(site, until=count)
    assert worker.await_ready().terminate() == 0
    peak = watch.stop()

    assert len(answers.times) == count
    assert answers.duplicates == 0
    assert answers.wrong == []
    assert codes == expected
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


def dead_letter_codes(site: Site, until: int) -> Counter[str]:
    """error code -> dead letters that carry it."""
    consumer = Consumer({"bootstrap.servers": site.servers, "group.id": uuid.uuid4().hex, "enable.auto.commit": False})
    consumer.assign([TopicPartition(site.dead_letter_topic, number, OFFSET_BEGINNING) for number in range(PARTITIONS)])
    codes: Counter[str] = Counter()
    silence = 0
    while codes.total() < until and silence < 50:
        messages = consumer.consume(1000, 0.2)
        silence = 0 if messages else silence + 1
        for message in messages:
            headers: dict[str, Any] = dict(message.headers() or ())
            codes[headers["trt-worker-error-code"].decode()] += 1
    consumer.close()
    return codes
