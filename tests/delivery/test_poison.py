"""Records that make their batch fail, take the process down, or never come back from the lane."""

from __future__ import annotations

import time

import pytest

from tests.delivery import dead_letters
from tests.delivery.conftest import PATIENCE_S, MakeDelivery
from tests.delivery.dead_letters import Letter
from tests.kafka_server import KafkaCluster
from tests.system.traffic import publish, request

pytestmark = pytest.mark.broker

COUNT = 600
PARTITIONS = 2
GUILTY = {"raise": 99, "abort": 333, "hang": 444}
MAX_ATTEMPTS = 3


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("mode", "whats"),
    [
        ("at_least_once", ("raise", "abort")),
        ("exactly_once", ("raise", "hang")),
        ("exactly_once", ("raise", "abort")),
        ("queue", ("raise", "abort")),
        ("queue", ("raise", "hang")),
        pytest.param("at_least_once", ("raise", "abort", "hang"), marks=pytest.mark.soak),
        pytest.param("exactly_once", ("raise", "abort", "hang"), marks=pytest.mark.soak),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_guilty_records_are_dead_letters_and_their_neighbours_are_answered(
    mode: str, whats: tuple[str, ...], single: KafkaCluster, deliver: MakeDelivery
) -> None:
    """Within delivery.max_attempts restarts for each that takes the process down, none for one that only raises."""
    delivery = deliver(single, PARTITIONS)
    guilty = {what: GUILTY[what] for what in whats}
    publish(delivery.servers, delivery.input_topic, (request(number) for number in range(COUNT)), PARTITIONS)
    worker = delivery.worker(
        "worker",
        mode,
        options={"batches": guilty},
        engine={"lane_timeout_s": 1.0},
        delivery={"max_attempts": MAX_ATTEMPTS, "drain_timeout_s": 5},
    ).start()
    reader = delivery.reader()
    deaths = 0
    give_up_s = time.monotonic() + 2 * PATIENCE_S
    while len(reader.answers.times) < COUNT and time.monotonic() < give_up_s:
        if worker.exit_code is not None:  # Kubernetes would
            deaths += 1
            worker.start()
        reader.read(until=COUNT, timeout_s=0.3)
    answers = reader.read(until=COUNT, timeout_s=10, quiet_s=1)

    assert len(answers.times) == COUNT
    assert answers.wrong == []
    assert set(answers.errors) == {"inference_failed"}
    assert answers.refused == {str(number) for number in guilty.values()}
    killers = len(guilty) - ("raise" in guilty)
    assert MAX_ATTEMPTS * min(killers, 1) <= deaths <= MAX_ATTEMPTS * killers  # two may share a death
    worker.await_ready().leave()
    letters = dead_letters.read(delivery.servers, delivery.dead_letter_topic, PARTITIONS)
    due = {
        Letter(f"{delivery.input_topic}/{n % PARTITIONS}/{n // PARTITIONS}", "inference_failed", request(n))
        for n in guilty.values()
    }
    assert set(letters) == due
    if mode == "exactly_once":
        assert len(letters) == len(guilty)
        assert answers.errors["inference_failed"] == len(guilty)
        assert answers.duplicates == 0
        assert answers.out_of_order() == 0


@pytest.mark.timeout(240)
def test_a_lane_that_hangs_ends_the_process_with_the_gpu_exit_code(single: KafkaCluster, deliver: MakeDelivery) -> None:
    """Not with a traceback, and not after minutes."""
    delivery = deliver(single, 1)
    publish(delivery.servers, delivery.input_topic, [request(GUILTY["hang"])], 1)
    worker = delivery.worker(
        "worker", "at_least_once", options={"batches": {"hang": GUILTY["hang"]}}, engine={"lane_timeout_s": 1.0}
    ).start()
    assert worker.await_end() == 5
    assert worker.said("engine.lane_timeout_s") == 1
    assert worker.said("Traceback") == 0
