"""Clients that have lost the cluster for good are replaced, at work, and the engine stays loaded."""

from __future__ import annotations

import time

import pytest

from tests.delivery.conftest import PARTITIONS, PATIENCE_S, MakeDelivery, await_that
from tests.delivery.flow import Flow, await_answers, faults, read_along
from tests.kafka_server import KafkaCluster
from tests.system.traffic import lag

pytestmark = pytest.mark.broker

PER_SECOND = 200
LOSSES = 2  # of each client
LOST = "has lost the cluster for good"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("mode", "clients"),
    [
        ("at_least_once", ["consumer", "producer"]),
        ("exactly_once", ["consumer", "producer"]),
        ("exactly_once", ["producer"]),
        ("queue", ["consumer-0", "consumer-1", "producer"]),
    ],
)
def test_a_lost_client_is_replaced(mode: str, clients: list[str], single: KafkaCluster, deliver: MakeDelivery) -> None:
    """Each of them twice, in the middle of a flow."""
    delivery = deliver(single, PARTITIONS)
    worker = delivery.worker("worker", mode, options={"lose": clients}, delivery={"max_attempts": 100})
    worker.start().await_ready()
    flow = Flow(delivery.servers, delivery.input_topic, PARTITIONS, 1 << 30, PER_SECOND)
    with read_along(delivery.reader()) as so_far:
        flow.start()
        await_that(  # one that was not replaced would be found lost only once
            lambda: all(worker.said(f"the {client} {LOST}") >= LOSSES for client in clients), "not all are replaced"
        )
        published = flow.stop()
        answers = await_answers(so_far, published, PATIENCE_S)
        time.sleep(1)
    assert worker.exit_code is None, "nobody was to start it again"
    found = faults(answers, published)
    if mode != "exactly_once":
        found.pop("duplicates", None)
    if mode == "queue":
        found.pop("out of order", None)
    assert found == {}
    if mode != "queue":
        ends = [published // PARTITIONS + (number < published % PARTITIONS) for number in range(PARTITIONS)]
        await_that(lambda: lag(delivery.servers, delivery.group, ends) == 0, "what is answered is not committed")
    worker.leave()
