"""Outages of the output, shorter and longer than an answer may wait, through a proxy that the workers alone use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.delivery.conftest import HURRY, PATIENCE_S, MakeDelivery, await_that
from tests.delivery.flow import Flow, await_answers, faults, read_along
from tests.delivery.proxy import Proxy
from tests.kafka_server import KafkaCluster
from tests.system.traffic import lag, publish, request

pytestmark = pytest.mark.broker

PARTITIONS = 4
COUNT = 400  # requests before the outage, and as many while it lasts
PRODUCE = 0  # Kafka's API key
PER_SECOND = 1_000
BATCHING = {"max_rows": 16}
FULL = 4 * BATCHING["max_rows"]  # records in flight, past which nothing is taken in
MOST = 600  # what is taken in at a time comes on top of that
MOST_OF_QUEUE = 1_200  # two fetches of 256, whatever FULL is; Kafka does not cut what the producer sent as one batch
SHORT = {"message.timeout.ms": 2_000}


@contextmanager
def outage(proxy: Proxy) -> Iterator[None]:
    """No answer gets to the node; all else does, as long as nobody makes the proxy silent."""
    proxy.met_bar, proxy.barred = 0, frozenset((PRODUCE,))
    try:
        yield
    finally:
        if proxy.is_silent:
            proxy.cut()  # what it holds does not come late
        proxy.is_silent, proxy.barred = False, frozenset()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("goes_silent", [False, True], ids=["output", "everything"])
def test_an_answer_that_waits_too_long_ends_the_process_and_its_record_is_not_committed(
    goes_silent: bool, wire: tuple[KafkaCluster, Proxy], deliver: MakeDelivery
) -> None:
    """at_least_once: exit code 4, and one line that says why; a successor answers what is left."""
    cluster, proxy = wire
    delivery = deliver(cluster, PARTITIONS)

    def behind(published: int) -> int:
        return lag(delivery.servers, delivery.group, [published // PARTITIONS] * PARTITIONS)

    worker = delivery.worker(
        "worker",
        "at_least_once",
        servers=f"127.0.0.1:{proxy.port}",
        kafka={"client": HURRY, "producer": SHORT},
        delivery={"commit_interval_ms": 50},
    ).start()
    worker.await_ready()
    publish(delivery.servers, delivery.input_topic, map(request, range(COUNT)), PARTITIONS)
    await_that(lambda: behind(COUNT) == 0, "the first ones are not answered")
    with outage(proxy):
        publish(delivery.servers, delivery.input_topic, map(request, range(COUNT, 2 * COUNT)), PARTITIONS)
        if goes_silent:
            await_that(lambda: proxy.met_bar > 2 or worker.exit_code is not None, "no answer was sent again")
            proxy.is_silent = True
        assert worker.await_end() == 4
        assert behind(2 * COUNT) == COUNT
    assert worker.said(f"topic {delivery.output_topic} did not take the answer to {delivery.input_topic}/") == 1
    assert worker.said("nothing was committed for it") == 1
    assert worker.said("Traceback") == 0

    reader = delivery.reader()
    assert faults(reader.read(until=COUNT, timeout_s=PATIENCE_S, quiet_s=1), COUNT) == {}
    assert len(reader.answers.times) == COUNT
    successor = delivery.worker("successor", "at_least_once").start()
    assert faults(reader.read(until=2 * COUNT, timeout_s=PATIENCE_S, quiet_s=1), 2 * COUNT) == {}
    await_that(lambda: behind(2 * COUNT) == 0, "the successor does not commit")
    successor.await_ready().leave()


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("mode", "producer"),
    [
        pytest.param("at_least_once", {}, id="at_least_once"),
        pytest.param("exactly_once", {}, id="exactly_once"),
        pytest.param("queue", {}, id="queue"),
        pytest.param("exactly_once", SHORT, id="exactly_once-again-and-again"),
    ],
)
def test_intake_waits_for_the_output_to_come_back_and_nothing_is_lost(
    mode: str, producer: dict[str, Any], wire: tuple[KafkaCluster, Proxy], deliver: MakeDelivery
) -> None:
    """The process lives on, and takes in no more than fits; where a transaction does not wait, it is done again."""
    cluster, proxy = wire
    most = MOST_OF_QUEUE if mode == "queue" else MOST
    delivery = deliver(cluster, PARTITIONS)
    worker = delivery.worker(
        "worker",
        mode,
        servers=f"127.0.0.1:{proxy.port}",
        kafka={"client": HURRY, "producer": producer},
        batching=BATCHING,
        delivery={"max_in_flight_batches": FULL // BATCHING["max_rows"], "max_attempts": 100},
    ).start()
    worker.await_ready()

    def in_flight() -> int:
        return int(worker.status()["delivery"]["in_flight"])

    flow = Flow(delivery.servers, delivery.input_topic, PARTITIONS, 1 << 30, PER_SECOND)
    with read_along(delivery.reader()) as so_far:
        flow.start()
        await_answers(so_far, PER_SECOND, PATIENCE_S)
        with outage(proxy):
            await_that(lambda: proxy.met_bar, "no answer was sent")
            asked = flow.published
            await_that(lambda: flow.published >= asked + 2 * most, "nobody asks")
            if mode != "queue":
                await_that(lambda: in_flight() >= FULL, "it takes in nothing")
            assert in_flight() <= most
            answered = len(so_far().times)
            if producer:
                await_that(lambda: worker.said("the producer was replaced") >= 2, "no transaction is done again")
            assert len(so_far().times) == answered
            assert worker.exit_code is None
        published = flow.stop()
        answers = await_answers(so_far, published, PATIENCE_S)
        await_that(lambda: in_flight() == 0, "something is not settled")
    found = faults(answers, published)
    if mode == "queue":
        found.pop("out of order", None)
        found.pop("duplicates", None)
    assert found == {}
    worker.leave()


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("producer", "is_refused"),
    [({"message.timeout.ms": 60_000}, True), ({"message.timeout.ms": 60_000, "transaction.timeout.ms": 60_000}, False)],
    ids=["alone", "both"],
)
def test_a_transaction_waits_for_none_of_its_answers_longer_than_it_may_last(
    producer: dict[str, Any], is_refused: bool, wire: tuple[KafkaCluster, Proxy], deliver: MakeDelivery
) -> None:
    """exactly_once: the client library refuses it, and one line names both keys."""
    worker = deliver(wire[0], 1).worker("worker", "exactly_once", kafka={"producer": producer}).start()
    if not is_refused:
        worker.await_ready().leave()
        return
    assert worker.await_end() == 2
    assert worker.said("message.timeout.ms") == worker.said("transaction.timeout.ms") == 1
    assert worker.said("Traceback") == 0
