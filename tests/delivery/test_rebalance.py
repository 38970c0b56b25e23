"""Workers joining and leaving all the time, under load."""

from __future__ import annotations

import itertools
import time

import pytest

from tests.delivery.conftest import PATIENCE_S, DeliveryWorker, MakeDelivery
from tests.delivery.flow import Flow, await_answers, faults, read_along
from tests.kafka_server import KafkaCluster

pytestmark = pytest.mark.broker

MAX_DUPLICATES = 0.05  # at_least_once
PER_SECOND = 800
FULL = pytest.param(120.0, id="full", marks=pytest.mark.soak)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seconds", [pytest.param(8.0, id="short"), FULL])
@pytest.mark.parametrize("mode", ["at_least_once", "exactly_once", "queue"])
def test_a_storm_of_rebalances_loses_nothing(
    mode: str, seconds: float, single: KafkaCluster, deliver: MakeDelivery
) -> None:
    """A worker joins or leaves every second; one stays."""
    delivery = deliver(single, 6)
    workers = [delivery.worker(f"worker-{number}", mode) for number in range(4)]
    steady = workers[0].start().await_ready()
    flow = Flow(delivery.servers, delivery.input_topic, 6, 1 << 30, PER_SECOND)
    with read_along(delivery.reader()) as so_far:
        flow.start()
        await_answers(so_far, PER_SECOND, PATIENCE_S)
        give_up_s = time.monotonic() + seconds
        turns = itertools.cycle(workers[1:])
        running: list[DeliveryWorker] = []
        while time.monotonic() < give_up_s:
            running.append(next(turns).start())
            time.sleep(1)
            if len(running) == len(workers) - 1:
                running.pop(0).leave()
                time.sleep(1)
        published = flow.stop()
        answers = await_answers(so_far, published, PATIENCE_S)
        time.sleep(1)
    steady.leave()
    found = faults(answers, published)
    duplicates = found.pop("duplicates", 0)
    if mode == "queue":
        found.pop("out of order", None)
    assert found == {}
    assert duplicates <= (0 if mode == "exactly_once" else MAX_DUPLICATES * published)
