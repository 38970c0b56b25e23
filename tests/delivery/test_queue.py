"""queue: more workers than partitions."""

from __future__ import annotations

import time

import pytest

from tests.delivery.conftest import QUICK, MakeDelivery
from tests.delivery.flow import Flow, await_answers, faults, read_along
from tests.kafka_node import KafkaNode
from tests.kafka_server import KafkaCluster

pytestmark = pytest.mark.broker


@pytest.mark.timeout(180)
def test_six_workers_share_two_partitions_and_one_may_die(single: KafkaCluster, deliver: MakeDelivery) -> None:
    """None has less than half of the mean; every record is answered."""
    delivery = deliver(single, 2)
    workers = [delivery.worker(f"worker-{number}", "queue").start() for number in range(6)]
    for worker in workers:
        worker.await_ready()
    time.sleep(8)  # members of a share group learn their partitions by heartbeats
    flow = Flow(delivery.servers, delivery.input_topic, 2, 12_000, 600)
    with read_along(delivery.reader()) as so_far:
        flow.start()
        await_answers(so_far, 7_000, 60)
        shares = [worker.status()["records"]["settled"] for worker in workers]
        workers[0].kill()
        published = flow.join()
        answers = await_answers(so_far, published, 60)
        time.sleep(1)
    found = faults(answers, published)
    found.pop("out of order", None)
    found.pop("duplicates", None)
    assert found == {}
    assert min(shares) >= sum(shares) / len(shares) / 2, shares
    assert [worker.terminate() for worker in workers[1:]] == [0] * 5


@pytest.mark.timeout(120)
def test_a_cluster_without_share_groups_is_refused_with_exit_4(
    tmp_path_factory: pytest.TempPathFactory, deliver: MakeDelivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line that says what is missing."""
    java = KafkaNode._java

    def without_shares(node: KafkaNode, *arguments: str) -> list[str]:
        return java(node, *arguments, *(("--feature", "share.version=0") if "format" in arguments else ()))

    monkeypatch.setattr(KafkaNode, "_java", without_shares)
    with KafkaCluster(tmp_path_factory.mktemp("old"), properties=QUICK) as cluster:
        delivery = deliver(cluster, 2)
        worker = delivery.worker("worker", "queue").start()
        deadline_s = time.monotonic() + 40
        while worker.exit_code is None and time.monotonic() < deadline_s:
            time.sleep(0.1)
    assert worker.exit_code == 4
    assert worker.said("no share groups") == 1
    assert worker.said("Traceback") == 0
