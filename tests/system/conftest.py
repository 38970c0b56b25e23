"""A service on real Kafka: topics of its own, a pass-through model, workers as processes."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeTopic
from tests.kafka_server import KafkaCluster
from tests.system import models
from tests.system.traffic import COLUMNS, Reader
from tests.system.worker_process import WorkerProcess

PARTITIONS = 4


@dataclass
class Site:
    """Everything one system test needs."""

    servers: str
    group: str
    input_topic: str
    output_topic: str
    dead_letter_topic: str
    directory: Path
    settings: Callable[..., dict[str, Any]]
    worker: Callable[..., WorkerProcess]
    reader: Callable[[], Reader]


@pytest.fixture
def site(kafka: KafkaCluster, topics: MakeTopic, tmp_path: Path) -> Iterator[Site]:
    """Three topics of four partitions and a group of their own."""
    model = models.pass_through(tmp_path / "model.onnx", COLUMNS)
    group = f"group-{uuid.uuid4().hex[:8]}"
    names = [topics(purpose, PARTITIONS, max_message_bytes=str(16 << 20)) for purpose in ("in", "out", "dead")]

    def settings(**sections: dict[str, Any]) -> dict[str, Any]:
        """Settings of a worker; sections are laid over the defaults of these tests."""
        base: dict[str, dict[str, Any]] = {
            "model": {"name": "pass-through", "onnx": str(model)},
            "kafka": {
                "bootstrap_servers": kafka.bootstrap_servers,
                "group_id": group,
                "input_topic": names[0],
                "output_topic": names[1],
                "dead_letter_topic": names[2],
            },
        }
        return {name: {**base.get(name, {}), **sections.get(name, {})} for name in {*base, *sections}}

    with ExitStack() as stack:

        def worker(name: str = "worker", **sections: dict[str, Any]) -> WorkerProcess:
            """A worker, not yet started."""
            return stack.enter_context(WorkerProcess(tmp_path, name, settings(**sections)))

        def reader() -> Reader:
            """A reader of the output topic."""
            opened = Reader(kafka.bootstrap_servers, names[1], PARTITIONS)
            stack.callback(opened.close)
            return opened

        yield Site(kafka.bootstrap_servers, group, names[0], names[1], names[2], tmp_path, settings, worker, reader)
