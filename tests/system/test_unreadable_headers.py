"""A header's name may be any bytes to Kafka; the client library can read it only as UTF-8, and fails for good."""

from __future__ import annotations

import ctypes
from pathlib import Path

import confluent_kafka
import pytest

from tests.system.conftest import PARTITIONS, Site
from tests.system.test_hostile_input import dead_letter_codes
from tests.system.traffic import publish, request

COUNT = 200
PLACES = (0, 50, 51, COUNT)  # of the bad ones, among the good


def publish_with_header(servers: str, topic: str, partition: int, value: bytes, name: bytes) -> None:
    """What the Python client cannot do: a header whose name is not text."""
    (library,) = (Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs").glob("librdkafka*.so*")
    kafka = ctypes.CDLL(str(library))
    for function in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_topic_new"):
        getattr(kafka, function).restype = ctypes.c_void_p
    reason = ctypes.create_string_buffer(512)
    settings = ctypes.c_void_p(kafka.rd_kafka_conf_new())
    kafka.rd_kafka_conf_set(settings, b"bootstrap.servers", servers.encode(), reason, len(reason))
    producer = ctypes.c_void_p(kafka.rd_kafka_new(0, settings, reason, len(reason)))
    assert producer.value is not None, reason.value
    vtype, end = ctypes.c_int, 0  # rd_kafka_vtype_t: 1 topic, 3 partition, 4 value, 9 header
    refused = kafka.rd_kafka_producev(
        producer,
        *(vtype(1), ctypes.c_char_p(topic.encode())),
        *(vtype(3), ctypes.c_int32(partition)),
        *(vtype(4), ctypes.c_char_p(value), ctypes.c_size_t(len(value))),
        *(vtype(9), ctypes.c_char_p(name), ctypes.c_char_p(b"x"), ctypes.c_ssize_t(1)),
        vtype(end),
    )
    assert refused == 0
    assert kafka.rd_kafka_flush(producer, 30_000) == 0
    kafka.rd_kafka_destroy(producer)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("mode", ["at_least_once", "exactly_once", "queue"])
def test_it_becomes_a_dead_letter_and_its_neighbours_are_answered(site: Site, mode: str) -> None:
    """Not the end of the process, again and again."""
    for number in range(COUNT + 1):
        if number in PLACES:
            publish_with_header(site.servers, site.input_topic, number % PARTITIONS, request(-1), b"trace\xff")
        if number < COUNT and number % 50 == 0:
            publish(site.servers, site.input_topic, (request(each) for each in range(number, number + 50)), PARTITIONS)
    worker = site.worker(delivery={"mode": mode, "errors_to": "dead_letter"}).start().await_ready()
    answers = site.reader().read(until=COUNT, timeout_s=60)
    codes = dead_letter_codes(site, until=len(PLACES))
    assert worker.terminate() == 0, worker.log.read_text()[-3000:]
    assert len(answers.times) == COUNT
    assert answers.wrong == []
    assert codes == {"malformed": len(PLACES)}
