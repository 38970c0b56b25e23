"""exactly_once on three brokers, while everything is killed that can be."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from tests.delivery.conftest import PATIENCE_S, Delivery, DeliveryWorker, MakeDelivery, await_that
from tests.delivery.flow import Flow, await_answers, faults, read_along
from tests.kafka_server import KafkaCluster
from tests.system.traffic import Answers, lag

pytestmark = pytest.mark.broker


@dataclass(frozen=True)
class Size:
    """How much of it. Kills and bounces come one after the other while a fifth to four fifths are answered."""

    count: int
    per_second: float
    kills: int  # of workers: hard and clean in turn
    brokers: tuple[str, ...]  # one after the other: hard or clean
    partitions: int = 4
    patience_s: float = PATIENCE_S


HARD_CI = Size(8_000, 600, kills=2, brokers=("hard",))
CLEAN_CI = Size(8_000, 600, kills=2, brokers=("clean",))
FULL = Size(100_000, 500, kills=9, brokers=(*["hard"] * 3, *["clean"] * 3), partitions=6, patience_s=400)
OF_A_MUTANT = Size(3_000, 1_000, kills=1, brokers=())


def bounces(cluster: KafkaCluster, workers: list[DeliveryWorker], size: Size) -> list[Callable[[], None]]:
    """What is to be ended and started again, and how."""
    rng = random.Random(5)

    def bounce_worker(number: int) -> None:
        worker = rng.choice(workers)
        if number % 2:
            worker.leave()
        else:
            worker.kill()
        worker.start()

    def bounce_broker(number: int, how: str) -> None:
        node = cluster.nodes[number % len(cluster.nodes)]
        if how == "hard":
            node.kill()
        else:
            node.stop()
        time.sleep(2)  # for clients to find out
        cluster.start()

    return [
        *(partial(bounce_worker, number) for number in range(size.kills)),
        *(partial(bounce_broker, number, how) for number, how in enumerate(size.brokers)),
    ]


def storm(
    delivery: Delivery, cluster: KafkaCluster, protocol: str, size: Size, mutant: str | None = None
) -> tuple[int, Answers, Answers, list[DeliveryWorker]]:
    """Consecutive numbers through three workers that abort every third transaction, and are bounced like the brokers.

    Returns:
        How many there were, what a reader beside it saw, what one afterwards saw, and the workers.
    """
    options: dict[str, Any] = {"abort_one_in": 3, "mutant": mutant}
    forgiving = {"max_attempts": 100}  # it is not the records that kill
    workers = [
        delivery.worker(f"worker-{number}", "exactly_once", protocol, options=options, delivery=forgiving).start()
        for number in range(3)
    ]
    for worker in workers:
        worker.await_ready()
    flow = Flow(delivery.servers, delivery.input_topic, delivery.partitions, size.count, size.per_second)
    with read_along(delivery.reader()) as so_far:
        flow.start()
        turns = bounces(cluster, workers, size)
        for number, turn in enumerate(turns):
            so_many = size.count // 5 + size.count * 3 * number // (5 * len(turns))
            await_answers(so_far, so_many, 20 if mutant else size.patience_s)  # a mutant may never get there
            turn()
        published = flow.join()
        counts = [len(range(partition, published, delivery.partitions)) for partition in range(delivery.partitions)]
        await_that(
            lambda: lag(delivery.servers, delivery.group, counts) == 0, "the group stays behind", size.patience_s
        )
        beside = await_answers(so_far, published, 5)  # all that will ever come is committed
        time.sleep(2)  # for what should not come
    afterwards = delivery.reader().read(until=len(beside.times), timeout_s=60, quiet_s=2)
    return published, beside, afterwards, workers


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("protocol", "size"),
    [
        pytest.param("classic", HARD_CI, id="classic"),
        pytest.param("consumer", CLEAN_CI, id="consumer"),
        pytest.param("classic", FULL, id="classic-full", marks=pytest.mark.soak),
        pytest.param("consumer", FULL, id="consumer-full", marks=pytest.mark.soak),
    ],
)
def test_every_number_is_answered_once_whatever_dies(
    protocol: str, size: Size, trio: KafkaCluster, deliver: MakeDelivery
) -> None:
    """Kafka's own system test of exactly once."""
    delivery = deliver(trio, size.partitions)
    published, beside, afterwards, workers = storm(delivery, trio, protocol, size)
    assert published == size.count
    assert faults(beside, published) == {}
    assert faults(afterwards, published) == {}
    for worker in workers:
        worker.leave()


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("mutant", "protocol"), [("no_rewind", "classic"), ("no_rewind", "consumer"), ("early_commit", "classic")]
)
def test_the_test_finds_a_worker_that_breaks_the_promise(
    mutant: str, protocol: str, single: KafkaCluster, deliver: MakeDelivery
) -> None:
    """A test of the test: without the rewind, or with offsets committed too early, answers are missing."""
    published, beside, _, _ = storm(deliver(single, 4), single, protocol, OF_A_MUTANT, mutant)
    assert faults(beside, published)["missing"] > 0


