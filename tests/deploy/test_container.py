"""Images, built for real and run as Kubernetes runs them: without root, on a read-only root, as process 1."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.deploy import container
from tests.deploy.container import Builder
from tests.kafka_server import free_ports
from worker import __version__

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    reason = container.missing()
    if reason is not None and os.environ.get("CI") == "true":
        pytest.fail(f"{reason}; with CI=true that is a failure", pytrace=False)
    if reason is not None:
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("images")
    yield Builder(directory)
    shutil.rmtree(directory)  # gigabytes


@pytest.fixture(scope="module")
def image(builder: Builder) -> str:
    return builder.build("cpu")


@pytest.fixture(scope="module")
def rtx(builder: Builder) -> str:
    return builder.build("rtx")


@pytest.fixture
def port() -> str:
    """Images share the network with this machine, which may have something at 9090."""
    return str(next(free_ports(1)))


def test_the_demo_runs_in_the_image(builder: Builder, image: str, port: str) -> None:
    """What `docker run --read-only trt-worker:cpu` does."""
    config = builder.config(image)
    assert config["Cmd"] == ["demo"]
    told = {"TRT_WORKER_DEMO__HTTP__PORT": port}
    code, said = builder.run(image, [*config["Entrypoint"], *config["Cmd"], "--requests", "200"], told)
    assert code == 0, said
    assert "200" in said


def test_the_health_check_finds_the_demo(builder: Builder, image: str, port: str) -> None:
    told = {"TRT_WORKER_DEMO__HTTP__PORT": port, "TRT_WORKER__HTTP__PORT": port}
    config = builder.config(image)
    process = builder.start(image, [*config["Entrypoint"], *config["Cmd"], "--keep-running"], told)
    try:
        await_health(builder, image, told, process)
    finally:
        builder.end(process)


def test_the_image_says_how_it_is_run(builder: Builder, image: str) -> None:
    config = builder.config(image)
    assert config["Entrypoint"] == ["trt-worker"]
    assert config["User"] == "10001:10001"
    assert set(config["Volumes"]) == {"/tmp", "/engines"}
    assert config["StopSignal"] == "SIGTERM"
    assert config["Labels"]["org.opencontainers.image.version"] == __version__


def test_only_the_volumes_are_writable(builder: Builder, image: str) -> None:
    """And nobody in there is root."""
    places = "/ /srv /opt/trt-worker /etc /tmp /engines /srv/engines"
    tried = f"id -u; for place in {places}; do touch $place/x && echo $place; done"
    code, said = builder.run(image, ["sh", "-c", tried])
    assert code == 0, said
    lines = [line for line in said.splitlines() if not line.startswith("touch:")]
    assert lines == ["10001", "/tmp", "/engines", "/srv/engines"]
    assert said.count("Read-only file system") == 4


@pytest.mark.parametrize("name", ["hatchling", "editables"])
def test_what_builds_is_not_in_the_image(builder: Builder, image: str, name: str) -> None:
    code, said = builder.run(image, ["python", "-c", f"import {name}"])
    assert code == 1
    assert "ModuleNotFoundError" in said


def test_pip_is_nowhere_in_the_image(builder: Builder, image: str) -> None:
    """Neither the base's nor one in the worker's environment; the base that is built on here has traces of one."""
    named = r"-name pip -o -name 'pip[0-9.-]*' -o -name ensurepip"
    code, said = builder.run(image, ["sh", "-c", f"find /usr/local /opt {named}"])
    assert (code, said) == (0, "")


def test_the_image_has_no_compiler(builder: Builder, image: str) -> None:
    tried = "for name in cc gcc make pip pip3; do command -v $name; done; true"
    assert builder.run(image, ["sh", "-c", tried]) == (0, "")


def test_the_rtx_image_builds_an_engine(builder: Builder, rtx: str) -> None:
    """Its libraries are whole and load on a read-only root; running what was built would take a GPU."""
    config = builder.config(rtx)
    assert config["Cmd"] == ["run", "--config", "/etc/trt-worker/worker.yaml"]
    order = ["build", "--onnx", "worker/demo/digits.onnx", "--model", "digits", "--max-rows", "64"]
    code, said = builder.run(rtx, [*config["Entrypoint"], *order])
    assert code == 0, said
    assert "engines/digits/1/any-rtx" in said
    assert "up to 64 rows" in said


def test_the_health_check_and_the_stop_signal_work_while_kafka_is_away(builder: Builder, image: str, port: str) -> None:
    """Process 1 gets only signals that it has a handler for: so a stop must be heard during the start, too."""
    told = {"TRT_WORKER__HTTP__PORT": port, "TRT_WORKER__HTTP__HOST": "127.0.0.1"}
    told |= {"TRT_WORKER__KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1", "TRT_WORKER__KAFKA__STARTUP_TIMEOUT_S": "100"}
    config = builder.config(image)
    assert not is_healthy(builder, image, told)
    process = builder.start(image, [*config["Entrypoint"], "run", "--config", "/etc/trt-worker/worker.yaml"], told)
    try:
        await_health(builder, image, told, process)
        (first,) = psutil.Process(process.pid).children()
        first.send_signal(signal.SIGTERM)
        assert process.wait(20) is not None
    except subprocess.TimeoutExpired:
        pytest.fail("SIGTERM was not heard")
    finally:
        builder.end(process)


def is_healthy(builder: Builder, image: str, told: dict[str, str]) -> bool:
    """What the image's own check says, where what runs in it has these variables."""
    kind, *check = builder.config(image)["Healthcheck"]["Test"]
    assert kind == "CMD"
    return builder.run(image, check, told)[0] == 0


def await_health(builder: Builder, image: str, told: dict[str, str], process: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + 60
    while not is_healthy(builder, image, told):
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.5)
