"""docs/examples: producers in other languages, against the real worker on real Kafka."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests import kafka_jars
from tests.deploy.go_tools import go_missing
from tests.kafka_server import KafkaCluster
from tests.pages import README, ROOT, SETTINGS_FILE, WIRE_FORMAT, text
from tests.system.worker_process import WorkerProcess

EXAMPLES = ROOT / "docs" / "examples"
MSGPACK = "org.msgpack:msgpack-core:0.9.12"
BUILD_TIMEOUT_S = 600  # the first time, the modules are downloaded and compiled


@pytest.fixture(scope="module")
def address(kafka: KafkaCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A worker on the shipped settings; where its Kafka is."""
    settings = yaml.safe_load(text(SETTINGS_FILE))
    where = settings["kafka"]
    topics = [kafka.create_topic(where[key], 2) for key in ("input_topic", "output_topic", "dead_letter_topic")]
    where["bootstrap_servers"] = kafka.bootstrap_servers
    settings["model"]["onnx"] = str(ROOT / settings["model"]["onnx"])
    settings["engine"]["backend"] = "cpu"
    settings["http"] = {}
    with WorkerProcess(tmp_path_factory.mktemp("worker"), "worker", settings) as worker:
        worker.start().await_ready()
        yield kafka.bootstrap_servers
    for topic in topics:
        kafka.delete_topic(topic)


def javac_missing() -> str | None:
    """Why a Java source file cannot be run here; None where it can."""
    return None if shutil.which("javac") else "needs a Java development kit, and there is no javac"


def require(reason: str | None) -> None:
    if reason is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}; with CI=true that is a failure", pytrace=False)
    pytest.skip(reason)


def said_by(command: list[str], directory: Path = EXAMPLES, timeout_s: float = 90) -> str:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def go_program() -> Path:
    """The built example; kept, because its modules take a while to compile."""
    require(go_missing())
    program = ROOT / ".cache" / "examples" / "digits"
    said_by(["go", "build", "-mod=readonly", "-o", str(program), "."], EXAMPLES / "go", BUILD_TIMEOUT_S)
    return program


@pytest.mark.timeout(BUILD_TIMEOUT_S)
def test_the_program_in_go_reads_its_answer(go_program: Path, address: str) -> None:
    assert said_by([str(go_program), address]) == "2\n"


def test_the_program_in_java_reads_its_answer(address: str) -> None:
    require(javac_missing())
    jars = f"{kafka_jars.fetched()}/*:{kafka_jars.single(MSGPACK)}/*"
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"
    assert said_by(["java", quiet, "-cp", jars, "Digits.java", address], EXAMPLES / "java") == "2\n"


def test_nothing_but_a_kafka_client_and_msgpack_is_needed() -> None:
    """Beside each language's own library; and all programs ask what README's asks."""
    direct = re.findall(r"^\t(\S+) v[\d.]+$", text(EXAMPLES / "go" / "go.mod"), re.MULTILINE)
    assert direct == ["github.com/twmb/franz-go", "github.com/vmihailenco/msgpack/v5"]
    imported = set(re.findall(r"^import (\w+\.\w+)", text(EXAMPLES / "java" / "Digits.java"), re.MULTILINE))
    assert {name for name in imported if not name.startswith("java.")} == {"org.apache", "org.msgpack"}
    image = re.search(r'in "(\w{64})"', text(README))
    assert image is not None
    for program in ("go/main.go", "java/Digits.java"):
        assert f'"{image[1]}"' in text(EXAMPLES / program)
        assert f"(examples/{program})" in text(WIRE_FORMAT)
