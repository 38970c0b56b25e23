"""Topics that take less than a batch of answers, and less than some answers."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import msgpack
import numpy as np
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from tests.conftest import MakeTopic
from tests.system.conftest import PARTITIONS, Site
from tests.system.traffic import COLUMNS, Reader, publish, request

COUNT = 3000
LIMIT = 20_000  # bytes of a batch: about thirty answers
LARGE_ROWS = 50  # of one request, whose answer has 29 kB
LARGE = {500, 501, 2200}


def large_request(number: int) -> bytes:
    rows = np.full((LARGE_ROWS, COLUMNS), number, np.float32)
    tensor = {"name": "x", "datatype": "FP32", "shape": rows.shape, "data": rows.tobytes()}
    return bytes(msgpack.packb({"id": str(number), "inputs": [tensor]}))


@pytest.mark.timeout(200)
@pytest.mark.parametrize("mode", ["at_least_once", "exactly_once"])
def test_a_topic_that_takes_less_than_a_batch_costs_no_answer(site: Site, topics: MakeTopic, mode: str) -> None:
    """Each request is answered once; those whose results no topic takes get error answers, and dead letters."""
    output = topics("small", PARTITIONS, max_message_bytes=str(LIMIT))
    dead = topics("small-dead", PARTITIONS, max_message_bytes=str(LIMIT))
    topic_settings = {"output_topic": output, "dead_letter_topic": dead}
    values = [large_request(number) if number in LARGE else request(number) for number in range(COUNT)]
    publish(site.servers, site.input_topic, values, PARTITIONS)
    worker = site.worker(kafka=topic_settings, delivery={"mode": mode}).start()
    with closing(Reader(site.servers, output, PARTITIONS)) as reader:
        answers = reader.read(until=COUNT, timeout_s=150, quiet_s=2.0)
    assert worker.terminate() == 0
    assert {number for number in range(COUNT) if answers.times[str(number)] != 1} == set()
    assert answers.wrong == []
    assert answers.errors == {"too_large": len(LARGE)}
    letters = dead_letters(site.servers, dead)
    assert len(letters) == len(LARGE)
    assert all(headers["trt-worker-error-code"] == b"too_large" for headers in letters)
    assert all(int(headers["trt-worker-value-omitted"]) > LIMIT for headers in letters)


def dead_letters(servers: str, topic: str) -> list[dict[str, Any]]:
    """Headers of each."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "letters", "isolation.level": "read_committed"})
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(PARTITIONS)])
    try:
        return [dict(message.headers() or ()) for message in consumer.consume(len(LARGE) + 1, 5.0)]
    finally:
        consumer.close()
