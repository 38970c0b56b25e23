"""A service that cannot start says why in one line, with the exit code of its kind, and no traceback."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kafka_server import KafkaCluster, free_ports
from tests.system.conftest import Site

LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule required user_alice='right';"


def refusal(directory: Path, settings: dict[str, Any]) -> tuple[int, str]:
    """Exit code and last words of `run` with these settings."""
    file = directory / "refused.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    command = [sys.executable, "-m", "worker", "run", "--config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.returncode, done.stderr.strip().splitlines()[-1]


def test_a_typo_in_the_settings_is_named_with_its_remedy(site: Site) -> None:
    code, words = refusal(site.directory, site.settings(batching={"max_row": 3}))
    assert code == 2
    assert "batching.max_row is not a setting; did you mean max_rows?" in words


def test_a_key_that_librdkafka_does_not_know_is_named(site: Site) -> None:
    client = {"client": {"security.protokol": "ssl"}}
    code, words = refusal(site.directory, site.settings(kafka=client))
    assert code == 2
    assert "security.protokol" in words


def test_a_missing_topic_is_named(site: Site) -> None:
    code, words = refusal(site.directory, site.settings(kafka={"output_topic": "no-such-topic"}))
    assert code == 4
    assert "no-such-topic" in words
    assert "create it" in words


def test_an_unreachable_broker_is_named(site: Site) -> None:
    nobody = f"127.0.0.1:{next(free_ports(1))}"
    code, words = refusal(site.directory, site.settings(kafka={"bootstrap_servers": nobody, "startup_timeout_s": 2}))
    assert code == 4
    assert nobody in words
    assert "no broker answered" in words


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """A cluster with a second listener that wants a password."""
    properties = {
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.guarded.plain.sasl.jaas.config": LOGIN,
    }
    directory = tmp_path_factory.mktemp("guarded")
    with KafkaCluster(directory, properties=properties, listeners={"GUARDED": "SASL_PLAINTEXT"}) as cluster:
        yield cluster


def test_a_refused_login_is_told_at_once_and_without_the_password(site: Site, guarded: KafkaCluster) -> None:
    client = {
        "security.protocol": "sasl_plaintext",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "alice",
        "sasl.password": "hunter2",
    }
    where = {"bootstrap_servers": guarded.addresses("GUARDED"), "client": client}
    code, words = refusal(site.directory, site.settings(kafka=where))
    assert code == 4
    assert "refused" in words
    assert "uthentication" in words
    assert "hunter2" not in words


def test_a_broken_model_is_named(site: Site) -> None:
    broken = site.directory / "broken.onnx"
    broken.write_bytes(b"not a model")
    code, words = refusal(site.directory, site.settings(model={"name": "m", "onnx": str(broken)}))
    assert code == 3
    assert str(broken) in words


def test_a_missing_model_is_named(site: Site) -> None:
    code, words = refusal(site.directory, site.settings(model={"name": "m", "onnx": "nowhere.onnx"}))
    assert code == 2
    assert "model.onnx is nowhere.onnx: no such file" in words


def test_a_taken_port_is_named(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, words = refusal(site.directory, site.settings(http={"host": "127.0.0.1", "port": port}))
    assert code == 2
    assert str(port) in words
