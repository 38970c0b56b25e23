"""Faults on the wire, through a proxy that the workers alone use."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from tests.delivery.conftest import HURRY, PATIENCE_S, MakeDelivery, await_that
from tests.delivery.flow import Flow, await_answers, faults, read_along
from tests.delivery.proxy import Proxy, Strike
from tests.kafka_server import KafkaCluster
from tests.system.traffic import lag, publish, request

pytestmark = pytest.mark.broker

FOR_EVER_S = 600.0  # longer than any test
FAULTS = ("delay", "cut", "silence")
PRODUCE, OFFSET_COMMIT, SHARE_ACKNOWLEDGE = 0, 8, 79  # Kafka's API keys
ADD_OFFSETS, END, OFFSETS_OF_TRANSACTION = 25, 26, 28
COMMITS = {
    "at_least_once": (OFFSET_COMMIT,),
    "exactly_once": (END, OFFSETS_OF_TRANSACTION, ADD_OFFSETS),
    "queue": (SHARE_ACKNOWLEDGE,),
}


def trouble(proxy: Proxy, seconds: float) -> None:
    """One fault after the other, at random moments."""
    rng = random.Random(3)
    give_up_s = time.monotonic() + seconds
    number = 0
    while time.monotonic() < give_up_s:
        time.sleep(rng.uniform(0.3, 0.9))
        match FAULTS[number % len(FAULTS)]:
            case "delay":
                proxy.delay_s = 0.4
                time.sleep(1.5)
                proxy.delay_s = 0.0
            case "cut":
                proxy.cut()
            case _:
                proxy.is_silent = True
                time.sleep(rng.choice((0.5, 4.0)))
                proxy.cut()
                proxy.is_silent = False
        number += 1


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("mode", "seconds", "rounds"),
    [
        ("at_least_once", 8.0, 1),
        ("exactly_once", 8.0, 1),
        ("queue", 8.0, 1),
        pytest.param("at_least_once", 60.0, 8, marks=pytest.mark.soak),
        pytest.param("exactly_once", 60.0, 8, marks=pytest.mark.soak),
        pytest.param("queue", 60.0, 8, marks=pytest.mark.soak),
    ],
)
def test_faults_on_the_wire_lose_nothing(
    mode: str, seconds: float, rounds: int, wire: tuple[KafkaCluster, Proxy], deliver: MakeDelivery
) -> None:
    """At random moments, and at each step of a commit; exactly_once: and nothing is there twice."""
    cluster, proxy = wire
    delivery = deliver(cluster, 4)
    servers = f"127.0.0.1:{proxy.port}"
    workers = [
        delivery.worker(
            f"worker-{number}",
            mode,
            servers=servers,
            kafka={"client": HURRY},
            delivery={"max_attempts": 100},  # who is expelled at work looks like one who died
        ).start()
        for number in range(2)
    ]
    for worker in workers:
        worker.await_ready()
    flow = Flow(delivery.servers, delivery.input_topic, 4, 1 << 30, 500)
    with read_along(delivery.reader()) as so_far:
        flow.start()
        await_answers(so_far, 500, PATIENCE_S)
        proxy.struck.clear()
        strikes = [Strike(request, how) for how in ("before", "after", "silent") for request in COMMITS[mode]]
        proxy.strikes.extend(strikes * rounds)
        await_that(lambda: not proxy.strikes, f"no commit met {proxy.strikes}", 2 * PATIENCE_S)
        assert proxy.struck == strikes * rounds
        trouble(proxy, seconds)
        published = flow.stop()
        answers = await_answers(so_far, published, PATIENCE_S)
        time.sleep(1)
    found = faults(answers, published)
    if mode != "exactly_once":
        found.pop("duplicates", None)
    if mode == "queue":
        found.pop("out of order", None)
        # faults may meet a record again and again
        assert found.pop("refused", 0) <= sum(worker.said("times and never accepted") for worker in workers)
    assert found == {}
    for worker in workers:
        worker.leave()


COUNT = 400


def killed_with_answers_on_their_way(
    cluster: KafkaCluster, proxy: Proxy, deliver: MakeDelivery, mutant: str | None
) -> tuple[int, dict[str, Any]]:
    """A worker dies whose answers to the last COUNT records left it, and stay in the proxy.

    Returns:
        How many of them were not committed by then, and what is wrong when its successor has done what is left.
    """
    delivery = deliver(cluster, 4)

    def behind(published: int) -> int:
        return lag(delivery.servers, delivery.group, [published // 4] * 4)

    worker = delivery.worker(
        "worker",
        "at_least_once",
        servers=f"127.0.0.1:{proxy.port}",
        options={"mutant": mutant},
        kafka={"client": {"socket.timeout.ms": 300_000}},  # it goes on waiting for the answer to what it sent
        delivery={"commit_interval_ms": 50},
    ).start()
    worker.await_ready()
    publish(delivery.servers, delivery.input_topic, map(request, range(COUNT)), 4)
    await_that(lambda: behind(COUNT) == 0, "the first ones are not answered")
    proxy.struck.clear()
    proxy.strikes.append(Strike(PRODUCE, "silent"))
    publish(delivery.servers, delivery.input_topic, map(request, range(COUNT, 2 * COUNT)), 4)
    await_that(lambda: proxy.struck, "no answer was sent")
    await_that(lambda: worker.status()["records"]["taken"] == 2 * COUNT, "it does not take in the rest")
    if mutant:
        await_that(lambda: behind(2 * COUNT) == 0, "the mutant commits nothing")
    else:
        time.sleep(1)  # twenty times the commit interval
    worker.kill()
    uncommitted = behind(2 * COUNT)
    successor = delivery.worker("successor", "at_least_once").start()
    await_that(lambda: behind(2 * COUNT) == 0, "the successor does not do what is left")
    expected = COUNT if mutant else 2 * COUNT  # there may be more: it goes on reading until nothing comes
    found = faults(delivery.reader().read(until=expected, timeout_s=60, quiet_s=2), 2 * COUNT)
    successor.await_ready().leave()
    return uncommitted, found


@pytest.mark.timeout(400)
def test_an_answer_that_never_reached_the_broker_is_given_again(
    wire: tuple[KafkaCluster, Proxy], deliver: MakeDelivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """at_least_once: what is on its way is not committed."""
    monkeypatch.setattr("tests.delivery.proxy.HALF_OPEN_S", FOR_EVER_S)
    uncommitted, found = killed_with_answers_on_their_way(*wire, deliver, mutant=None)
    assert uncommitted == COUNT
    assert found == {}


@pytest.mark.timeout(400)
def test_the_test_finds_a_worker_that_does_not_wait_for_the_broker(
    wire: tuple[KafkaCluster, Proxy], deliver: MakeDelivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test of the test: with offsets committed when the answers are sent, answers are missing."""
    monkeypatch.setattr("tests.delivery.proxy.HALF_OPEN_S", FOR_EVER_S)
    uncommitted, found = killed_with_answers_on_their_way(*wire, deliver, mutant="unacknowledged")
    assert uncommitted == 0
    assert found["missing"] == COUNT
