"""Real Apache Kafka for tests: a cluster of one or more KRaft nodes, each a process on ports of its own."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.kafka_node import STOP_DEADLINE_S, KafkaNode

START_DEADLINE_S = 60.0
TEST_JVM = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")  # quick to start, small, calm on two cores
BENCH_JVM = ("-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20")


class KafkaCluster:
    """n nodes of one cluster. One node: every replication factor is 1. Three: factor 3, two must be in sync.

    Args:
        directory: an empty or missing folder for data, settings and logs.
        nodes: how many processes.
        properties: server properties on top of ours, the same for every node.
        listeners: further listeners, name -> security protocol (SASL_PLAINTEXT, SSL, …); `properties` sets them up.
        jvm: options of the Java machine.
    """

    def __init__(
        self,
        directory: Path,
        nodes: int = 1,
        properties: Mapping[str, str] | None = None,
        listeners: Mapping[str, str] | None = None,
        jvm: Sequence[str] = TEST_JVM,
    ) -> None:
        protocols = {"PLAINTEXT": "PLAINTEXT", **(listeners or {}), "CONTROLLER": "PLAINTEXT"}
        ports = free_ports(nodes * len(protocols))
        self.nodes = [
            KafkaNode(node_id, directory / f"node-{node_id}", {name: next(ports) for name in protocols}, jvm)
            for node_id in range(1, nodes + 1)
        ]
        cluster_id = uuid.uuid4().hex[:22]
        for node in self.nodes:
            node.format(cluster_id, {**self._properties_of(node, directory, protocols), **(properties or {})})
        self._admin: AdminClient | None = None

    @property
    def bootstrap_servers(self) -> str:
        """host:port of every node's plain listener."""
        return self.addresses("PLAINTEXT")

    def addresses(self, listener: str) -> str:
        """host:port of every node, for one listener."""
        return ",".join(f"127.0.0.1:{node.ports[listener]}" for node in self.nodes)

    @property
    def admin(self) -> AdminClient:
        """A client of the plain listener, shared by all who ask."""
        if self._admin is None:
            self._admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        return self._admin

    def start(self) -> None:
        """Start the nodes that are down, and wait until all of them answer clients."""
        deadline_s = time.monotonic() + START_DEADLINE_S
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.await_ports(deadline_s)
        self._await_brokers(deadline_s)

    def stop(self) -> None:
        """Shut every node down in order, all at once: the last ones alone would wait for a quorum in vain."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End every node at once."""
        self._end(signal.SIGKILL)

    def create_topic(self, name: str, partitions: int = 1, **config: str) -> str:
        """Make a topic and wait until every partition has a leader.

        Args:
            name: the topic's name.
            partitions: how many.
            **config: topic settings, dots as underscores (message_timestamp_type="LogAppendTime").

        Returns:
            The name.
        """
        settings = {key.replace("_", "."): value for key, value in config.items()}
        topic = NewTopic(name, num_partitions=partitions, replication_factor=self._replicas, config=settings)
        self.admin.create_topics([topic], operation_timeout=30)[name].result(30)
        deadline_s = time.monotonic() + 30
        while time.monotonic() < deadline_s:
            found = self.admin.list_topics(name, timeout=10).topics[name].partitions.values()
            if len(found) == partitions and all(partition.leader > 0 for partition in found):
                return name
            time.sleep(0.05)
        raise TimeoutError(f"topic {name} has no leaders after 30 s:\n{self.nodes[0].log_tail()}")

    def delete_topic(self, name: str) -> None:
        """Remove a topic and its data."""
        self.admin.delete_topics([name], operation_timeout=30)[name].result(30)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._admin = None
        self.kill()  # nobody needs the data again

    def _end(self, how: signal.Signals) -> None:
        self._admin = None  # a client may lose a cluster that goes for good; see worker/kafka/lost_clients.py
        for node in self.nodes:
            node.signal(how)
        deadline_s = time.monotonic() + STOP_DEADLINE_S
        for node in self.nodes:
            node.await_end(deadline_s)

    @property
    def _replicas(self) -> int:
        return min(3, len(self.nodes))

    def _properties_of(self, node: KafkaNode, directory: Path, protocols: Mapping[str, str]) -> dict[str, str]:
        voters = ",".join(f"{node.node_id}@127.0.0.1:{node.ports['CONTROLLER']}" for node in self.nodes)
        listeners = [f"{name}://127.0.0.1:{node.ports[name]}" for name in protocols]
        replicas, in_sync = str(self._replicas), str(max(1, self._replicas - 1))
        return {
            "process.roles": "broker,controller",
            "node.id": str(node.node_id),
            "controller.quorum.voters": voters,
            "controller.listener.names": "CONTROLLER",
            "listeners": ",".join(listeners),
            "advertised.listeners": ",".join(listeners[:-1]),
            "listener.security.protocol.map": ",".join(f"{name}:{value}" for name, value in protocols.items()),
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(directory / f"node-{node.node_id}" / "data"),
            "default.replication.factor": replicas,
            "min.insync.replicas": in_sync,
            "offsets.topic.replication.factor": replicas,
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": in_sync,
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": in_sync,
            "share.coordinator.state.topic.num.partitions": "4",
            "broker.heartbeat.interval.ms": "500",
            "broker.session.timeout.ms": "4000",  # how long a killed node is waited for
            "group.initial.rebalance.delay.ms": "0",
            "auto.create.topics.enable": "false",
            "message.max.bytes": str(16 << 20),
            "log.segment.bytes": str(64 << 20),
            "log.index.size.max.bytes": str(1 << 20),
        }

    def _await_brokers(self, deadline_s: float) -> None:
        """Listening is not yet serving: wait until the metadata of every node names them all."""
        wanted = {node.node_id for node in self.nodes}
        for node in self.nodes:
            client = AdminClient(
                {"bootstrap.servers": f"127.0.0.1:{node.ports['PLAINTEXT']}", "log_level": 0}
            )  # a fresh one: the shared one may sit in a reconnect pause
            while True:
                with contextlib.suppress(KafkaException):
                    if set(client.list_topics(timeout=1).brokers) == wanted:
                        break
                if time.monotonic() > deadline_s:
                    raise TimeoutError(f"Kafka node {node.node_id} does not answer:\n{node.log_tail()}")
                time.sleep(0.05)


def free_ports(count: int) -> Iterator[int]:
    """Ports nobody listens on, below the range from which the system takes client ports, so that a stopped node's
    port is still free when it starts again.
    """
    found: set[int] = set()
    while len(found) < count:
        port = random.randint(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.add(port)
    return iter(found)
