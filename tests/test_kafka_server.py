"""The test broker itself: what the delivery tests lean on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.conftest import MakeTopic
from tests.kafka_server import KafkaCluster


def publish(kafka: KafkaCluster, topic: str, values: list[bytes]) -> None:
    acknowledged: list[bytes | None] = []

    def on_delivery(error: KafkaError | None, message: Message) -> None:
        assert error is None
        acknowledged.append(message.value())

    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "acks": "all"})
    for value in values:
        producer.produce(topic, value, partition=0, on_delivery=on_delivery)
    producer.flush(30)
    assert acknowledged == values


def read_back(kafka: KafkaCluster, topic: str, count: int) -> list[bytes | None]:
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": "reader"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    try:
        return [message.value() for message in consumer.consume(count, 30)]
    finally:
        consumer.close()


def test_what_was_acknowledged_survives_a_stop(kafka: KafkaCluster, topics: MakeTopic) -> None:
    """The same ports and the same data after stop() and start()."""
    topic = topics("kept")
    publish(kafka, topic, [b"before"])
    address = kafka.bootstrap_servers
    kafka.stop()
    assert kafka.nodes[0].pid is None
    kafka.start()
    assert kafka.bootstrap_servers == address
    publish(kafka, topic, [b"after"])
    assert read_back(kafka, topic, 2) == [b"before", b"after"]


def test_what_was_acknowledged_survives_a_kill(kafka: KafkaCluster, topics: MakeTopic) -> None:
    """SIGKILL ends only the process: the log stays."""
    topic = topics("killed")
    publish(kafka, topic, [b"one", b"two"])
    kafka.kill()
    kafka.start()
    assert read_back(kafka, topic, 2) == [b"one", b"two"]


def test_a_server_left_down_is_up_for_the_next_test(kafka: KafkaCluster) -> None:
    """First half: leaves the server down."""
    kafka.kill()


def test_the_server_is_up_again(kafka: KafkaCluster, topics: MakeTopic) -> None:
    """Second half: needs it."""
    publish(kafka, topics(), [b"up"])


def test_large_messages_fit(kafka: KafkaCluster, topics: MakeTopic) -> None:
    """message.max.bytes is 16 MiB."""
    topic = topics("large")
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "message.max.bytes": 16 << 20})
    value = os.urandom(12 << 20)
    producer.produce(topic, value)
    assert producer.flush(30) == 0
    assert read_back(kafka, topic, 1) == [value]


@pytest.mark.broker
def test_a_node_that_cannot_start_says_why(tmp_path: Path) -> None:
    """The error holds the end of the server's log; a stranger on the port is never taken for Kafka."""
    kafka = KafkaCluster(tmp_path / "kafka")
    with socket.create_server(("127.0.0.1", kafka.nodes[0].ports["PLAINTEXT"])):
        with pytest.raises(RuntimeError, match=r"node 1 ended with 1:[\s\S]*Address already in use"), kafka:
            pass
        assert kafka.nodes[0].pid is None


@pytest.mark.broker
def test_a_killed_test_run_leaves_no_server_behind(tmp_path: Path) -> None:
    """Even SIGKILL of the process that started Kafka ends Kafka."""
    code = (
        "import sys, time; from pathlib import Path; from tests.kafka_server import KafkaCluster\n"
        "with KafkaCluster(Path(sys.argv[1])) as kafka: print(kafka.nodes[0].pid, flush=True); time.sleep(600)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "kafka")], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    server = psutil.Process(int(starter.stdout.readline()))
    starter.send_signal(signal.SIGKILL)
    starter.communicate()
    deadline_s = time.monotonic() + 10
    while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline_s, "Kafka outlived the test run"
        time.sleep(0.05)


@pytest.mark.broker
@pytest.mark.timeout(300)
def test_three_nodes_lose_one_and_go_on(tmp_path: Path) -> None:
    """Replication factor 3 with two in sync: one node may be down."""
    with KafkaCluster(tmp_path / "kafka", nodes=3) as kafka:
        topic = kafka.create_topic("replicated", 1)
        publish(kafka, topic, [b"with three"])
        kafka.nodes[0].kill()
        publish(kafka, topic, [b"with two"])
        kafka.start()
        assert read_back(kafka, topic, 2) == [b"with three", b"with two"]


@pytest.mark.broker
def test_a_further_listener_can_ask_for_a_password(tmp_path: Path) -> None:
    """Listeners and properties are open: here SASL/PLAIN beside the plain one."""
    login = (
        "org.apache.kafka.common.security.plain.PlainLoginModule required "
        'username="admin" password="secret" user_admin="secret" user_worker="right";'
    )
    properties = {"sasl.enabled.mechanisms": "PLAIN", "listener.name.login.plain.sasl.jaas.config": login}
    with KafkaCluster(tmp_path / "kafka", properties=properties, listeners={"LOGIN": "SASL_PLAINTEXT"}) as kafka:
        kafka.create_topic("guarded", 2)

        def partitions_seen_with(password: str) -> int:
            client = AdminClient(
                {
                    "bootstrap.servers": kafka.addresses("LOGIN"),
                    "security.protocol": "SASL_PLAINTEXT",
                    "sasl.mechanism": "PLAIN",
                    "sasl.username": "worker",
                    "sasl.password": password,
                    "log_level": 0,
                }
            )
            return len(client.list_topics("guarded", timeout=3).topics["guarded"].partitions)

        assert partitions_seen_with("right") == 2
        with pytest.raises(KafkaException):
            partitions_seen_with("wrong")
