"""The embedded broker: up at once, for this and other processes, and gone when it is closed."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from worker.kafka.embedded import CONSUMER_SETTINGS, GROUP_SETTINGS, EmbeddedBroker


def test_topics_are_there_with_four_partitions() -> None:
    with EmbeddedBroker("a") as broker:
        broker.create("b", "a")
        topics = (
            AdminClient({"bootstrap.servers": broker.bootstrap_servers, "log_level": 2}).list_topics(timeout=5).topics
        )
    assert {name: len(topic.partitions) for name, topic in topics.items()} == {"a": 4, "b": 4}


def test_a_group_member_has_its_records_within_a_second_or_two() -> None:
    """The settings that go with it spare the mock cluster's usual waits: 3 s to join, 0.5 s a fetch."""
    with EmbeddedBroker("t") as broker:
        config = {"bootstrap.servers": broker.bootstrap_servers, "log_level": 2}
        producer = Producer(config)
        consumer = Consumer(
            {**config, "group.id": "g", "auto.offset.reset": "earliest", **CONSUMER_SETTINGS, **GROUP_SETTINGS}
        )
        start_s = time.monotonic()
        consumer.subscribe(["t"])
        got = []
        for number in range(10):
            producer.produce("t", str(number))
            producer.flush(5)
            message = consumer.poll(5)
            assert message is not None
            got.append(message.value() or b"")
        took_s = time.monotonic() - start_s
        consumer.close()
    assert sorted(got) == [str(number).encode() for number in range(10)]
    assert took_s < 2.5


def test_another_process_can_use_it() -> None:
    with EmbeddedBroker("t") as broker:
        code = (
            "import sys; from confluent_kafka import Producer\n"
            "p = Producer({'bootstrap.servers': sys.argv[1], 'log_level': 2})\n"
            "p.produce('t', b'hello'); print(p.flush(5))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, broker.bootstrap_servers], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "0"


def test_it_says_nothing_on_standard_error() -> None:
    code = "from worker.kafka.embedded import EmbeddedBroker\nwith EmbeddedBroker('a') as b: print(b.bootstrap_servers)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("127.0.0.1:")
    assert done.stderr == ""


def test_closed_it_is_gone() -> None:
    broker = EmbeddedBroker("a")
    broker.close()
    broker.close()
    with pytest.raises(KafkaException):
        AdminClient({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0}).list_topics(timeout=1)
