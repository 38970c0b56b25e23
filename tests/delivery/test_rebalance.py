"""Workers joining and leaving all the time, under load."""

from __future__ import annotations

import itertools
import signal
import time

import pytest

from tests.delivery.conftest import DeliveryWorker, MakeDelivery
from tests.delivery.flow import Flow, await_answers, faults, read_along
from tests.kafka_server import KafkaCluster
from tests.system.traffic import Answers

pytestmark = pytest.mark.broker

MAX_DUPLICATES = 0.05  # at_least_once


def leave(worker: DeliveryWorker) -> None:
    """In order, or before it was far enough to know what that is."""
    assert worker.terminate() in (0, -signal.SIGTERM)


def storm(delivery_of: MakeDelivery, cluster: KafkaCluster, mode: str, seconds: float) -> tuple[int, Answers]:
    """A worker joins or leaves every second."""
    delivery = delivery_of(cluster, 6)
    workers = [delivery.worker(f"worker-{number}", mode) for number in range(4)]
    steady = workers[0].start().await_ready()
    flow = Flow(delivery.servers, delivery.input_topic, 6, 1 << 30, 800)
    with read_along(delivery.reader()) as so_far:
        flow.start()
        give_up_s = time.monotonic() + seconds
        turns = itertools.cycle(workers[1:])
        running: list[DeliveryWorker] = []
        while time.monotonic() < give_up_s:
            worker = next(turns)
            if worker in running:
                leave(worker)
                running.remove(worker)
            worker.start()
            running.append(worker)
            time.sleep(1)
            if len(running) > 2:
                leave(running.pop(0))
        published = flow.stop()
        answers = await_answers(so_far, published, 60)
        time.sleep(1)
    assert steady.terminate() == 0
    return published, answers


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["at_least_once", "exactly_once"])
def test_a_storm_of_rebalances_loses_nothing(mode: str, single: KafkaCluster, deliver: MakeDelivery) -> None:
    published, answers = storm(deliver, single, mode, 10)
    found = faults(answers, published)
    duplicates = found.pop("duplicates", 0)
    assert found == {}
    assert duplicates <= (MAX_DUPLICATES * published if mode == "at_least_once" else 0)


@pytest.mark.soak
@pytest.mark.timeout(400)
@pytest.mark.parametrize("mode", ["at_least_once", "exactly_once"])
def test_two_minutes_of_rebalances_lose_nothing(mode: str, single: KafkaCluster, deliver: MakeDelivery) -> None:
    published, answers = storm(deliver, single, mode, 120)
    found = faults(answers, published)
    duplicates = found.pop("duplicates", 0)
    assert found == {}
    assert duplicates <= (MAX_DUPLICATES * published if mode == "at_least_once" else 0)
