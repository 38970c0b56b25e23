"""A cluster of three, and workers on it that stop, die, stall and misbehave."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from tests.delivery.proxy import Proxy
from tests.kafka_server import KafkaCluster, free_ports
from tests.system import models
from tests.system.traffic import COLUMNS, Reader
from tests.system.worker_process import WorkerProcess

PARTITIONS = 4
PATIENCE_S = 150.0  # for what takes seconds on a machine that is not busy
ROOT = Path(__file__).parent.parent.parent
QUICK = {  # so that a test need not wait a minute for what a cluster finds out by time
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.session.timeout.ms": "6000",
    "group.consumer.heartbeat.interval.ms": "1000",
    "group.consumer.min.heartbeat.interval.ms": "1000",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    "group.share.session.timeout.ms": "6000",
    "group.share.min.session.timeout.ms": "6000",
    "group.share.heartbeat.interval.ms": "1000",
    "group.share.min.heartbeat.interval.ms": "1000",
    "group.share.record.lock.duration.ms": "15000",
    "group.share.min.record.lock.duration.ms": "1000",
}
HURRY = {"socket.timeout.ms": 3_000, "reconnect.backoff.max.ms": 500}  # of clients whose connections are cut
SESSION = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 1000}
PROTOCOLS: dict[str, dict[str, Any]] = {"classic": SESSION, "consumer": {"group.protocol": "consumer"}}


class DeliveryWorker(WorkerProcess):
    """A worker that may be told to misbehave; see runner.py."""

    options: dict[str, Any]
    _said_before = 0  # bytes of the log when it was last started

    def start(self) -> Self:
        self._port = None
        with self.log.open("ab") as log:  # what it said before it was killed stays
            self._said_before = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.delivery.runner", str(self._config), json.dumps(self.options)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self

    def leave(self) -> None:
        """SIGTERM, and it ends in order, or at once where it was not yet far enough to know what that is."""
        try:
            code = self.terminate(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGUSR1)  # the runner writes where each thread stands
            time.sleep(1)
            raise
        said = self.log.read_bytes()[self._said_before :]
        assert code == 0 or (code == -signal.SIGTERM and b"draining" not in said), f"{self.name} ended with {code}"

    def await_end(self) -> int:
        """The exit code, once it has one."""
        await_that(lambda: self.exit_code is not None, f"{self.name} goes on")
        assert self.exit_code is not None
        return self.exit_code

    @property
    def port(self) -> int | None:
        """The HTTP port, once the log tells it; of this life, not the one before."""
        for line in self.log.read_bytes()[self._said_before :].decode(errors="replace").splitlines():
            if '"message": "http on ' in line:
                return int(json.loads(line)["message"].rpartition(":")[2])
        return None

    def said(self, words: str) -> int:
        """How many log lines have these words."""
        return sum(words in line for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines())


def await_that(is_so: Callable[[], object], complaint: str, timeout_s: float = PATIENCE_S) -> None:
    """Wait for it; an AssertionError where it does not come."""
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline_s, complaint
        time.sleep(0.05)


@dataclass
class Delivery:
    """Topics, a group, and workers of one test."""

    servers: str
    directory: Path
    model: Path
    group: str
    input_topic: str
    output_topic: str
    dead_letter_topic: str
    partitions: int
    stack: ExitStack
    workers: list[DeliveryWorker] = field(default_factory=list)

    def worker(
        self,
        name: str,
        mode: str,
        protocol: str = "classic",
        *,
        servers: str | None = None,
        options: dict[str, Any] | None = None,
        **sections: dict[str, Any],
    ) -> DeliveryWorker:
        """A worker, not yet started."""
        settings: dict[str, dict[str, Any]] = {
            "model": {"name": "pass-through", "onnx": str(self.model)},
            "engine": {"backend": "cpu"},
            "kafka": {
                "bootstrap_servers": servers or self.servers,
                "group_id": self.group,
                "input_topic": self.input_topic,
                "output_topic": self.output_topic,
                "dead_letter_topic": self.dead_letter_topic,
                "consumer": PROTOCOLS[protocol] if mode != "queue" else {},
            },
            "delivery": {
                "mode": mode,
                "drain_timeout_s": 10,
                **({"transactional_id": f"{self.group}-{name}"} if mode == "exactly_once" else {}),
            },
        }
        for section, values in sections.items():
            settings[section] = {**settings.get(section, {}), **values}
        worker = DeliveryWorker(self.directory, name, settings)
        worker.options = options or {}
        self.workers.append(worker)
        return self.stack.enter_context(worker)

    def reader(self) -> Reader:
        """Of the output topic; committed data only."""
        opened = Reader(self.servers, self.output_topic, self.partitions)
        self.stack.callback(opened.close)
        return opened


MakeDelivery = Callable[[KafkaCluster, int], Delivery]


@pytest.fixture
def deliver(tmp_path: Path) -> Iterator[MakeDelivery]:
    """Makes topics and a group of their own on a cluster."""
    with ExitStack() as stack:

        def make(cluster: KafkaCluster, partitions: int = PARTITIONS) -> Delivery:
            cluster.start()  # the test before may have left nodes down
            mark = uuid.uuid4().hex[:8]
            requests, answers, dead = [
                cluster.create_topic(f"{purpose}-{mark}", partitions, max_message_bytes=str(8 << 20))
                for purpose in ("in", "out", "dead")
            ]
            model = models.pass_through(tmp_path / "model.onnx", COLUMNS)
            return Delivery(
                cluster.bootstrap_servers, tmp_path, model, f"group-{mark}", requests, answers, dead, partitions, stack
            )

        yield make


@pytest.fixture(scope="module")  # three processes are too much to have idle for the rest of the session
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """Three nodes, replication factor 3, two in sync."""
    with KafkaCluster(tmp_path_factory.mktemp("trio"), nodes=3, properties=QUICK) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """One node with short timeouts."""
    with KafkaCluster(tmp_path_factory.mktemp("single"), properties=QUICK) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[KafkaCluster, Proxy]]:
    """One node with a second listener that is advertised with the proxy's port."""
    (port,) = free_ports(1)
    directory = tmp_path_factory.mktemp("wire")
    cluster = KafkaCluster(directory, properties=QUICK, listeners={"FAULTY": "PLAINTEXT"})
    node = cluster.nodes[0]
    settings = node.log.parent / "server.properties"
    direct = f"FAULTY://127.0.0.1:{node.ports['FAULTY']}"
    lines = settings.read_text().splitlines()
    changed = [
        line.replace(direct, f"FAULTY://127.0.0.1:{port}") if line.startswith("advertised.listeners") else line
        for line in lines
    ]
    assert changed != lines
    settings.write_text("\n".join(changed) + "\n")
    with cluster, Proxy(port, node.ports["FAULTY"]) as proxy:
        yield cluster, proxy
