"""What all tests share: real Kafka, topics of their own, and honest skips."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import signal
import uuid
from collections.abc import Iterator
from ctypes import CDLL
from typing import Protocol

import pytest

from tests import kafka_jars
from tests.kafka_server import KafkaCluster

RUNNING = pytest.StashKey[KafkaCluster]()
TENSORRT_FLAVOURS = ("tensorrt", "tensorrt_bindings", "tensorrt_lean", "tensorrt_rtx", "tensorrt_rtx_bindings")


class MakeTopic(Protocol):
    def __call__(self, purpose: str = "topic", partitions: int = 1, **config: str) -> str: ...


def pytest_configure() -> None:
    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):  # of a shell's background job; what tests start would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the tests that take minutes")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "kafka" in getattr(item, "fixturenames", ()):
            item.add_marker("broker")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what cannot run here; from one place for each reason, so that the summary folds them into one line."""
    if item.get_closest_marker("broker") is not None:
        _require_broker(item)
    if item.get_closest_marker("gpu") is not None:
        _require_gpu()
    if item.get_closest_marker("soak") is not None and not item.config.getoption("--soak"):
        pytest.skip("takes minutes; run with make soak")


def _require_broker(item: pytest.Item) -> None:
    reason = _broker_missing()
    if reason is None:
        cluster = item.config.stash.get(RUNNING, None)
        if cluster is not None:
            cluster.start()  # the test before may have left it down
    elif os.environ.get("CI") == "true":
        pytest.fail(f"{reason}; with CI=true that is a failure", pytrace=False)
    else:
        pytest.skip(reason)


def _require_gpu() -> None:
    if (reason := _gpu_missing()) is not None:
        pytest.skip(reason)


@functools.cache
def _broker_missing() -> str | None:
    return kafka_jars.missing()


@functools.cache
def _gpu_missing() -> str | None:
    """Why GPU tests cannot run here; asks the driver, not a Python package that may itself be broken."""
    try:
        driver = CDLL("libcuda.so.1")
    except OSError:
        return "needs a GPU, and there is no NVIDIA driver (libcuda.so.1)"
    import ctypes

    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "needs a GPU, and the NVIDIA driver finds none"
    if not any(importlib.util.find_spec(name) for name in TENSORRT_FLAVOURS):
        return "needs TensorRT, and no flavour of it is installed"
    return None


@pytest.fixture(scope="session")
def kafka(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """One real Kafka node for the whole session; a test may stop, kill and start it, the next test finds it up."""
    with KafkaCluster(tmp_path_factory.mktemp("kafka")) as cluster:
        pytestconfig.stash[RUNNING] = cluster
        yield cluster
        del pytestconfig.stash[RUNNING]


@pytest.fixture
def topics(kafka: KafkaCluster) -> Iterator[MakeTopic]:
    """Makes topics with names of their own; removes them afterwards."""
    made: list[str] = []

    def make(purpose: str = "topic", partitions: int = 1, **config: str) -> str:
        name = kafka.create_topic(f"{purpose}-{uuid.uuid4().hex[:8]}", partitions, **config)
        made.append(name)
        return name

    yield make
    if kafka.nodes[0].pid is not None:
        for name in made:
            with contextlib.suppress(Exception):  # tidying up must not fail a test that passed
                kafka.delete_topic(name)
