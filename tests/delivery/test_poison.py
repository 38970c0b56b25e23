"""Records that make their batch fail, take the process down, or never come back from the lane."""

from __future__ import annotations

import time

import pytest

from tests.delivery.conftest import Delivery, DeliveryWorker, MakeDelivery
from tests.kafka_server import KafkaCluster
from tests.system.traffic import publish, request

pytestmark = pytest.mark.broker

COUNT = 600
GUILTY = 333
MAX_ATTEMPTS = 3


def keep_alive(worker: DeliveryWorker, delivery: Delivery, timeout_s: float) -> tuple[int, int]:
    """Start the worker again whenever it has died, as Kubernetes would, until all but the guilty one are answered.

    Returns:
        How often it died, and the answers (results and error answers).
    """
    reader = delivery.reader()
    deaths = 0
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if worker.exit_code is not None:
            deaths += 1
            worker.start()
        if len(reader.read(until=COUNT, timeout_s=0.3).times) >= COUNT:
            break
    return deaths, len(reader.answers.times)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("what", "mode"),
    [
        ("raise", "at_least_once"),
        ("abort", "at_least_once"),
        ("hang", "exactly_once"),
        pytest.param("raise", "exactly_once", marks=pytest.mark.soak),
        pytest.param("abort", "exactly_once", marks=pytest.mark.soak),
        pytest.param("hang", "at_least_once", marks=pytest.mark.soak),
    ],
)
def test_the_guilty_record_is_a_dead_letter_and_its_neighbours_are_answered(
    what: str, mode: str, single: KafkaCluster, deliver: MakeDelivery
) -> None:
    """Within delivery.max_attempts restarts; none where the batch only fails."""
    delivery = deliver(single, 2)
    publish(delivery.servers, delivery.input_topic, (request(number) for number in range(COUNT)), 2)
    worker = delivery.worker(
        "worker",
        mode,
        options={"batches": {what: GUILTY}},
        engine={"lane_timeout_s": 1.0},
        delivery={"max_attempts": MAX_ATTEMPTS, "drain_timeout_s": 5},
    ).start()
    deaths, answered = keep_alive(worker, delivery, 90)
    answers = delivery.reader().read(until=COUNT, timeout_s=10, quiet_s=1)

    assert answered == COUNT
    assert answers.wrong == []
    assert answers.errors == {"inference_failed": 1}
    assert deaths == (0 if what == "raise" else MAX_ATTEMPTS)
    assert worker.await_ready().terminate() == 0
    if mode == "exactly_once":
        assert answers.duplicates == 0
        assert answers.out_of_order() == 0


@pytest.mark.timeout(60)
def test_a_lane_that_hangs_ends_the_process_with_the_gpu_exit_code(single: KafkaCluster, deliver: MakeDelivery) -> None:
    """Not with a traceback, and not after minutes."""
    delivery = deliver(single, 1)
    publish(delivery.servers, delivery.input_topic, [request(GUILTY)], 1)
    worker = delivery.worker(
        "worker", "at_least_once", options={"batches": {"hang": GUILTY}}, engine={"lane_timeout_s": 1.0}
    ).start()
    deadline_s = time.monotonic() + 40
    while worker.exit_code is None and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert worker.exit_code == 5
    assert worker.said("engine.lane_timeout_s") == 1
    assert worker.said("Traceback") == 0