def members(delivery: Delivery) -> int:
    """How many the group has."""
    admin = AdminClient({"bootstrap.servers": delivery.servers})
    return len(admin.describe_consumer_groups([delivery.group])[delivery.group].result(30).members)


@pytest.mark.timeout(400)
def test_a_zombie_publishes_nothing_that_readers_see_twice(single: KafkaCluster, deliver: MakeDelivery) -> None:
    """Stopped past the session timeout, and let go again while its successor is at work."""
    delivery = deliver(single, 4)
    zombie = delivery.worker("zombie", "exactly_once").start().await_ready()
    flow = Flow(delivery.servers, delivery.input_topic, 4, 1 << 30, 800)
    with read_along(delivery.reader()) as so_far:
        flow.start()
        await_answers(so_far, 500, PATIENCE_S)
        successor = delivery.worker("successor", "exactly_once").start().await_ready()
        await_that(lambda: members(delivery) == 2 and successor.said("assigned ") > 0, "the group has no second member")
        await_answers(so_far, len(so_far().times) + 1_000, PATIENCE_S)
        zombie.process.suspend()
        await_that(lambda: members(delivery) == 1, "the group waits for the zombie")
        await_answers(so_far, len(so_far().times) + 1_000, PATIENCE_S)
        zombie.process.resume()
        await_that(lambda: zombie.said("lost "), "the zombie did not notice")
        await_answers(so_far, len(so_far().times) + 1_000, PATIENCE_S)
        published = flow.stop()
        answers = await_answers(so_far, published, PATIENCE_S)
        time.sleep(2)
    assert faults(answers, published) == {}
    zombie.leave()
    successor.leave()


@pytest.mark.timeout(400)
def test_two_workers_with_one_transactional_id_do_not_fight_for_ever(
    single: KafkaCluster, deliver: MakeDelivery
) -> None:
    """One of them gives up with exit code 4 and says why; the other answers everything."""
    delivery = deliver(single, 4)
    same = {"transactional_id": f"{delivery.group}-same"}
    workers = [delivery.worker(f"worker-{number}", "exactly_once", delivery=same).start() for number in range(2)]
    flow = Flow(delivery.servers, delivery.input_topic, 4, 1 << 30, 300)
    with read_along(delivery.reader()) as so_far:
        flow.start()
        await_that(lambda: any(worker.exit_code is not None for worker in workers), "they fight for ever")
        published = flow.stop()
        answers = await_answers(so_far, published, PATIENCE_S)
    assert faults(answers, published) == {}
    assert sorted(str(worker.exit_code) for worker in workers) == ["4", "None"]
    assert sum(worker.said("give every worker its own") for worker in workers) == 1
