"""Faults on the wire, through a proxy that the workers alone use."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from tests.delivery.conftest import PATIENCE_S, QUICK, MakeDelivery, await_that
from tests.delivery.flow import Flow, await_answers, faults, read_along
from tests.delivery.proxy import Proxy, Strike
from tests.kafka_server import KafkaCluster, free_ports

pytestmark = pytest.mark.broker

HURRY = {"socket.timeout.ms": 3_000, "reconnect.backoff.max.ms": 500}
FAULTS = ("delay", "cut", "silence")
OFFSET_COMMIT, ADD_OFFSETS, END, OFFSETS_OF_TRANSACTION, SHARE_ACKNOWLEDGE = 8, 25, 26, 28, 79  # Kafka's API keys
COMMITS = {
    "at_least_once": (OFFSET_COMMIT,),
    "exactly_once": (END, OFFSETS_OF_TRANSACTION, ADD_OFFSETS),
    "queue": (SHARE_ACKNOWLEDGE,),
}


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[KafkaCluster, Proxy]]:
    """One node with a second listener that is advertised with the proxy's port."""
    (port,) = free_ports(1)
    directory = tmp_path_factory.mktemp("wire")
    cluster = KafkaCluster(directory, properties=QUICK, listeners={"FAULTY": "PLAINTEXT"})
    node = cluster.nodes[0]
    settings = node.log.parent / "server.properties"
    direct = f"FAULTY://127.0.0.1:{node.ports['FAULTY']}"
    lines = settings.read_text().splitlines()
    changed = [
        line.replace(direct, f"FAULTY://127.0.0.1:{port}") if line.startswith("advertised.listeners") else line
        for line in lines
    ]
    assert changed != lines
    settings.write_text("\n".join(changed) + "\n")
    with cluster, Proxy(port, node.ports["FAULTY"]) as proxy:
        yield cluster, proxy


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
    assert found == {}
    for worker in workers:
        worker.leave()
