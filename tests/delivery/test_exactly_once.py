"""exactly_once on three brokers, while everything is killed that can be."""

from __future__ import annotations

import random
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
@pytest.mark.parametrize("protocol", ["classic", pytest.param("consumer", marks=pytest.mark.soak)])
def test_every_number_is_answered_once_whatever_dies(protocol: str, trio: KafkaCluster, deliver: MakeDelivery) -> None:
    """Kafka's own system test of exactly once, in small."""
    delivery = deliver(trio, 4)
    published, beside, afterwards, workers = storm(
        delivery, trio, protocol, count=8_000, per_second=600, kills=3, brokers=["hard"]
    )
    assert faults(beside, published) == {}
    assert faults(afterwards, published) == {}
    for worker in workers:
        assert worker.terminate() == 0
    counts = [published // delivery.partitions + (part < published % delivery.partitions) for part in range(4)]
    assert lag(delivery.servers, delivery.group, counts) == 0


@pytest.mark.timeout(180)
@pytest.mark.parametrize("mutant", ["no_rewind", "early_commit"])
def test_the_test_finds_a_worker_that_breaks_the_promise(
    mutant: str, single: KafkaCluster, deliver: MakeDelivery
) -> None:
    """A test of the test: without the rewind, or with offsets committed too early, answers are missing."""
    delivery = deliver(single, 4)
    published, beside, _, _ = storm(
        delivery, single, "classic", count=3_000, per_second=1_000, kills=1, brokers=[], mutant=mutant, patience_s=5
    )
    assert faults(beside, published)["missing"] > 0


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_hundred_thousand_numbers_are_answered_once_whatever_dies(
    protocol: str, trio: KafkaCluster, deliver: MakeDelivery
) -> None:
    """Kafka's own system test of exactly once at full size: 9 kills, every broker bounced hard and clean."""
    delivery = deliver(trio, 6)
    published, beside, afterwards, workers = storm(
        delivery,
        trio,
        protocol,
        count=100_000,
        per_second=1_000,
        kills=9,
        brokers=["hard", "hard", "hard", "clean", "clean", "clean"],
        patience_s=300,
    )
    assert faults(beside, published) == {}
    assert faults(afterwards, published) == {}
    assert [worker.terminate() for worker in workers] == [0, 0, 0]


@pytest.mark.timeout(90)
def test_a_zombie_publishes_nothing_that_readers_see_twice(single: KafkaCluster, deliver: MakeDelivery) -> None:
    """Stopped past the session timeout, and let go again while its successor is at work."""
    delivery = deliver(single, 4)
    zombie = delivery.worker("zombie", "exactly_once").start().await_ready()
    flow = Flow(delivery.servers, delivery.input_topic, 4, 12_000, 800)
    with read_along(delivery.reader()) as so_far:
        flow.start()
        await_answers(so_far, 500, 30)
        successor = delivery.worker("successor", "exactly_once").start().await_ready()
        await_answers(so_far, 2_000, 30)
        zombie.process.suspend()
        time.sleep(10)  # its session ends after 6 s
        zombie.process.resume()
        published = flow.join()
        answers = await_answers(so_far, published, 40)
        time.sleep(2)
    assert faults(answers, published) == {}
    assert zombie.said("lost ") >= 1
    assert zombie.terminate() == 0
    assert successor.terminate() == 0


@pytest.mark.timeout(60)
def test_two_workers_with_one_transactional_id_do_not_fight_for_ever(
    single: KafkaCluster, deliver: MakeDelivery
) -> None:
    """One of them gives up with exit code 4 and says why; the other answers everything."""
    delivery = deliver(single, 4)
    same = {"transactional_id": f"{delivery.group}-same"}
    workers = [delivery.worker(f"worker-{number}", "exactly_once", delivery=same).start() for number in range(2)]
    flow = Flow(delivery.servers, delivery.input_topic, 4, 6_000, 300)
    with read_along(delivery.reader()) as so_far:
        flow.start()
        published = flow.join()
        answers = await_answers(so_far, published, 30)
    assert faults(answers, published) == {}
    assert sorted(str(worker.exit_code) for worker in workers) == ["4", "None"]
    assert sum(worker.said("give every worker its own") for worker in workers) == 1
