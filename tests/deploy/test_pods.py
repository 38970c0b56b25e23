"""What the overlays tell the worker is right, fits what they tell Kubernetes and KEDA, and runs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.conftest import TENSORRT_FLAVOURS, MakeTopic
from tests.deploy import manifests
from tests.deploy.manifests import OVERLAYS, ROOT, Manifest
from tests.kafka_server import KafkaCluster
from worker import __version__, config
from worker.config import Settings
from worker.engine.repository import Repository
from worker.kafka import group_client

LEAVING_S = 30  # docs/delivery.md: what a stop takes above delivery.drain_timeout_s, with no broker to be reached
SECRET_FILES = ("username", "password", "ca.crt", "tls.crt", "tls.key")
IMAGE_FOLDER = "/srv"  # WORKDIR of the image, with the shipped model in it
KEDA_CALLS_IT = {"PLAIN": "plaintext", "SCRAM-SHA-256": "scram_sha256", "SCRAM-SHA-512": "scram_sha512"}

pytestmark = pytest.mark.usefixtures("tools")


def settings_of(made: list[Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What `trt-worker run` reads in the pod: the mounted file under the container's variables, secrets mounted."""
    for path, volume in manifests.mounts(made):
        folder = tmp_path / path.strip("/")
        folder.mkdir(parents=True)
        if "configMap" in volume:
            for name, text in manifests.config_map(made, volume["configMap"]["name"]).items():
                (folder / name).write_text(text, encoding="utf-8")
        if "secret" in volume:
            for name in SECRET_FILES:
                (folder / name).write_text(f"secret {name}\n", encoding="utf-8")
    container = manifests.worker(made)
    for name, value in manifests.environment(made, container).items():
        mounted = tmp_path / value.strip("/")
        monkeypatch.setenv(name, str(mounted) if value.startswith("/") and mounted.is_file() else value)
    command, option, file = container["args"]
    assert (command, option) == ("run", "--config")
    return config.load(tmp_path / file.strip("/"))


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_grace_period_covers_the_drain(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes counts preStop in; after it come the drain and the leaving of the group."""
    made = manifests.render(name)
    settings = settings_of(made, tmp_path, monkeypatch)
    pre_stop_s = manifests.worker(made)["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace_s = manifests.pod(made)["terminationGracePeriodSeconds"]
    assert grace_s >= pre_stop_s + settings.delivery.drain_timeout_s + LEAVING_S


@pytest.mark.parametrize("name", OVERLAYS)
def test_probes_ask_where_the_worker_answers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = manifests.render(name)
    settings = settings_of(made, tmp_path, monkeypatch)
    container = manifests.worker(made)
    assert container["ports"] == [{"name": "http", "containerPort": settings.http.port}]
    paths = {probe: container[f"{probe}Probe"]["httpGet"] for probe in ("startup", "readiness", "liveness")}
    assert paths == {
        "startup": {"path": "/readyz", "port": "http"},
        "readiness": {"path": "/readyz", "port": "http"},
        "liveness": {"path": "/healthz", "port": "http"},
    }
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] > settings.kafka.startup_timeout_s


@pytest.mark.parametrize("name", OVERLAYS)
def test_files_that_settings_name_are_mounted_or_in_the_image(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is in the image, the engine repository is a volume, secrets come from a Secret."""
    made = manifests.render(name)
    settings = settings_of(made, tmp_path, monkeypatch)
    assert settings.model.onnx is not None
    in_image = Path(IMAGE_FOLDER, settings.model.onnx).relative_to(IMAGE_FOLDER)
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert f"WORKDIR {IMAGE_FOLDER}\n" in dockerfile
    assert f"COPY {in_image} {in_image}\n" in dockerfile
    volumes = dict(manifests.mounts(made))
    if settings.engine.backend == "tensorrt":
        assert "emptyDir" not in volumes[str(settings.engine.repository)]
    for key, value in settings.kafka.client.items():
        if key.endswith(".location"):
            assert Path(str(value)).read_text(encoding="utf-8").startswith("secret ")
    assert settings.kafka.client.get("sasl.password", "secret password") == "secret password"


@pytest.mark.parametrize("name", OVERLAYS)
def test_keda_watches_what_the_worker_reads(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same brokers, group and topic, same view of a group without offsets; and it scales what there is."""
    made = manifests.render(name)
    scaled = [manifest for manifest in made if manifest["kind"] == "ScaledObject"]
    if not scaled:
        assert name == "cpu-demo"
        return
    settings = settings_of(made, tmp_path, monkeypatch)
    spec = scaled[0]["spec"]
    workload = manifests.one(made, *manifests.WORKLOADS)
    assert spec["scaleTargetRef"]["name"] == workload["metadata"]["name"]
    assert spec["scaleTargetRef"].get("kind", "Deployment") == workload["kind"]
    assert "replicas" not in workload["spec"]
    lag, backlog = (trigger["metadata"] for trigger in spec["triggers"])
    told = manifests.environment(made, manifests.worker(made))
    assert told[lag["bootstrapServersFromEnv"]] == settings.kafka.bootstrap_servers
    assert told[lag["consumerGroupFromEnv"]] == settings.kafka.group_id
    assert (told[lag["topicFromEnv"]],) == settings.kafka.input_topics
    reset = {**group_client.DEFAULTS, **settings.kafka.client, **settings.kafka.consumer}["auto.offset.reset"]
    assert lag["offsetResetPolicy"] == reset
    assert f'namespace="{workload["metadata"]["namespace"]}"' in backlog["query"]
    client = settings.kafka.client
    login = spec["triggers"][0].get("authenticationRef")
    assert (login is None) == (not client)
    assert login is None or login["name"] == manifests.one(made, "TriggerAuthentication")["metadata"]["name"]
    assert lag.get("tls") == ("enable" if client.get("security.protocol") in ("ssl", "sasl_ssl") else None)
    assert lag.get("sasl") == KEDA_CALLS_IT.get(str(client.get("sasl.mechanism")))


@pytest.mark.parametrize("name", OVERLAYS)
def test_exactly_once_and_stable_names_go_together(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The transactional id is made of the pod's name, which only a StatefulSet keeps over a restart."""
    made = manifests.render(name)
    settings = settings_of(made, tmp_path, monkeypatch)
    kind = manifests.one(made, *manifests.WORKLOADS)["kind"]
    assert (settings.delivery.mode == "exactly_once") == (kind == "StatefulSet")
    assert settings.delivery.transactional_id is None  # one for all pods would fence all but one
    assert (name == "exactly-once") == (kind == "StatefulSet")


@pytest.mark.parametrize("name", [name for name in OVERLAYS if name != "cpu-demo"])
def test_only_the_init_container_may_write_engines(name: str) -> None:
    """docs/security.md: a plan is code, and the service that faces the records does not get to write one."""
    init, worker = manifests.containers(manifests.render(name))
    is_read_only = [
        mount.get("readOnly", False)
        for container in (init, worker)
        for mount in container["volumeMounts"]
        if mount["mountPath"] == "/engines"
    ]
    assert is_read_only == [False, True]


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_node_can_be_drained_while_the_brokers_are_away(name: str) -> None:
    """Then no worker is ready, and the budget would hold every one of them for ever."""
    budget = manifests.one(manifests.render(name), "PodDisruptionBudget")["spec"]
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_a_worker_of_the_l4_overlay_costs_nothing_while_nothing_waits() -> None:
    assert manifests.one(manifests.render("nvidia-l4"), "ScaledObject")["spec"]["minReplicaCount"] == 0


@pytest.mark.parametrize(("name", "product"), [("nvidia-l4", "NVIDIA-L4"), ("nvidia-h100", "NVIDIA-H100-80GB-HBM3")])
def test_a_gpu_overlay_asks_for_its_gpu(name: str, product: str) -> None:
    made = manifests.render(name)
    assert manifests.worker(made)["resources"]["limits"]["nvidia.com/gpu"] == "1"
    affinity: dict[str, Any] = manifests.pod(made)["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    (wanted,) = term["matchExpressions"]
    assert wanted["key"] == "nvidia.com/gpu.product"
    assert product in wanted["values"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_images_carry_the_version_and_the_target(name: str) -> None:
    pod = manifests.pod(manifests.render(name))
    images = {container["image"] for container in (*pod["containers"], *pod.get("initContainers", ()))}
    target = "cpu" if name == "cpu-demo" else "gpu"
    assert {image.rpartition(":")[2] for image in images} == {f"{__version__}-{target}"}


@pytest.mark.parametrize("fixed_rows", [None, 8], ids=["any number of rows", "rows are fixed"])
def test_the_init_container_builds_an_engine_and_then_leaves_it(fixed_rows: int | None, tmp_path: Path) -> None:
    """Its arguments are run as they stand, with TensorRT-RTX, which builds without a GPU."""
    pytest.importorskip(TENSORRT_FLAVOURS[-1], reason="TensorRT-RTX is not made for this platform")
    made = manifests.render("nvidia-h100")
    (init,) = manifests.pod(made)["initContainers"]
    told = manifests.environment(made, init) | {"TRT_WORKER__ENGINE__REPOSITORY": str(tmp_path / "engines")}
    model = ROOT / Path(told["TRT_WORKER__MODEL__ONNX"]).relative_to(IMAGE_FOLDER)
    told["TRT_WORKER__MODEL__ONNX"] = str(with_rows(model, fixed_rows, tmp_path) if fixed_rows else model)
    arguments = manifests.expanded(init["args"], told)
    plans: list[tuple[Path, int]] = []
    for _ in range(2):
        run([*arguments, "--flavour=tensorrt_rtx"], told)
        (entry,) = Repository(tmp_path / "engines").entries(
            told["TRT_WORKER__MODEL__NAME"], told["TRT_WORKER__MODEL__VERSION"]
        )
        assert entry.verify() == ""
        assert entry.manifest is not None
        assert entry.manifest.max_rows == (fixed_rows or int(told["TRT_WORKER__BATCHING__MAX_ROWS"]))
        plans.append((entry.plan, entry.plan.stat().st_mtime_ns))
    assert plans[0] == plans[1]


def with_rows(model: Path, rows: int, directory: Path) -> Path:
    """The same model, exported for batches of exactly so many rows."""
    content = onnx.load(model)
    for value in (*content.graph.input, *content.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = rows
    path = directory / "fixed.onnx"
    onnx.save(content, path)
    return path


def run(arguments: list[str], variables: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "worker", *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr


def test_the_pod_of_the_cpu_overlay_runs(
    kafka: KafkaCluster, topics: MakeTopic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its command, settings and variables on real Kafka: the probes say yes, and SIGTERM ends it in time."""
    made = manifests.render("cpu-demo")
    settings_of(made, tmp_path, monkeypatch)  # mounts
    container = manifests.worker(made)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    elsewhere = {"BOOTSTRAP_SERVERS": kafka.bootstrap_servers, "INPUT_TOPIC": topics("requests")}
    elsewhere |= {"OUTPUT_TOPIC": topics("results"), "DEAD_LETTER_TOPIC": topics("dead-letters")}
    variables = {f"TRT_WORKER__KAFKA__{name}": value for name, value in elsewhere.items()}
    variables |= {"TRT_WORKER__HTTP__PORT": str(port)}
    arguments = [
        str(tmp_path / argument[1:]) if argument.startswith("/") else argument for argument in container["args"]
    ]
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker", *arguments], env={**os.environ, **variables}, cwd=ROOT, stderr=output
        )
    try:
        startup = container["startupProbe"]
        deadline_s = time.monotonic() + min(60, startup["periodSeconds"] * startup["failureThreshold"])
        while asked(port, startup) != 200:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.1)
        assert asked(port, container["readinessProbe"]) == asked(port, container["livenessProbe"]) == 200
        process.send_signal(signal.SIGTERM)
        pre_stop_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert process.wait(manifests.pod(made)["terminationGracePeriodSeconds"] - pre_stop_s) == 0
    finally:
        process.kill()
        process.wait()


def asked(port: int, probe: dict[str, Any]) -> int:
    """The status that the kubelet would get; 0 where nobody answers."""
    try:
        address = f"http://127.0.0.1:{port}{probe['httpGet']['path']}"
        with urllib.request.urlopen(address, timeout=probe["timeoutSeconds"]) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
