"""queue: more workers than partitions."""

from __future__ import annotations

import time

import pytest

from tests.delivery.conftest import PATIENCE_S, QUICK, MakeDelivery, await_that
from tests.delivery.flow import Flow, await_answers, faults, read_along
from tests.kafka_node import KafkaNode
from tests.kafka_server import KafkaCluster

pytestmark = pytest.mark.broker

WORKERS = 6
PER_SECOND = 600


@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", [12_000, pytest.param(60_000, marks=pytest.mark.soak)])
def test_six_workers_share_two_partitions_and_one_may_die(
    count: int, single: KafkaCluster, deliver: MakeDelivery
) -> None:
    """None has less than half of the mean; every record is answered."""
    delivery = deliver(single, 2)
    workers = [delivery.worker(f"worker-{number}", "queue").start() for number in range(WORKERS)]
    for worker in workers:
        worker.await_ready()

    def settled() -> list[int]:
        return [worker.status()["records"]["settled"] for worker in workers]

    flow = Flow(delivery.servers, delivery.input_topic, 2, 1 << 30, PER_SECOND)
    with read_along(delivery.reader()) as so_far:
        flow.start()
        await_that(lambda: min(settled()), "a member gets nothing")
        before = settled()
        await_answers(so_far, sum(before) + count, 2 * PATIENCE_S)
        shares = [now - then for now, then in zip(settled(), before, strict=True)]
        workers[0].kill()
        await_answers(so_far, len(so_far().times) + PER_SECOND, PATIENCE_S)
        published = flow.stop()
        answers = await_answers(so_far, published, PATIENCE_S)
        time.sleep(1)
    found = faults(answers, published)
    found.pop("out of order", None)
    found.pop("duplicates", None)
    assert found == {}
    assert answers.errors == {}
    assert min(shares) >= sum(shares) / WORKERS / 2, shares
    for worker in workers[1:]:
        worker.leave()


@pytest.mark.soak
@pytest.mark.timeout(240)
def test_a_worker_ends_in_order_without_a_broker(single: KafkaCluster, deliver: MakeDelivery) -> None:
    """Within its deadlines: the drain's, the commit's, and the leaving's."""
    delivery = deliver(single, 2)
    worker = delivery.worker("worker", "queue", delivery={"drain_timeout_s": 2}).start().await_ready()
    flow = Flow(delivery.servers, delivery.input_topic, 2, 1 << 30, PER_SECOND)
    with read_along(delivery.reader()) as so_far:
        flow.start()
        await_answers(so_far, PER_SECOND, PATIENCE_S)
        flow.stop()
    single.kill()
    began_s = time.monotonic()
    worker.leave()
    assert time.monotonic() - began_s < 40


@pytest.mark.timeout(240)
def test_a_cluster_without_share_groups_is_refused_with_exit_4(
    tmp_path_factory: pytest.TempPathFactory, deliver: MakeDelivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line that says what is missing."""
    java = KafkaNode._java

    def without_shares(node: KafkaNode, *arguments: str) -> list[str]:
        return java(node, *arguments, *(("--feature", "share.version=0") if "format" in arguments else ()))

    monkeypatch.setattr(KafkaNode, "_java", without_shares)
    with KafkaCluster(tmp_path_factory.mktemp("old"), properties=QUICK) as cluster:
        worker = deliver(cluster, 2).worker("worker", "queue").start()
        assert worker.await_end() == 4
    assert worker.said("no share groups") == 1
    assert worker.said("Traceback") == 0
