"""exactly_once on three brokers, while everything is killed that can be."""

from __future__ import annotations

import random
import signal
import time
from typing import Any

import pytest

from tests.delivery.conftest import Delivery, DeliveryWorker, MakeDelivery
from tests.delivery.flow import Flow, await_answers, faults, read_along
from tests.kafka_server import KafkaCluster
from tests.system.traffic import Answers, lag

pytestmark = pytest.mark.broker


def bounce_workers(workers: list[DeliveryWorker], kills: int, every_s: float) -> None:
    """End workers at random, hard and clean in turn, and start them again."""
    rng = random.Random(5)
    for number in range(kills):
        time.sleep(every_s)
        worker = rng.choice(workers)
        if number % 2:
            assert worker.terminate() == 0
        else:
            worker.kill()
        worker.start()


def bounce_brokers(cluster: KafkaCluster, hows: list[str], every_s: float) -> None:
    """End one broker after the other and start each again."""
    for number, how in enumerate(hows):
        node = cluster.nodes[number % len(cluster.nodes)]
        if how == "hard":
            node.kill()
        else:
            node.stop()
        time.sleep(every_s)
        cluster.start()
        time.sleep(every_s)


def storm(
    delivery: Delivery,
    cluster: KafkaCluster,
    protocol: str,
    *,
    count: int,
    per_second: float,
    kills: int,
    brokers: list[str],
    mutant: str | None = None,
    patience_s: float = 120.0,
) -> tuple[int, Answers, Answers, list[DeliveryWorker]]:
    """Consecutive numbers through three workers that abort every third transaction, and are bounced like the brokers.

    Returns:
        How many there were, what a reader beside it saw, what one afterwards saw, and the workers.
    """
    options: dict[str, Any] = {"abort_one_in": 3, "mutant": mutant}
    workers = [
        delivery.worker(f"worker-{number}", "exactly_once", protocol, options=options).start() for number in range(3)
    ]
    for worker in workers:
        worker.await_ready()
    flow = Flow(delivery.servers, delivery.input_topic, delivery.partitions, count, per_second)
    with read_along(delivery.reader()) as so_far:
        flow.start()
        await_answers(so_far, count // 5, 60)
        bounce_workers(workers, kills, every_s=3.0)
        bounce_brokers(cluster, brokers, every_s=2.0)
        published = flow.join()
        beside = await_answers(so_far, published, patience_s)
        time.sleep(2)  # for what should not come
    afterwards = delivery.reader().read(until=len(beside.times), timeout_s=60, quiet_s=2)
    return published, beside, afterwards, workers


@pytest.mark.timeout(240)
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_every_number_is_answered_once_whatever_dies(protocol: str, trio: KafkaCluster, deliver: MakeDelivery) -> None:
    """Kafka's own system test of exactly once, in small."""
    delivery = deliver(trio, 4)
    published, beside, afterwards, workers = storm(
        delivery, trio, protocol, count=10_000, per_second=600, kills=4, brokers=["hard", "clean"]
    )
    assert faults(beside, published) == {}
    assert faults(afterwards, published) == {}
    for worker in workers:
        assert worker.terminate() == 0
    counts = [published // delivery.partitions + (part < published % delivery.partitions) for part in range(4)]
    assert lag(delivery.servers, delivery.group, counts) == 0
