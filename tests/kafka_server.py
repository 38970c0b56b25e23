"""Real Apache Kafka for tests: a cluster of one or more KRaft nodes, each a process on ports of its own."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests import kafka_jars

START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 20.0
TEST_JVM = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")  # quick to start, small, calm on two cores
BENCH_JVM = ("-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20")


class KafkaServer:
    """One Kafka process, broker and controller in one; can be stopped, killed and started again on the same data."""

    def __init__(self, node_id: int, directory: Path, ports: Mapping[str, int], jvm: Sequence[str]) -> None:
        self.node_id = node_id
        self.ports = dict(ports)  # listener name -> port
        self.log = directory / "server.log"
        self._properties = directory / "server.properties"
        self._jvm = list(jvm)
        self._process: subprocess.Popen[bytes] | None = None
        self._reaper: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process's id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def format(self, cluster_id: str, properties: Mapping[str, str]) -> None:
        """Write the properties file and prepare the data folder, once."""
        self._properties.parent.mkdir(parents=True)
        lines = [f"{key}={value}" for key, value in properties.items()]
        self._properties.write_text("\n".join(lines) + "\n", encoding="utf-8")
        command = self._java("kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(self._properties))
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"Kafka's storage could not be formatted:\n{done.stdout[-4000:]}")

    def launch(self) -> None:
        """Start the process and return at once."""
        if self.pid is not None:
            return
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._java("kafka.Kafka", str(self._properties)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the tests; they stop Kafka themselves
            )
        # Ends Kafka when this process ends in whatever way: its stdin is a pipe that only we hold open.
        self._reaper = subprocess.Popen(
            ["sh", "-c", 'cat >/dev/null; kill -KILL "$0" 2>/dev/null', str(self._process.pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def await_ports(self, deadline_s: float) -> None:
        """Wait until our own process (no stranger) listens on every port; deadline_s is on the monotonic clock."""
        assert self._process is not None
        process = psutil.Process(self._process.pid)
        wanted = set(self.ports.values())
        while True:
            if self._process.poll() is not None:
                raise RuntimeError(
                    f"Kafka node {self.node_id} ended with {self._process.returncode}:\n{self.log_tail()}"
                )
            with contextlib.suppress(psutil.Error):
                mine = {
                    entry.laddr.port for entry in process.net_connections("tcp") if entry.status == psutil.CONN_LISTEN
                }
                if wanted <= mine:
                    return
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"Kafka node {self.node_id} does not listen on {wanted}:\n{self.log_tail()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Shut down in order (SIGTERM): leaderships move, logs are flushed. Kills it after 20 s."""
        self.signal(signal.SIGTERM)
        self.await_end(time.monotonic() + STOP_DEADLINE_S)

    def kill(self) -> None:
        """End at once (SIGKILL), as a crash would."""
        self.signal(signal.SIGKILL)
        self.await_end(time.monotonic() + STOP_DEADLINE_S)

    def signal(self, which: signal.Signals) -> None:
        """Send a signal, if it runs. SIGSTOP makes a stalled machine: connections stay open, nothing answers."""
        if self._process is not None:
            self._process.send_signal(which)

    def await_end(self, deadline_s: float) -> None:
        """Wait until the process has ended; kill it at deadline_s of the monotonic clock."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)  # a stopped process does not see other signals
        try:
            process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._reaper is not None:
            self._reaper.kill()
            self._reaper.communicate()
            self._reaper = None

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of the server's log."""
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def _java(self, *arguments: str) -> list[str]:
        quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        return ["java", *self._jvm, quiet, "-cp", f"{kafka_jars.fetched()}/*", *arguments]


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
        self.servers = [
            KafkaServer(node_id, directory / f"node-{node_id}", {name: next(ports) for name in protocols}, jvm)
            for node_id in range(1, nodes + 1)
        ]
        cluster_id = uuid.uuid4().hex[:22]
        for server in self.servers:
            server.format(cluster_id, {**self._properties_of(server, directory, protocols), **(properties or {})})
        self._admin: AdminClient | None = None

    @property
    def bootstrap_servers(self) -> str:
        """host:port of every node's plain listener."""
        return self.addresses("PLAINTEXT")

    def addresses(self, listener: str) -> str:
        """host:port of every node, for one listener."""
        return ",".join(f"127.0.0.1:{server.ports[listener]}" for server in self.servers)

    @property
    def admin(self) -> AdminClient:
        """A client of the plain listener, shared by all who ask."""
        if self._admin is None:
            self._admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        return self._admin

    def start(self) -> None:
        """Start the nodes that are down, and wait until all of them answer clients."""
        deadline_s = time.monotonic() + START_DEADLINE_S
        for server in self.servers:
            server.launch()
        for server in self.servers:
            server.await_ports(deadline_s)
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
        raise TimeoutError(f"topic {name} has no leaders after 30 s:\n{self.servers[0].log_tail()}")

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
        for server in self.servers:
            server.signal(how)
        deadline_s = time.monotonic() + STOP_DEADLINE_S
        for server in self.servers:
            server.await_end(deadline_s)

    @property
    def _replicas(self) -> int:
        return min(3, len(self.servers))

    def _properties_of(self, server: KafkaServer, directory: Path, protocols: Mapping[str, str]) -> dict[str, str]:
        voters = ",".join(f"{node.node_id}@127.0.0.1:{node.ports['CONTROLLER']}" for node in self.servers)
        listeners = [f"{name}://127.0.0.1:{server.ports[name]}" for name in protocols]
        replicas, in_sync = str(self._replicas), str(max(1, self._replicas - 1))
        return {
            "process.roles": "broker,controller",
            "node.id": str(server.node_id),
            "controller.quorum.voters": voters,
            "controller.listener.names": "CONTROLLER",
            "listeners": ",".join(listeners),
            "advertised.listeners": ",".join(listeners[:-1]),
            "listener.security.protocol.map": ",".join(f"{name}:{value}" for name, value in protocols.items()),
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(directory / f"node-{server.node_id}" / "data"),
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
        wanted = {server.node_id for server in self.servers}
        for server in self.servers:
            client = AdminClient(
                {"bootstrap.servers": f"127.0.0.1:{server.ports['PLAINTEXT']}", "log_level": 0}
            )  # a fresh one: the shared one may sit in a reconnect pause
            while True:
                with contextlib.suppress(KafkaException):
                    if set(client.list_topics(timeout=1).brokers) == wanted:
                        break
                if time.monotonic() > deadline_s:
                    raise TimeoutError(f"Kafka node {server.node_id} does not answer:\n{server.log_tail()}")
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
