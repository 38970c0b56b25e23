"""The cpu image, built for real and run as Kubernetes runs it: without root, on a read-only root, as process 1."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.deploy import container
from tests.deploy.container import Builder
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


def test_the_demo_runs_in_the_image(builder: Builder, image: str) -> None:
    """What `docker run --read-only trt-worker:cpu` does."""
    config = builder.config(image)
    assert config["Cmd"] == ["demo"]
    code, said = builder.run(image, [*config["Entrypoint"], *config["Cmd"], "--requests", "200"])
    assert code == 0, said
    assert "200" in said


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


@pytest.mark.parametrize("name", ["pip", "hatchling", "editables"])
def test_what_builds_is_not_in_the_image(builder: Builder, image: str, name: str) -> None:
    code, said = builder.run(image, ["python", "-c", f"import {name}"])
    assert code == 1
    assert "ModuleNotFoundError" in said


def test_the_image_has_no_compiler(builder: Builder, image: str) -> None:
    code, said = builder.run(image, ["sh", "-c", "command -v cc gcc make pip"])
    assert (code, said) == (127, "")


def test_the_health_check_and_the_stop_signal_work_while_kafka_is_away(builder: Builder, image: str) -> None:
    """Process 1 gets only signals that it has a handler for: so a stop must be heard during the start, too."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    told = {"TRT_WORKER__HTTP__PORT": port, "TRT_WORKER__HTTP__HOST": "127.0.0.1"}
    told |= {"TRT_WORKER__KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1", "TRT_WORKER__KAFKA__STARTUP_TIMEOUT_S": "100"}
    config = builder.config(image)
    check = config["Healthcheck"]["Test"]
    assert check[0] == "CMD"
    assert builder.run(image, check[1:], told)[0] == 1
    process = builder.start(image, [*config["Entrypoint"], "run", "--config", "/etc/trt-worker/worker.yaml"], told)
    try:
        deadline_s = time.monotonic() + 60
        while builder.run(image, check[1:], told)[0] != 0:
            assert process.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.5)
        (first,) = psutil.Process(process.pid).children()
        first.send_signal(signal.SIGTERM)
        assert process.wait(20) is not None
    except subprocess.TimeoutExpired:
        pytest.fail("SIGTERM was not heard")
    finally:
        process.kill()
        process.communicate()
