"""The Dockerfile and the compose file, as far as no engine is needed; test_container.py builds and runs an image."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy import go_tools
from tests.deploy.manifests import ROOT
from tests.deploy.test_pods import LEAVING_S
from tests.kafka_node import KafkaNode
from tests.kafka_server import TEST_JVM, free_ports
from worker import __version__, config
from worker.demo.showcase import settings_for
from worker.demo.stage import Stage

COMPOSE = ROOT / "config" / "compose" / "compose.yaml"
DOCKERFILE = ROOT / "Dockerfile"
HADOLINT = Path(sys.executable).parent / "hadolint"


def hadolint(text: str) -> tuple[int, str]:
    done = subprocess.run([str(HADOLINT), "-"], input=text, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_the_dockerfile_is_clean() -> None:
    assert hadolint(DOCKERFILE.read_text(encoding="utf-8")) == (0, "")


def test_hadolint_sees_a_fault() -> None:
    code, said = hadolint(DOCKERFILE.read_text(encoding="utf-8") + "RUN apt-get install curl\n")
    assert code == 1
    assert "DL3008" in said


def test_the_images_have_targets_a_pinned_base_and_the_version() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert set(re.findall(r"^FROM runtime AS (\w+)", text, re.MULTILINE)) == {"cpu", "gpu", "rtx"}
    assert re.search(r"^ARG PYTHON_IMAGE=\S+:\S+@sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    assert set(re.findall(r"^FROM (\$\S+)", text, re.MULTILINE)) == {"${PYTHON_IMAGE}"}
    assert f"ARG VERSION={__version__}\n" in text


def test_the_demo_of_the_image_listens_where_the_health_check_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """And where a published port leads; elsewhere the demo takes any free port of this machine only."""
    text = DOCKERFILE.read_text(encoding="utf-8")
    asked = re.search(r"'TRT_WORKER__HTTP__PORT', '(\d+)'", text)
    assert asked is not None
    stage = Stage("kafka:9092", "a broker")
    assert settings_for(stage, Path("m.onnx"), Path("engines")).http.port == 0
    image = text.partition("\nFROM runtime AS cpu\n")[2].partition("\nFROM ")[0]
    for name, value in re.findall(r"(TRT_WORKER_\w+)=(\S+)", image):
        monkeypatch.setenv(name, value)
    http = settings_for(stage, Path("m.onnx"), Path("engines")).http
    assert (http.host, http.port) == ("0.0.0.0", int(asked[1]))  # any address of the container


def test_the_context_has_what_is_copied() -> None:
    """.dockerignore leaves everything out but the sources of COPY."""
    kept = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE))
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(Path(source).is_relative_to(name) for name in kept), source


@pytest.mark.parametrize("name", ["cpu", "gpu", "rtx"])
def test_the_locks_of_the_images_agree(name: str) -> None:
    """What an image has on top of the common lock comes in one version: the wheels lie in one folder."""
    common = pins("requirements.lock")
    own = pins("requirements.lock" if name == "cpu" else f"requirements-{name}.lock")
    assert {package: own[package] for package in own.keys() & common.keys()} == {
        package: common[package] for package in own.keys() & common.keys()
    }
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    wanted = {re.split(r"[<>=;\s]", requirement)[0] for requirement in extras[name]}
    assert wanted <= own.keys(), "make lock"


def pins(lock: str) -> dict[str, set[str]]:
    """Versions of each package of a lock; several where they depend on the platform."""
    found: dict[str, set[str]] = {}
    for package, version in re.findall(
        r"^([a-z0-9._-]+)==(\S+)", (ROOT / lock).read_text(encoding="utf-8"), re.MULTILINE
    ):
        found.setdefault(package, set()).add(version)
    return found


@pytest.fixture(scope="module")
def composed(tools: Path) -> dict[str, Any]:
    """The services of the compose file, as docker compose understands them."""
    code, said, trouble = go_tools.run("compose", [COMPOSE.name], folder=COMPOSE.parent)
    assert code == 0, trouble
    services: dict[str, Any] = yaml.safe_load(said)["services"]
    return services


def test_the_compose_file_is_valid_and_its_files_are_there(composed: dict[str, Any]) -> None:
    assert set(composed) == {"kafka", "topics", "worker", "prometheus", "grafana"}
    mounted = [volume["source"] for service in composed.values() for volume in service.get("volumes", ())]
    assert mounted
    assert all(Path(source).is_file() for source in mounted), mounted
    assert (Path(composed["worker"]["build"]["context"]) / "Dockerfile").is_file()
    assert composed["worker"]["build"]["target"] == "cpu"
    assert str(ROOT / "k8s" / "monitoring" / "dashboard.json") in mounted


@pytest.mark.usefixtures("tools")
def test_a_wrong_compose_file_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text(encoding="utf-8").replace("depends_on:", "depends:"), encoding="utf-8")
    code, _, trouble = go_tools.run("compose", [wrong.name], folder=tmp_path)
    assert code != 0
    assert "depends" in trouble


def test_compose_tells_the_worker_the_same_story(composed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings load, its topics are created, its broker listens there, and it may drain in peace."""
    worker = composed["worker"]
    for name, value in worker["environment"].items():
        monkeypatch.setenv(name, value)
    settings = config.load(Path(worker["volumes"][0]["source"]))
    created = composed["topics"]["command"][0]
    for topic in (*settings.kafka.input_topics, settings.kafka.output_topic, settings.kafka.dead_letter_topic):
        assert f" {topic}" in created
    assert (
        f"INSIDE://{settings.kafka.bootstrap_servers}" in composed["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    )
    assert str(settings.http.port) == worker["ports"][0]["published"]
    assert seconds(worker["stop_grace_period"]) >= settings.delivery.drain_timeout_s + LEAVING_S
    assert worker["read_only"]


def seconds(duration: str) -> int:
    """Of a duration in minutes and seconds, such as 1m5s."""
    minutes, _, rest = duration.rpartition("m")
    return 60 * int(minutes or 0) + int(rest.removesuffix("s"))


@pytest.mark.broker
def test_real_kafka_starts_with_what_compose_tells_it(composed: dict[str, Any], tmp_path: Path) -> None:
    """The image makes server properties of the variables; here a real node gets them, on ports of its own."""
    told = composed["kafka"]["environment"]
    properties = {name.removeprefix("KAFKA_").lower().replace("_", "."): value for name, value in told.items()}
    listeners = dict(entry.split("://:") for entry in properties["listeners"].split(","))
    ports = dict(zip(listeners, free_ports(len(listeners)), strict=False))
    for name, port in listeners.items():
        for key in ("listeners", "advertised.listeners", "controller.quorum.voters"):
            properties[key] = re.sub(rf":{port}\b", f":{ports[name]}", properties[key])
    node = KafkaNode(1, tmp_path / "node", ports, TEST_JVM)
    node.format("4L6g3nShT-eMCtK--X86sw", {**properties, "log.dirs": str(tmp_path / "data")})
    node.launch()
    try:
        node.await_ports(time.monotonic() + 60)
    finally:
        node.stop()
