"""A guarded Kafka, and workers on it with the rights that docs/security.md gives them."""

from __future__ import annotations

import os
import re
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests import kafka_jars
from tests.kafka_server import TEST_JVM
from tests.pages import ROOT, blocks
from tests.security.guarded_kafka import GuardedKafka, Right
from tests.system import models
from tests.system.traffic import COLUMNS
from tests.system.worker_process import WorkerProcess

PARTITIONS = 2
TOOLS = f"org.apache.kafka:kafka-tools:{kafka_jars.KAFKA_VERSION}"
PAGE = ROOT / "docs" / "security.md"
ALL_USERS = ("digits-worker", "digits-client", "digits-operator")
CLASSIC = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 1000}  # as the node's, for the others

Rights = dict[str, set[Right]]  # the comment above the commands -> what they grant


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedKafka]:
    """One node for all tests of this folder."""
    guarded = GuardedKafka(tmp_path_factory.mktemp("guarded") / "kafka")
    with guarded.cluster:
        for user in ALL_USERS:
            guarded.add_user(user)
        yield guarded


@pytest.fixture(scope="session")
def rights(guarded: GuardedKafka, tmp_path_factory: pytest.TempPathFactory) -> Rights:
    """What the commands of docs/security.md grant, run as they stand."""
    directory = tmp_path_factory.mktemp("bin")
    script = directory / "kafka-acls.sh"
    jars = f"{kafka_jars.fetched()}/*:{kafka_jars.single(TOOLS)}/*"
    java = " ".join(("java", *TEST_JVM, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"))
    script.write_text(f"#!/bin/sh\nexec {java} -cp '{jars}' org.apache.kafka.tools.AclCommand \"$@\"\n")
    script.chmod(0o755)
    (directory / "admin.properties").touch()
    found: Rights = {}
    for block in blocks(PAGE, "sh"):
        head, *parts = re.split(r"^# (.*)$", block, flags=re.MULTILINE)
        for name, commands in zip(parts[::2], parts[1::2], strict=True):
            before = guarded.rights()
            code = (head + commands).replace("kafka.example.com:9093", guarded.cluster.bootstrap_servers)
            done = subprocess.run(
                ["bash", "-euc", code],
                cwd=directory,
                env={**os.environ, "PATH": f"{directory}:{os.environ['PATH']}"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            found[name] = guarded.rights() - before
    for right in set().union(*found.values()):
        guarded.forbid(right)  # a test grants what it needs itself
    return found


@dataclass
class Guard:
    """Topics and a group of one test, and what the user may do with them."""

    kafka: GuardedKafka
    rights: Rights
    directory: Path
    stack: ExitStack
    mark: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    def __post_init__(self) -> None:
        self.group = f"digits-worker-{self.mark}"
        self.transactional_id = f"digits-worker-{self.mark}-0"
        self.topics = [f"digits.{name}-{self.mark}" for name in ("requests", "results", "dead-letters")]
        for topic in self.topics:
            self.kafka.cluster.create_topic(topic, PARTITIONS)
        self.model = models.pass_through(self.directory / "model.onnx", COLUMNS)

    def needed(self, *names: str) -> set[Right]:
        """The documented rights, on this test's topics and group."""
        return {right.elsewhere(self.mark) for name in names for right in self.rights[name]}

    def settings(self, mode: str = "at_least_once", **kafka: Any) -> dict[str, Any]:
        """Settings of a worker that logs in as the documented user."""
        base = {
            "bootstrap_servers": self.kafka.cluster.addresses("LOGIN"),
            "group_id": self.group,
            "input_topic": self.topics[0],
            "output_topic": self.topics[1],
            "dead_letter_topic": self.topics[2],
            "startup_timeout_s": 4,
            "client": self.kafka.login(),
            "consumer": CLASSIC if mode != "queue" else {},
        }
        return {
            "model": {"name": "pass-through", "onnx": str(self.model)},
            "engine": {"backend": "cpu"},
            "kafka": {**base, **kafka},
            "delivery": {
                "mode": mode,
                **({"transactional_id": self.transactional_id} if mode == "exactly_once" else {}),
            },
            "logging": {"level": "info"},
        }

    def worker(self, settings: dict[str, Any], name: str = "worker") -> WorkerProcess:
        """A worker, started."""
        return self.stack.enter_context(WorkerProcess(self.directory, name, settings)).start()


@pytest.fixture
def guard(guarded: GuardedKafka, rights: Rights, tmp_path: Path) -> Iterator[Guard]:
    with ExitStack() as stack:
        yield Guard(guarded, rights, tmp_path, stack)
